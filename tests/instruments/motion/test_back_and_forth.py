import math

import numpy as np
import pytest
import torch
from tests.training_toys import bowl_run, classifier, sgd_bowl

from geartrain import instruments

CURVATURES = [4.0, 1.0, 0.25, 0.1]


@pytest.mark.parametrize(("lr", "share"), [(0.1, 0.0), (0.245, 0.0), (0.255, 1.0), (0.45, 1.0)])
def test_the_top_mode_alternates_if_and_only_if_step_times_curvature_exceeds_one(lr, share):
    result = instruments.back_and_forth(sgd_bowl(CURVATURES, lr=lr), steps=8, tol=1e-6)
    assert float(result) == share
    assert result.details["lr_times_sharpness"] == pytest.approx(4 * lr, rel=1e-6)
    assert result.details["expected"] == pytest.approx(share)


def test_projections_follow_the_factor_one_minus_step_times_curvature():
    result = instruments.back_and_forth(sgd_bowl(CURVATURES, lr=0.3), steps=6, tol=1e-8)
    along = result.details["projections"]
    np.testing.assert_allclose(along[1:] / along[:-1], 1 - 0.3 * 4.0, rtol=1e-6)
    assert result.details["cosine"] == pytest.approx(-0.2, rel=1e-6)


def test_the_share_of_length_is_that_of_the_mode():
    run = sgd_bowl(CURVATURES, lr=0.1, start=[1.0, 0.0, 0.0, 0.0])
    assert instruments.back_and_forth(run, tol=1e-8).details["length_share"] == pytest.approx(1.0)
    run = sgd_bowl(CURVATURES, lr=0.1, start=[0.0, 1.0, 1.0, 1.0])
    assert instruments.back_and_forth(run, tol=1e-8).details["length_share"] < 1e-6


@pytest.mark.parametrize("nesterov", [False, True])
def test_with_momentum_the_angle_of_the_roots_sets_the_share(nesterov):
    run = bowl_run([1.0], lambda p: torch.optim.SGD(p, lr=0.3, momentum=0.95, nesterov=nesterov))
    run.advance(5)
    result = instruments.back_and_forth(run, steps=200)
    expected = result.details["expected"]
    assert 0 < expected < 1
    # A wave of that frequency crosses zero within one step of expected * 199.
    assert float(result) == pytest.approx(expected, abs=1.5 / 199)
    if not nesterov:
        assert expected == pytest.approx(math.acos((1 + 0.95 - 0.3) / (2 * math.sqrt(0.95))) / math.pi)


def test_unknown_optimizers_are_refused_in_a_sentence():
    run = classifier()
    run.replace_optimizer(torch.optim.Rprop(run.model.parameters()))
    result = instruments.back_and_forth(run)
    assert not result.status.usable
    assert "Rprop" in result.status.sentence

"""The landscape of principal components: index and loss of every critical point, every instrument."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part, assert_draws

from geartrain.errors import InputError
from geartrain.zoo.curvature.pca_landscape import PcaLandscape


def test_all_fifteen_critical_points():
    toy = PcaLandscape()
    assert len(toy.subsets()) == 15
    for learnt in toy.subsets():
        point = replace(toy, learnt=learnt)
        objective = point.objective
        hessian = objective.hvp(torch.eye(objective.num_params, dtype=torch.float64)).numpy()
        assert float(objective.value()) == pytest.approx(point.loss, abs=1e-9)
        assert float(objective.gradient().norm()) < 1e-12
        np.testing.assert_allclose(np.linalg.eigvalsh(hessian)[::-1], point.eigenvalues, atol=1e-9)
        assert (point.eigenvalues < -1e-9).sum() == point.index


def test_only_the_best_components_are_a_minimum():
    toy = PcaLandscape(strengths=(3.0, 2.5, 1.0, 0.4, 0.2), hidden=2)
    assert [j for j in toy.subsets() if replace(toy, learnt=j).index == 0] == [(0, 1)]


def test_every_instrument_meets_its_truth():
    assert_agrees(PcaLandscape())


@pytest.mark.parametrize("learnt", [(0, 1, 2), (), (3,)])
def test_other_critical_points_are_met_too(learnt):
    assert_agrees(
        PcaLandscape(learnt=learnt), ["hessian_spectrum", "hessian_spectrum.index", "jacobian_rank"]
    )
    assert_agrees_in_part(PcaLandscape(learnt=learnt))


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    count = int(draw.integers(3, 6))
    strengths = tuple(float(s) for s in np.cumsum(draw.uniform(0.3, 1.0, count))[::-1])
    hidden = int(draw.integers(1, count))
    learnt = tuple(int(i) for i in draw.choice(count, int(draw.integers(0, hidden + 1)), replace=False))
    assert_agrees_in_part(PcaLandscape(strengths=strengths, hidden=hidden, learnt=learnt, seed=seed))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"strengths": (1.0, 1.0)}, "the largest first, no two equal"),
        ({"hidden": 4}, "hidden is 4; allowed: 1 to 3"),
        ({"learnt": (0, 0)}, "at most 3 different places from 0 to 3"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        PcaLandscape(**wrong)


def test_it_can_be_drawn():
    assert_draws(PcaLandscape())

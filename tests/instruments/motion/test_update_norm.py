import numpy as np
import pytest
import torch
from tests.training_toys import classifier, sgd_bowl

from geartrain import instruments


def test_it_is_the_step_size_times_the_gradient():
    run = sgd_bowl([2.0], lr=0.1)
    result = instruments.update_norm(run, steps=5)
    expected = 0.1 * 2.0 * 0.8 ** np.arange(5)
    np.testing.assert_allclose(result.details["norms"], expected, rtol=1e-12)
    assert float(result) == pytest.approx(expected.mean())
    assert float(result.standard_error) == pytest.approx(expected.std(ddof=1) / np.sqrt(5))
    assert result.details["relative"] == pytest.approx(expected.mean() / 1.0)


def test_it_is_proportional_to_the_step_size_for_one_step():
    values = []
    for lr in (0.01, 0.02):
        run = classifier(lr=lr)
        values.append(float(instruments.update_norm(run, steps=1)))
    assert values[1] == pytest.approx(2 * values[0], rel=1e-4)


def test_straight_on_is_efficient_and_turning_back_is_not():
    assert instruments.update_norm(sgd_bowl([1.0], lr=0.1)).details["path_efficiency"] == pytest.approx(1.0)
    assert instruments.update_norm(sgd_bowl([1.0], lr=1.9999)).details["path_efficiency"] < 0.01


def test_a_step_size_of_zero_moves_nothing():
    run = sgd_bowl([1.0], lr=0.0)
    assert float(instruments.update_norm(run)) == 0.0
    assert float(instruments.update_ratio(run).value[0]) == 0.0
    assert not instruments.update_cosine(run).status.usable
    assert not instruments.back_and_forth(run).status.usable
    assert not instruments.predicted_decrease(run).status.usable
    assert not instruments.step_length_gauge(run).status.usable


def test_a_window_can_be_handed_in():
    from geartrain.instruments import _window

    run = classifier()
    taken = _window.window(run, 3)
    assert len(instruments.update_norm(run, window=taken).details["norms"]) == 3
    assert torch.isfinite(taken.updates).all()

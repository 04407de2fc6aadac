import numpy as np
import pytest
import torch
from tests.training_toys import bowl_run, classifier, sgd_bowl

from geartrain import instruments


@pytest.mark.parametrize("lr", [1e-3, 0.25, 0.5, 0.99, 1.25])
def test_gradient_descent_on_a_parabola_gives_one_minus_half_step_times_curvature(lr):
    result = instruments.predicted_decrease(sgd_bowl([2.0], lr=lr), steps=4)
    assert float(result) == pytest.approx(1 - lr * 2.0 / 2, rel=1e-6, abs=1e-9)
    np.testing.assert_allclose(result.details["ratios"], 1 - lr, rtol=1e-5, atol=1e-9)
    assert result.details["share_uphill_loss"] == (1.0 if lr > 1 else 0.0)


def test_several_modes_weigh_by_their_gradients():
    curvatures, start, lr = np.array([3.0, 1.0, 0.2]), np.array([0.5, 1.0, 2.0]), 0.3
    result = instruments.predicted_decrease(sgd_bowl(curvatures, lr, start), steps=1)
    g = curvatures * start
    assert float(result) == pytest.approx(1 - lr / 2 * (g @ (curvatures * g)) / (g @ g), rel=1e-9)


def test_the_second_order_is_exact_on_parabolas_whatever_the_optimizer():
    run = bowl_run([3.0, 1.0], lambda p: torch.optim.Adam(p, lr=0.05))
    result = instruments.predicted_decrease(run)
    assert result.details["second_order_gap"] == pytest.approx(0.0, abs=1e-9)


def test_it_is_one_for_tiny_steps_within_its_own_error():
    result = instruments.predicted_decrease(classifier(lr=1e-4))
    assert abs(float(result) - 1) < 4 * float(result.standard_error) + 1e-2


def test_rounding_of_single_precision_is_in_the_error():
    result = instruments.predicted_decrease(classifier(lr=1e-9))
    assert float(result.standard_error) > 0.1


def test_going_uphill_on_purpose_has_no_prediction():
    result = instruments.predicted_decrease(sgd_bowl([-1.0 + 2.0], lr=0.1, maximize=True))
    assert not result.status.usable
    assert "downhill" in result.status.sentence

"""The edge of stability: derivatives by hand, the band, the control, divergence, every instrument."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part, assert_draws

from geartrain import instruments, zoo
from geartrain.errors import GeartrainError, InputError
from geartrain.objective import Objective
from geartrain.zoo._losses import half_square
from geartrain.zoo.curvature.edge_of_stability import EdgeOfStability


def test_derivatives_by_hand_are_autograds():
    toy = EdgeOfStability(hidden=6, examples=10, steps=50, gain=1.5)
    dense = toy.objective.hvp(torch.eye(toy.objective.num_params, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(toy.now.hessian, dense, atol=1e-12)
    np.testing.assert_allclose(toy.now.gradient, toy.objective.gradient().numpy(), atol=1e-13)
    np.testing.assert_allclose(toy.now.jacobian.T @ toy.now.residuals / 10, toy.now.gradient, atol=1e-13)


def test_descent_by_hand_is_pytorchs():
    toy = EdgeOfStability(hidden=5, examples=10, steps=0)
    toy.run.advance(30)
    trained = np.concatenate([p.detach().numpy().ravel() for p in toy.run.model.parameters()])
    np.testing.assert_allclose(trained, toy.start.descend(toy.step, 30).flat, atol=1e-12)


@pytest.mark.parametrize(("step", "gain", "seed"), [(0.4, 0.8, 1)])
def test_after_the_sharpening_it_stays_in_the_band(step, gain, seed):
    net = EdgeOfStability(step=step, gain=gain, steps=1500, seed=seed).now
    found = []
    for _ in range(6):
        found.append(step * net.sharpness / 2)
        net = net.descend(step, 70)
    assert np.median(found) == pytest.approx(1, abs=0.1)
    assert max(found) < 1.25
    assert net.loss < 0.13  # and it goes on learning


def test_the_control_stays_below_one_half():
    net = EdgeOfStability(step=0.02, steps=0).now
    for _ in range(4):
        net = net.descend(0.02, 500)
        assert 0.02 * net.sharpness / 2 < 0.5


def test_a_start_far_above_the_threshold_diverges():
    with pytest.raises(InputError, match="diverges within 1500 steps: its sharpness at the start is"):
        EdgeOfStability(step=2.0)


def test_nan_inputs_are_refused():
    toy = EdgeOfStability(hidden=4, examples=8, steps=0)
    x, y = toy.data()
    with pytest.raises(GeartrainError, match=r"(?i)nan|finite"):
        instruments.hessian_spectrum(Objective(toy.now.model(), half_square, (x * torch.nan, y)))


def test_every_instrument_meets_its_truth():
    assert_agrees(EdgeOfStability())


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    toy = EdgeOfStability(
        seed=seed,
        step=float(draw.uniform(0.05, 0.15)),
        steps=int(draw.integers(0, 300)),
        hidden=int(draw.integers(4, 9)),
        examples=2 * int(draw.integers(6, 25)),
        gain=float(draw.uniform(0.6, 1.2)),
    )
    assert_agrees_in_part(toy)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"step": 0.0}, "step is 0.0 and steps 1500; allowed: above 0 to 10"),
        ({"hidden": 100}, "allowed: 2 to 40 units, 6 to 100 examples, an even"),
        ({"gain": 0.0}, "gain is 0.0; allowed: 0.1 to 5"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        zoo.get("edge-of-stability", **wrong)


def test_it_can_be_drawn():
    assert_draws(EdgeOfStability(steps=0))

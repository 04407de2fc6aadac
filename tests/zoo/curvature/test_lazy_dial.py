"""The lazy dial: kernel regression as α grows, slopes of -1, every instrument."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part, assert_draws

from geartrain.errors import InputError
from geartrain.zoo.curvature.lazy_dial import LazyDial


def test_movement_and_drift_fall_as_one_over_alpha():
    alphas, moved, drift = np.array([30.0, 100.0, 300.0]), [], []
    for alpha in alphas:
        toy = LazyDial(alpha=alpha, examples=10)
        net, x = toy.train(toy._horizon), toy.drawn[0]
        before, after = toy.start.jacobian(x), net.jacobian(x)
        moved.append(np.linalg.norm(net.flat - toy.start.flat))
        drift.append(np.linalg.norm(after @ after.T - before @ before.T) / np.linalg.norm(before @ before.T))
    for fallen in (moved, drift):
        assert np.polyfit(np.log(alphas), np.log(fallen), 1)[0] == pytest.approx(-1, abs=0.1)


def test_the_end_is_kernel_regression():
    toy = LazyDial(alpha=300.0, examples=6)
    net = toy.train(12 * toy.examples / toy.kernel_modes[0][0])
    x, y = toy.drawn[0], toy.drawn[1][:, 0]
    new = torch.randn(50, toy.inputs, generator=torch.Generator().manual_seed(9), dtype=torch.float64).numpy()
    jacobian = toy.start.jacobian(x)
    kernel = toy.start.jacobian(new) @ jacobian.T @ np.linalg.solve(jacobian @ jacobian.T, y)
    found = toy.alpha * (net.outputs(new) - toy.start.outputs(new))
    assert np.linalg.norm(found - kernel) < 0.01 * np.linalg.norm(kernel)


def test_derivatives_by_hand_are_autograds():
    toy = LazyDial(alpha=2.0, hidden=20, examples=6)
    objective = toy.objective
    hessian = objective.hvp(torch.eye(objective.num_params, dtype=torch.float64)).numpy()
    assert toy.truth["hessian_trace"].value == pytest.approx(np.trace(hessian))
    np.testing.assert_allclose(toy.truth["hessian_diagonal"].value, np.diag(hessian), atol=1e-12)


def test_every_instrument_meets_its_truth():
    assert_agrees(LazyDial())


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    toy = LazyDial(
        seed=seed,
        alpha=float(np.exp(draw.uniform(1, 6))),
        inputs=int(draw.integers(3, 7)),
        hidden=int(draw.integers(16, 30)),
        examples=int(draw.integers(6, 20)),
    )
    assert_agrees_in_part(toy)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"alpha": 0.0}, "alpha is 0.0; allowed: 0.1 to 100000"),
        ({"examples": 2}, "5 to 100 examples"),
        ({"hidden": 4}, "twice as many weights as examples"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        LazyDial(**wrong)


def test_it_can_be_drawn():
    assert_draws(LazyDial())

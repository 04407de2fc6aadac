"""Dropout in a linear regression: the penalty, its minimum, both modes, every instrument."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part, assert_draws

from geartrain import zoo
from geartrain.errors import InputError
from geartrain.zoo.companions.dropout_regression import DropoutRegression


def test_the_average_over_all_masks_is_the_ridge():
    """By enumeration: 2³ masks for each of the examples, which do not mix in the mean."""
    toy = DropoutRegression(features=3, examples=12, keep=0.6)
    (x, y), w = toy.sample, np.array([0.3, -1.0, 2.0])
    total = 0.0
    for mask in product((0, 1), repeat=3):
        chance = 0.6 ** sum(mask) * 0.4 ** (3 - sum(mask))
        total += chance * 0.5 * ((x * np.array(mask) / 0.6 @ w - y) ** 2).mean()
    penalty = 0.4 / 0.6 * 0.5 * (w**2 @ (x**2).sum(0)) / 12
    assert total == pytest.approx(0.5 * ((x @ w - y) ** 2).mean() + penalty, rel=1e-12)


def test_the_averaged_loss_is_least_at_the_toys_weights():
    toy = DropoutRegression()
    objective = toy.averaged()
    assert float(objective.gradient().norm()) < 1e-13
    assert float(objective.value()) == pytest.approx(toy.averaged_loss, rel=1e-12)
    dense = objective.hvp(torch.eye(8, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(dense, toy.ridge, atol=1e-13)
    # Without dropout it is not at rest: what is left is the penalty's pull.
    np.testing.assert_allclose(toy.objective.gradient().numpy(), -toy.penalty * toy.weights, atol=1e-13)


def test_uncorrelated_inputs_are_shrunk_by_the_share_that_is_kept():
    toy = DropoutRegression(keep=0.6)
    (x, y), d = toy.sample, np.diag(np.diag(toy.moments))
    expected = np.linalg.solve(d + toy.odds * d, x.T @ y / len(y))
    np.testing.assert_allclose(expected, 0.6 * np.linalg.solve(d, x.T @ y / len(y)), rtol=1e-12)


def test_units_of_the_inputs_do_not_matter():
    toy = DropoutRegression()
    x, y = toy.sample
    scales = np.linspace(0.1, 10, 8)
    moments = (x * scales).T @ (x * scales) / len(y)
    ridge = moments + toy.odds * np.diag(np.diag(moments))
    np.testing.assert_allclose(
        np.linalg.solve(ridge, (x * scales).T @ y / len(y)) * scales, toy.weights, rtol=1e-9
    )


def test_training_with_dropout_ends_around_that_minimum():
    toy = DropoutRegression(keep=0.8, features=4, examples=60)
    run = toy.make_run()
    seen = []
    for _ in range(300):
        run.advance(1)
        seen.append(next(iter(run.model.parameters())).detach().numpy()[0].copy())
    # The means of six stretches of 50 steps are nearly independent.
    stretches = np.array(seen).reshape(6, 50, 4).mean(1)
    z = (stretches.mean(0) - toy.weights) / (stretches.std(0, ddof=1) / np.sqrt(6))
    assert np.abs(z).max() < 7  # Student's t with 5 degrees of freedom, four of them: 1 in 250


def test_every_instrument_meets_its_truth():
    assert_agrees(DropoutRegression())


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    toy = DropoutRegression(
        seed=seed,
        keep=float(draw.uniform(0.3, 0.95)),
        features=int(draw.integers(2, 9)),
        examples=int(draw.integers(30, 90)),
        correlation=float(draw.uniform(0, 0.8)),
        noise=float(draw.uniform(0.1, 1)),
    )
    assert_agrees_in_part(toy, set(toy.truth) - {"loss_plane"})


def test_without_dropout_it_is_least_squares():
    toy = replace(DropoutRegression(), keep=1.0)
    np.testing.assert_allclose(toy.weights, toy.plain.minimum[0], rtol=1e-9)
    assert_agrees(toy, {"hessian_spectrum", "ntk", "averaged_loss", "basin_volume"})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"keep": 0.0}, "keep is 0.0; allowed: 0.05 to 1"),
        ({"examples": 10}, "at least two examples for each"),
        ({"noise": 0.0}, "noise 0.0; allowed: 0 to 0.95, and above 0"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        zoo.get("dropout-regression", **wrong)


def test_it_can_be_drawn():
    assert_draws(DropoutRegression())

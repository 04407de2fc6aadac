"""Ridgeless regression: reference numbers, simulated fits on both sides of the peak, every instrument."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.zoo.agreement import assert_agrees, assert_draws

from geartrain import zoo
from geartrain.errors import InputError
from geartrain.zoo.risk.ridgeless_regression import RATIOS, RidgelessRegression

OWN = {"bias_variance", "double_descent", "smallest_singular_value"}
CHEAP = {"hessian_trace", "jacobian_rank", "example_losses", "gradient_flow", "constant_loss", "path_length"}


def test_the_reference_numbers():
    toys = [RidgelessRegression(features=round(200 * r)) for r in RATIOS]
    expected = [0.0629, 0.2525, 1.0256, 2.3684, 2.7225, 1.2204, 0.7513, 0.8335, 0.9107]
    assert [t.risk for t in toys] == pytest.approx(expected, abs=5.1e-5)


def test_the_finite_formula_tends_to_the_limit():
    for ratio in (0.5, 2.0):
        toy = RidgelessRegression(samples=500, features=round(500 * ratio))
        inside = 0.25 * ratio / (1 - ratio) if ratio < 1 else 1 - 1 / ratio + 0.25 / (ratio - 1)
        assert toy.risk == pytest.approx(inside, rel=5 / 500)


def test_gradient_descent_from_zero_finds_the_fit_of_least_norm():
    toy = RidgelessRegression(features=60, samples=30)
    model = replace(toy.linear, weights=np.zeros((1, 60)))
    weights = model.weights
    for _ in range(4000):
        weights = weights - toy.step * (model.inputs @ weights.T - model.targets).T @ model.inputs / 30
    np.testing.assert_allclose(weights, model.minimum, atol=1e-6)


def test_every_instrument_meets_its_truth():
    assert_agrees(RidgelessRegression())


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    samples = int(draw.integers(30, 80))
    features = samples + int(draw.integers(10, 40)) if seed % 2 else samples - int(draw.integers(10, 25))
    toy = RidgelessRegression(
        seed=seed,
        samples=samples,
        features=features,
        noise=draw.uniform(0.05, 1),
        signal=draw.uniform(0.2, 3),
    )
    assert_agrees(toy, OWN | CHEAP)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"samples": 5}, "allowed: 20 to 500 samples, 2 to 2000 features"),
        ({"features": 205}, "allowed: 10 or more apart"),
        ({"noise": 0.0}, "noise is 0.0, signal 1.0; allowed: numbers above 0"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        zoo.get("ridgeless-regression", **wrong)


def test_it_can_be_drawn():
    assert_draws(zoo.get("ridgeless-regression"))

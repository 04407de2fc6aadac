"""The pendulum: slopes of the law, the exact period, every instrument."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tests.zoo.agreement import assert_agrees, assert_draws

from geartrain import zoo
from geartrain.errors import InputError
from geartrain.zoo.companions.pendulum import GRAVITY, Pendulum

OWN = {"slopes", "slope_covariance", "period", "slope_at_any_amplitude"}
CHEAP = {"hessian_trace", "hessian_spectrum", "example_losses", "path_length", "jacobian_rank"}


def test_without_noise_the_fit_is_the_law():
    toy = Pendulum(noise=1e-12)
    np.testing.assert_allclose(toy.linear.minimum, [[0.5, 0.0]], atol=1e-11)


def test_small_swings_have_the_textbook_period():
    toy = Pendulum(amplitude=0.01)
    assert toy.period(2.0, 0.01) == pytest.approx(2 * math.pi * math.sqrt(2 / GRAVITY), rel=1e-5)
    assert toy.period(1.0, 0.4) / toy.period(1.0, 0.01) == pytest.approx(1 + 0.4**2 / 16, rel=1e-3)


def test_correlated_columns_inflate_the_variance():
    toy = Pendulum(correlation=0.9)
    length, mass = toy.variables.T
    together = (length @ mass) ** 2 / (length @ length) / (mass @ mass)
    alone = toy.noise**2 / (length @ length)
    assert toy.slope_covariance[0, 0] == pytest.approx(alone / (1 - together), rel=1e-12)
    assert together > 0.5


def test_every_instrument_meets_its_truth():
    assert_agrees(Pendulum())


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    toy = Pendulum(
        seed=seed,
        samples=int(draw.integers(20, 100)),
        noise=draw.uniform(0.01, 0.3),
        correlation=draw.uniform(-0.8, 0.8),
        amplitude=draw.uniform(0.1, 2.5),
    )
    assert_agrees(toy, OWN | CHEAP)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"samples": 2}, "samples is 2; allowed: 10 to 1000"),
        ({"correlation": 1.0}, "correlation 1.0; allowed"),
        ({"amplitude": 3.5}, "it stands on its head"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        zoo.get("pendulum", **wrong)


def test_it_can_be_drawn():
    assert_draws(zoo.get("pendulum"))

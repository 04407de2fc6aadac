"""Two-scale regression: two clocks, two valleys; the controls have one; every instrument."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from tests.zoo.agreement import assert_agrees, assert_draws

from geartrain import zoo
from geartrain.errors import InputError
from geartrain.zoo.risk.two_scale_regression import TwoScaleRegression

OWN = {"risk", "risk.parts"}
CHEAP = {"hessian_trace", "hessian_spectrum", "example_losses", "gradient_flow", "path_length", "weight_norm"}
TIMES = np.geomspace(0.1, 1e5, 200)


def test_the_solution_is_that_of_the_differential_equation():
    toy = TwoScaleRegression(samples=30, strong=4, weak=2)
    targets = toy.linear.targets
    c, moment = toy.linear.moments, toy.inputs.T @ targets[:, 0] / 30
    flow = solve_ivp(lambda _, w: moment - c @ w, (0, 30), np.zeros(6), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(toy.linear.weights[0], flow.y[:, -1], rtol=1e-7)


def test_two_scales_make_two_valleys_and_one_scale_makes_one():
    assert TwoScaleRegression().valleys(TIMES) == 2
    assert TwoScaleRegression(weak_variance=1.0, weak_signal=0.1).valleys(TIMES) == 1
    assert TwoScaleRegression(strong=5, weak=0).valleys(TIMES) == 1


@pytest.mark.parametrize("seed", range(3))
def test_the_risk_falls_rises_and_falls_again(seed):
    toy = TwoScaleRegression(seed=seed)
    first, second, third = (toy.risk(t) for t in (5.0, 50.0, 5000.0))
    assert first < second > third


def test_every_instrument_meets_its_truth():
    assert_agrees(TwoScaleRegression())


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    toy = TwoScaleRegression(
        seed=seed,
        samples=int(draw.integers(60, 90)),
        strong=int(draw.integers(5, 30)),
        weak=int(draw.integers(1, 15)),
        weak_variance=float(np.exp(draw.uniform(np.log(1e-3), 0))),
        weak_signal=draw.uniform(0.1, 100),
        noise=draw.uniform(0.01, 1),
        time=draw.uniform(1, 100),
    )
    assert_agrees(toy, OWN | CHEAP)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"strong": 95}, "fewer features than samples"),
        ({"weak_variance": 2.0}, "weak_variance is 2.0; allowed: 1e-6 to 1"),
        ({"time": 0.0}, "a time above 0"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        zoo.get("two-scale-regression", **wrong)


def test_it_can_be_drawn():
    assert_draws(zoo.get("two-scale-regression"))

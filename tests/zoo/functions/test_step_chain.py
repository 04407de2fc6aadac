"""A chain of steps: width and midpoint of the jump, run lengths, the logistic model, every instrument."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part, assert_draws

from geartrain import zoo
from geartrain.errors import InputError
from geartrain.zoo.functions.step_chain import StepChain, midpoint, width


@pytest.mark.parametrize(("length", "expected"), [(1, 4.3944), (5, 3.3129), (10, 3.1965), (100, 3.0954)])
def test_width_in_log_odds(length, expected):
    assert width(length) == pytest.approx(expected, abs=1e-4)


def test_width_tends_to_a_constant_and_only_its_ratio_to_the_midpoint_vanishes():
    limit = math.log(math.log(10) / math.log(10 / 9))
    assert limit == pytest.approx(3.0844, abs=1e-4)
    assert width(10**9) == pytest.approx(limit, abs=1e-6)
    assert width(10**9) / midpoint(10**9) == pytest.approx(limit / math.log(10**9 / math.log(2)), rel=1e-6)


@pytest.mark.parametrize("length", [1, 5, 10, 100])
def test_width_and_midpoint_are_quantiles_of_the_curve(length):
    toy = StepChain(length=length)
    assert StepChain(length=length, u=midpoint(length) or 1e-9).p ** length == pytest.approx(0.5, abs=1e-8)
    np.testing.assert_allclose(toy._jump(toy.generator()).value, [width(length), midpoint(length)], atol=1e-3)


def test_midpoint_of_long_chains():
    assert midpoint(1000) == pytest.approx(math.log(1000 / math.log(2)), abs=1e-3)


def test_mean_run_length_is_exact_by_enumeration():
    toy = StepChain(length=6, u=0.7)
    mean = 0.0
    for chain in itertools.product((False, True), repeat=6):
        probability = math.prod(toy.p if right else 1 - toy.p for right in chain)
        mean += probability * (chain.index(False) if False in chain else 6)
    assert float(toy.truth["run_length"]) == pytest.approx(mean, rel=1e-12)


def test_success_is_left_out_where_no_trial_could_see_it():
    assert "success" in StepChain(length=10).truth
    assert "success" not in StepChain(length=40, u=0.5).truth


def test_every_instrument_meets_its_truth():
    assert_agrees(zoo.get("step-chain"))


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    right = float(draw.uniform(0.52, 0.98))
    assert_agrees_in_part(
        zoo.get("step-chain", length=int(draw.integers(1, 40)), u=float(draw.uniform(0.1, 4)), right=right)
    )


def test_a_calibrated_model_has_no_gradient():
    toy = zoo.get("step-chain", u=math.log(3), right=0.75)
    assert abs(float(toy.objective.gradient())) < 1e-15
    assert_agrees(toy)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"length": 0}, "length is 0; allowed: 1 or more"),
        ({"chains": 1}, "chains is 1; allowed: 100 or more"),
        ({"u": 0.0}, "u is 0.0; allowed: above 0"),
        ({"right": 0.5}, "right is 0.5; allowed: 0.5125 to 0.9875"),
        ({"right": 1.0}, "right is 1.0; allowed: 0.5125 to 0.9875"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        zoo.get("step-chain", **wrong)


def test_it_can_be_drawn():
    assert_draws(zoo.get("step-chain"))

"""Quantised skills: exponents of both learning curves, steps of single skills, every instrument."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import zeta
from tests.zoo.agreement import assert_agrees, assert_draws

from geartrain import zoo
from geartrain.errors import InputError
from geartrain.zoo.risk.quantised_skills import QuantisedSkills

OWN = {"loss", "loss_at_capacity", "loss_with_data", "emergence"}
CHEAP = {"hessian_trace", "hessian_spectrum", "example_losses", "weight_norm", "jacobian_rank", "path_length"}


def test_the_reference_number():
    assert float(QuantisedSkills().loss_at_capacity(100) * zeta(1.5)) == pytest.approx(0.2, rel=0.01)


@pytest.mark.parametrize("decay", [0.3, 0.5, 1.0])
def test_exponents_over_two_decades(decay):
    toy = QuantisedSkills(decay=decay)
    assert_agrees(toy, {"capacity_exponent", "data_exponent"})


@pytest.mark.parametrize("threshold", [1, 2, 5])
def test_the_prefactor_is_reached(threshold):
    toy = QuantisedSkills(threshold=threshold)
    assert toy.loss_with_data(1e7) * 1e7 ** (1 / 3) == pytest.approx(toy.data_prefactor, rel=0.01)


def test_a_skill_needs_the_inverse_of_its_frequency():
    toy = QuantisedSkills(threshold=1, decay=1.0)
    assert toy.loss_with_data(0.0) == pytest.approx(1, abs=1e-6)
    steps = np.asarray(toy.truth["emergence"].value)
    np.testing.assert_allclose(steps, 1 - (1 - toy.frequency(np.array([1, 10, 100]))) ** 1000, rtol=1e-9)


def test_every_instrument_meets_its_truth():
    assert_agrees(QuantisedSkills())


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    toy = QuantisedSkills(
        seed=seed,
        decay=draw.uniform(0.4, 1.5),
        threshold=int(draw.integers(1, 6)),
        examples=int(draw.integers(60, 200)),
    )
    assert_agrees(toy, OWN | CHEAP)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"decay": 0.0}, "the frequencies have no sum"),
        ({"threshold": 0}, "threshold 0; allowed"),
        ({"examples": 10}, "examples is 10; allowed: 50 to 1000"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        zoo.get("quantised-skills", **wrong)


def test_it_can_be_drawn():
    assert_draws(zoo.get("quantised-skills"))

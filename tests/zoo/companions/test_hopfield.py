"""Hopfield networks: capacity of the classical one, attention in the modern one, every instrument."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part, assert_draws

from geartrain.errors import InputError
from geartrain.zoo.companions.hopfield import Hopfield, final_overlap


def test_the_critical_load_is_that_of_the_literature():
    loads = np.arange(0.137, 0.139, 1e-5)
    alive = [a for a in loads if final_overlap(a) > 0]
    assert max(alive) == pytest.approx(0.1379, abs=1e-4)
    assert final_overlap(max(alive)) == pytest.approx(0.967, abs=2e-3)


def test_the_overlap_solves_the_three_equations():
    load = 0.12
    m = final_overlap(load)
    r = 1.0
    for _ in range(500):
        c = math.sqrt(2 / (math.pi * load * r)) * math.exp(-(m**2) / (2 * load * r))
        r = 1 / (1 - c) ** 2
    assert m == pytest.approx(math.erf(m / math.sqrt(2 * load * r)), abs=1e-9)


def test_five_hundred_units_remember_at_a_tenth_and_forget_at_a_quarter():
    generator = torch.Generator().manual_seed(0)
    assert float(Hopfield(load=0.10)._recall(generator)) > 0.99
    assert float(Hopfield(load=0.25)._recall(generator)) < 0.6


def test_the_first_errors_of_a_tiny_memory_by_enumeration():
    """4 units, 3 patterns: all 2^12 memories."""
    toy = Hopfield()
    object.__setattr__(toy, "units", 4)
    object.__setattr__(toy, "load", 0.75)
    bits = (np.arange(2**12)[:, None] >> np.arange(12)) & 1
    patterns = (2.0 * bits - 1).reshape(-1, 3, 4)
    weights = np.einsum("kmi,kmj->kij", patterns, patterns) * (1 - np.eye(4))
    fields = np.einsum("kij,kj->ki", weights, patterns[:, 0]) * patterns[:, 0]
    assert toy.first_errors == pytest.approx((fields < 0).mean(), abs=1e-12)


def test_the_hessian_by_hand_is_autograds():
    toy = Hopfield(dimension=5, beta=7.0)
    np.testing.assert_allclose(
        toy.objective.hvp(torch.eye(5, dtype=torch.float64)).numpy(), toy.hessian, atol=1e-12
    )


def test_a_cold_memory_recalls_in_one_read():
    toy = Hopfield(beta=50.0)
    read = toy.stored.T @ toy.attention(0.9 * toy.stored[2])
    assert np.linalg.norm(read - toy.stored[2]) < 1e-3


def test_every_instrument_meets_its_truth():
    assert_agrees(Hopfield())


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    toy = Hopfield(
        seed=seed,
        units=int(draw.integers(100, 600)),
        load=draw.uniform(0.04, 0.2),
        dimension=int(draw.integers(3, 15)),
        patterns=int(draw.integers(2, 12)),
        beta=draw.uniform(0.5, 4),
    )
    assert_agrees_in_part(toy)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"units": 10}, "units is 10, load 0.1; allowed: 100 to 1000"),
        ({"load": 0.0}, "load 0.0; allowed"),
        ({"beta": 0.0}, "beta 0.0; allowed: 2 to 100 of each, and"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        Hopfield.make(**wrong)


def test_it_can_be_drawn():
    assert_draws(Hopfield())

"""Superposition: the transition of two features, the pentagon of five, the dictionary, every instrument."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part, assert_draws

from geartrain.errors import InputError
from geartrain.zoo.representations.superposition import (
    Superposition,
    antipodal_loss,
    best_pentagon,
    best_strength,
    pentagon_loss,
)

SLOW = {"pentagon_angles", "pentagon_loss", "loss_plane"}
"""Met at the defaults; they do not depend on the parameters."""


def test_the_reference_numbers():
    assert antipodal_loss(0.3, 1.0) == pytest.approx(0.015, rel=1e-12)
    assert antipodal_loss(0.3, 1.1) == pytest.approx(0.015025, rel=1e-12)
    assert best_strength(0.3) == pytest.approx(1.04839, abs=5e-6)


@pytest.mark.parametrize("importance", [0.3, 0.8])
def test_superposition_wins_below_the_threshold_only(importance):
    change = 2 * importance / (1 + importance)
    for p in (0.9 * change, min(1.1 * change, 1.0)):
        dedicated, antipodal = importance * p / 3, (1 + importance) * antipodal_loss(p, 1.0)
        assert (antipodal < dedicated) == (p < change)


def test_the_loss_of_a_pentagon_is_its_integral():
    for a, b in ((1.37, -0.28), (0.8, -0.1), (1.1, -0.5)):

        def square(x, a=a, b=b):
            own = x - max(a * x + b, 0.0)
            return own**2 + 2 * max(a * math.cos(2 * math.pi / 5) * x + b, 0.0) ** 2

        assert pentagon_loss(a, b) == pytest.approx(quad(square, 0, 1, limit=200)[0], abs=1e-8)
    least, a, b = best_pentagon()
    assert all(pentagon_loss(a + i, b + j) > least for i, j in ((0.01, 0), (-0.01, 0), (0, 0.01), (0, -0.01)))


def test_derivatives_by_hand_are_autograds():
    toy = Superposition(features=4, decay=0.8)
    objective = toy.objective
    found = objective.hvp(torch.eye(12, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(found, toy.hessian, atol=1e-12)


@pytest.mark.parametrize("features", [3, 5, 8])
def test_only_the_rotation_is_flat(features):
    assert Superposition(features=features, p=0.5).truth["jacobian_rank"].value == 3 * features - 1


def test_every_instrument_meets_its_truth():
    assert_agrees(Superposition())


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    toy = Superposition(
        seed=seed,
        features=int(draw.integers(3, 8)),
        p=draw.uniform(0.05, 1),
        length=draw.uniform(0.5, 1.2),
        decay=draw.uniform(0.6, 1),
        second=draw.uniform(0.3, 1),
        strength=draw.uniform(0.5, 1.5),
        samples=20_000,
    )
    assert_agrees_in_part(toy, set(toy.truth) - SLOW)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"features": 2}, "features is 2; allowed: 3 to 10 corners"),
        ({"p": 0.0}, "p is 0.0; allowed: 0.01 to 1"),
        ({"length": 0.0}, "allowed: above 0, and decay at most 1"),
        ({"samples": 5}, "samples is 5; allowed: 1000 or more"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        Superposition.make(**wrong)


def test_it_can_be_drawn():
    assert_draws(Superposition())

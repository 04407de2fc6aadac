"""Fourier analysis on the cube: transform, Parseval, leaps by brute force, every instrument."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part, assert_draws
from torch import nn

from geartrain import instruments, zoo
from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.zoo.functions.hypercube_fourier import HypercubeFourier, Sets, leap, members, parities


def by_brute_force(sets: Sets) -> int:
    """The definition: all orders of the terms."""

    def most_new(order: tuple[tuple[int, ...], ...]) -> int:
        seen: set[int] = set()
        most = 0
        for s in order:
            most, seen = max(most, len(set(s) - seen)), seen | set(s)
        return most

    return min(most_new(order) for order in itertools.permutations(sets))


def measured_leap(sets: Sets, d: int) -> float:
    """What the instrument says of the sum of these parities, with coefficients of several sizes."""
    x = members(d) * 2.0 - 1
    y = sum((1 + i / 7) * x[:, list(s)].prod(1) for i, s in enumerate(sets))
    data = torch.from_numpy(x), torch.from_numpy(np.asarray(y) * np.ones(len(x)))[:, None]
    objective = Objective(nn.Linear(d, 1).double(), nn.functional.mse_loss, data)
    return float(instruments.get("leap")(objective))


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        (((0,), (0, 1), (0, 1, 2)), 1),
        (((0,), (0, 1, 2)), 2),
        (((0, 1, 2),), 3),
        (((0, 1), (2, 3), (0, 1, 2, 3)), 2),
        (((0, 1, 2, 3),), 4),
        (((4, 5), (0, 1, 2, 3)), 4),
    ],
)
def test_leaps_of_the_examples(sets, expected):
    assert leap(sets) == by_brute_force(sets) == expected
    assert measured_leap(sets, 6) == expected


def test_leap_is_brute_force_on_all_functions_of_three_bits():
    nonempty = [tuple(np.flatnonzero(row).tolist()) for row in members(3)[1:]]
    for chosen in itertools.product((False, True), repeat=7):
        sets = tuple(s for s, use in zip(nonempty, chosen, strict=True) if use)
        if len(sets) <= 5:
            assert leap(sets) == by_brute_force(sets)
        assert measured_leap(sets, 3) == leap(sets)


def test_the_instrument_is_brute_force_on_500_supports_of_four_bits():
    draw, nonempty = np.random.default_rng(0), members(4)[1:]
    for _ in range(500):
        rows = nonempty[draw.random(15) < draw.uniform(0.05, 0.6)]
        sets = tuple(tuple(np.flatnonzero(row).tolist()) for row in rows)
        assert measured_leap(sets, 4) == leap(sets)


@pytest.mark.parametrize("seed", range(5))
def test_transform_and_parseval_for_random_functions(seed):
    draw = np.random.default_rng(seed)
    sets = tuple(tuple(np.flatnonzero(row).tolist()) for row in members(4)[1:])
    coefficients = tuple(float(c) for c in draw.standard_normal(15))
    toy = HypercubeFourier(d=4, sets=sets, coefficients=coefficients, degree=4)
    found = toy._transformed(toy.generator())
    np.testing.assert_allclose(found.value, toy.solution, atol=1e-12)
    assert (toy.values**2).mean() == pytest.approx(toy.solution @ toy.solution, rel=1e-12)


def test_parities_are_orthonormal():
    toy = HypercubeFourier()
    features = parities(toy.points, members(toy.d))
    np.testing.assert_allclose(features.T @ features / 2**toy.d, np.eye(2**toy.d), atol=1e-12)


def test_every_instrument_meets_its_truth():
    assert_agrees(zoo.get("hypercube-fourier"))


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    d = int(draw.integers(2, 7))
    rows = draw.permutation(members(d)[1:])[: int(draw.integers(1, 4))]
    sets = tuple(tuple(np.flatnonzero(row).tolist()) for row in rows)
    degree = int(draw.integers(rows.sum(1).max(), d + 1))
    coefficients = tuple(float(c) for c in draw.uniform(0.3, 2, len(sets)))
    parameters = {"d": d, "sets": sets, "coefficients": coefficients, "degree": degree, "seed": seed}
    assert_agrees_in_part(zoo.get("hypercube-fourier", start=float(draw.uniform(0.1, 2)), **parameters))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"d": 11}, "d is 11; allowed: 2 to 10"),
        ({"sets": ()}, "one or more different sets"),
        ({"sets": ((0, 1), (1, 0))}, "one or more different sets"),
        ({"sets": ((0, 7),)}, "coordinates from 0 to d - 1 = 4"),
        ({"coefficients": (1.0, 0.0, 1.0)}, "one number other than 0 for each set"),
        ({"degree": 2}, "degree is 2; allowed: from the largest set, 3, to d = 5"),
        ({"start": 0.0}, "start is 0.0; allowed: above 0"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        zoo.get("hypercube-fourier", **wrong)


def test_it_can_be_drawn():
    assert_draws(zoo.get("hypercube-fourier"))

"""Sparse distributed memory: exact counts, the likeness to a softmax, every instrument."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part, assert_draws

from geartrain.errors import InputError
from geartrain.zoo.representations.sparse_distributed_memory import (
    SparseDistributedMemory,
    enumerated,
    overlap,
)


def test_the_reference_counts():
    assert [overlap(4, 1, v) for v in range(5)] == [5, 2, 2, 0, 0]
    assert [overlap(6, 2, v) for v in range(7)] == [22, 12, 12, 6, 6, 0, 0]
    assert overlap(64, 11, 0) == 927_740_240_713
    assert overlap(64, 11, 8) == 23_153_386_372


@pytest.mark.parametrize(("n", "r"), [(4, 1), (6, 2), (7, 3), (9, 4), (10, 2)])
def test_counts_are_those_of_all_addresses(n, r):
    assert enumerated(n, r).tolist() == [overlap(n, r, v) for v in range(n + 1)]


@pytest.mark.parametrize(("n", "r"), [(64, 11), (100, 7), (256, 128)])
def test_the_identities(n, r):
    counts = [overlap(n, r, v) for v in range(n + 1)]
    assert counts[0] == sum(math.comb(n, i) for i in range(r + 1))
    assert all(counts[2 * j - 1] == counts[2 * j] for j in range(1, n // 2 + 1))
    assert not any(counts[2 * r + 1 :])


def test_near_patterns_are_weighted_like_a_softmax():
    toy = SparseDistributedMemory()
    assert toy.explained > 0.998
    weights = np.exp(toy.curve[1] - toy.curve[1].max())
    cosines = 1 - 2 * toy.curve[0][:, 1]
    softmax = np.exp(toy.beta * cosines)
    distance = 0.5 * np.abs(weights / weights.sum() - softmax / softmax.sum()).sum()
    assert distance < 0.1  # total variation
    colder = SparseDistributedMemory(r=6)
    assert colder.beta > toy.beta


def test_every_instrument_meets_its_truth():
    assert_agrees(SparseDistributedMemory())


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    n = int(draw.integers(10, 120))
    assert_agrees_in_part(SparseDistributedMemory(n=n, r=int(draw.integers(4, n // 2 + 1)), samples=5000))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n": 4}, "n is 4, r 11; allowed: n from 8 to 256"),
        ({"r": 40}, "r 40; allowed: .* to n/2"),
        ({"samples": 1}, "samples is 1; allowed: 1000 or more"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        SparseDistributedMemory.make(**wrong)


def test_it_can_be_drawn():
    assert_draws(SparseDistributedMemory())

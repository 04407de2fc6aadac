"""Sparse parity: elimination, the Fourier gap of a fresh unit, the sawtooth, every instrument."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part, assert_draws

from geartrain import zoo
from geartrain.errors import InputError
from geartrain.zoo.functions.sparse_parity import SparseParity, threshold_coefficient


@pytest.mark.parametrize(("extra", "rate"), [(0, 0.289), (5, 0.969), (10, 0.999)])
def test_rate_of_elimination(extra, rate):
    toy = SparseParity(columns=20, extra=extra)
    assert toy.elimination_chance == pytest.approx(rate, abs=5e-4)
    assert toy.elimination_chance >= 1 - 2.0**-extra
    found = toy._eliminate(torch.Generator().manual_seed(1))
    assert found.value == pytest.approx(toy.elimination_chance, abs=3 * float(found.standard_error))


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 2), (3, 2), (3, 3)])
def test_chance_of_full_rank_is_exact_by_enumeration(rows, columns):
    full = 0
    for code in range(2 ** (rows * columns)):
        matrix = [code >> (columns * i) & (2**columns - 1) for i in range(rows)]
        span = {0}
        for row in matrix:
            span |= {row ^ v for v in span}
        full += len(span) == 2**columns
    toy = SparseParity(columns=columns, extra=rows - columns)
    assert full / 2 ** (rows * columns) == pytest.approx(toy.elimination_chance, abs=1e-12)


@pytest.mark.parametrize("n", [3, 5, 9, 21])
def test_coefficients_of_an_odd_number_are_half_those_of_the_majority(n):
    for size in range(1, n + 1):
        j, half = (size - 1) // 2, (n - 1) // 2
        majority = (
            (-1) ** j * math.comb(half, j) / math.comb(n - 1, 2 * j) * math.comb(n - 1, half) / 2 ** (n - 1)
        )
        expected = majority / 2 if size % 2 else 0
        assert threshold_coefficient(n, size) == pytest.approx(expected, abs=1e-15)


def test_the_gradient_of_a_fresh_unit_points_out_the_set():
    for bits, k in ((7, 4), (9, 4), (6, 3), (8, 3)):
        gradient = SparseParity(bits=bits, k=k).fresh_gradient
        assert gradient[0] * gradient[-1] < 0
    assert not SparseParity(bits=7, k=3).fresh_gradient.any()  # an odd set is invisible to an odd unit


@pytest.mark.parametrize("k", range(2, 9))
def test_the_sawtooth_is_the_parity(k):
    toy = SparseParity(bits=8, k=k)
    np.testing.assert_allclose(toy.objective.outputs()[:, 0].numpy(), toy.labels, atol=1e-12)


def test_no_smaller_group_is_correlated_with_the_label():
    toy = SparseParity(bits=5, k=3)
    for code in range(2**5):
        s = [i for i in range(5) if code >> i & 1]
        assert (toy.labels * toy.points[:, s].prod(1)).mean() == (s == [0, 1, 2])


def test_every_instrument_meets_its_truth():
    assert_agrees(zoo.get("sparse-parity"))


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    bits = int(draw.integers(2, 7))
    k, columns, extra = int(draw.integers(2, bits + 1)), int(draw.integers(1, 31)), int(draw.integers(0, 12))
    assert_agrees_in_part(zoo.get("sparse-parity", bits=bits, k=k, columns=columns, extra=extra))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"k": 1}, "k is 1 and bits 6; allowed: 2 <= k <= bits <= 10"),
        ({"bits": 11}, "k is 3 and bits 11"),
        ({"columns": 0}, "columns is 0; allowed: 1 to 60"),
        ({"extra": -1}, "extra is -1; allowed: 0 or more"),
        ({"trials": 1}, "trials is 1; allowed: 2 or more"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        zoo.get("sparse-parity", **wrong)


def test_it_can_be_drawn():
    assert_draws(zoo.get("sparse-parity"))

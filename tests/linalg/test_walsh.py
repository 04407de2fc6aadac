"""Walsh transform, Krawtchouk polynomials, sampled weights, leap: against dense twins and brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import binom

from geartrain.errors import InputError
from geartrain.linalg import walsh


def characters(d: int) -> np.ndarray:
    """χ_S(x) for all points and sets, shape (points, sets), by its definition."""
    points = walsh.cube(d).astype(float)
    return np.stack([points[:, walsh.members(s)].prod(1) for s in range(2**d)], axis=1)


@pytest.mark.parametrize("d", [1, 3, 6])
def test_the_transform_is_its_definition_and_its_own_inverse(d):
    f = np.random.default_rng(d).standard_normal((2**d, 2))
    result = walsh.walsh_hadamard(f)
    # d additions per entry: rounding of about d · 2^d · 1e-16.
    np.testing.assert_allclose(result, characters(d).T @ f, atol=1e-12)
    np.testing.assert_allclose(walsh.walsh_hadamard(result) / 2**d, f, atol=1e-12)
    np.testing.assert_allclose((result**2).sum(0) / 4**d, (f**2).mean(0), rtol=1e-12)  # Parseval


def test_numbers_of_points_and_sets():
    points = walsh.cube(5)
    assert walsh.index_of(points).tolist() == list(range(32))
    assert walsh.degrees(5).tolist() == [len(walsh.members(s)) for s in range(32)]
    assert len(walsh.subsets(5, 2)) == 1 + 5 + 10


def test_krawtchouk_polynomials_sum_the_characters_of_a_degree():
    d = 5
    table, by_hand = walsh.krawtchouk(d), characters(d)
    minus = (walsh.cube(d) < 0).sum(1)
    for k in range(d + 1):
        summed = by_hand[:, walsh.degrees(d) == k].sum(1)
        np.testing.assert_array_equal(table[k, minus], summed)


def test_a_length_that_is_no_power_of_two():
    with pytest.raises(InputError, match="has 6 values; a function on"):
        walsh.walsh_hadamard(np.zeros(6))


def test_sampled_weights_cover_the_truth():
    """f = 0.6 + 0.8 x₀ - x₁x₂ + 0.5 x₀x₁x₂ on ten bits: shares of the squares, by Parseval."""
    truth = np.array([0.36, 0.64, 1.0, 0.25, 0.0]) / 2.25
    covered, values = np.zeros(5), []
    for seed in range(200):
        x = np.random.default_rng(seed).choice([-1, 1], size=(150, 10))
        f = 0.6 + 0.8 * x[:, 0] - x[:, 1] * x[:, 2] + 0.5 * x[:, 0] * x[:, 1] * x[:, 2]
        shares, errors = walsh.sampled_weights(x, f[:, None], 3)
        assert shares.sum() == pytest.approx(1)
        values.append(shares)
        covered += np.abs(shares - truth) <= 2 * errors
    spread = np.std(values, axis=0, ddof=1)
    # The ratio of two means has a bias of order 1/n beside the spread of order 1/√n.
    assert np.all(np.abs(np.mean(values, axis=0) - truth) <= 4 * spread / np.sqrt(200) + 2 / 150)
    assert covered.min() >= binom.ppf(0.001, 200, 0.93)


def test_sampled_coefficients():
    x = np.random.default_rng(0).choice([-1, 1], size=(3000, 6))
    f = x[:, 0] * x[:, 3] - 2.0 * x[:, 1]
    sets = walsh.subsets(6, 2)
    means, errors = walsh.sampled_coefficients(x, f[:, None], sets)
    truth = np.array([{(0, 3): 1.0, (1,): -2.0}.get(s, 0.0) for s in sets])
    assert np.all(np.abs(means[:, 0] - truth) <= 4.5 * errors[:, 0])


def brute_force(sets: list[tuple[int, ...]]) -> int:
    best = 99
    for order in itertools.permutations(sets):
        known: set[int] = set()
        worst = 0
        for s in order:
            worst = max(worst, len(set(s) - known))
            known |= set(s)
        best = min(best, worst)
    return best if sets else 0


def test_leap_is_brute_force_on_all_supports_of_three_bits():
    nonempty = [s for s in walsh.subsets(3, 3) if s]
    for mask in range(2**7):
        sets = [s for i, s in enumerate(nonempty) if mask >> i & 1]
        assert walsh.leap_order(sets)[0] == brute_force(sets)


def test_leap_is_brute_force_on_random_supports_of_four_bits():
    random = np.random.default_rng(0)
    nonempty = [s for s in walsh.subsets(4, 4) if s]
    for _ in range(500):
        sets = [nonempty[i] for i in random.choice(15, size=random.integers(1, 6), replace=False)]
        leap, order = walsh.leap_order(sets)
        assert leap == brute_force(sets)
        assert sorted(order) == sorted(sets)

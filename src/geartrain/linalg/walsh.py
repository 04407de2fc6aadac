"""Functions on the hypercube {-1, 1}^d: fast Walsh-Hadamard transform, Krawtchouk polynomials, leap.

A set S of coordinates is written as a whole number whose bit i says whether i is in S, and so is a point: bit i is set
where x_i = -1. Then χ_S(x) = Π_{i∈S} x_i = (-1)^{|S ∩ x|}, and the coefficients are f̂(S) = 2^-d Σ_x f(x) χ_S(x).

References:
    O'Donnell (2014), Analysis of Boolean Functions, §1; Abbe, Boix-Adserà, Misiakiewicz (2023), arXiv:2302.11055.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

import numpy as np

from geartrain.errors import InputError


def walsh_hadamard(values: np.ndarray) -> np.ndarray:
    """Σ_x values[x] (-1)^{|S ∩ x|} for every S: the unnormalised transform along the first axis, in n log n.

    It is its own inverse but for the factor 2^d.

    Args:
        values: Shape (2^d, ...).

    Returns:
        Same shape, float64.

    Raises:
        InputError: The first axis is no power of two.

    >>> walsh_hadamard(np.array([1.0, -1.0, -1.0, 1.0])) / 4  # x₀·x₁
    array([0., 0., 0., 1.])
    """
    size = len(values)
    if size < 1 or size & (size - 1):
        raise InputError(f"The function has {size} values; a function on {{-1, 1}}^d has 2^d of them.")
    result = np.array(values, dtype=np.float64)
    rest, half = result.shape[1:], 1
    while half < size:
        pairs = result.reshape(size // (2 * half), 2, half, *rest)
        result = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], axis=1)
        half *= 2
    return result.reshape(size, *rest)


def cube(d: int) -> np.ndarray:
    """All points of {-1, 1}^d in the order of the transform, shape (2^d, d), int8.

    >>> cube(2).tolist()
    [[1, 1], [-1, 1], [1, -1], [-1, -1]]
    """
    bits = (np.arange(2**d)[:, None] >> np.arange(d)[None, :]) & 1
    return (1 - 2 * bits).astype(np.int8)


def index_of(signs: np.ndarray) -> np.ndarray:
    """Number of each point, shape (points,), from signs of shape (points, d)."""
    return (signs < 0).astype(np.int64) @ (1 << np.arange(signs.shape[1], dtype=np.int64))


def members(number: int) -> tuple[int, ...]:
    """The coordinates in a set that is written as a number.

    >>> members(0b1011)
    (0, 1, 3)
    """
    return tuple(i for i in range(int(number).bit_length()) if number >> i & 1)


def degrees(d: int) -> np.ndarray:
    """|S| for every S, shape (2^d,)."""
    sizes = np.zeros(1, dtype=np.int64)
    for _ in range(d):
        sizes = np.concatenate([sizes, sizes + 1])
    return sizes


def krawtchouk(d: int) -> np.ndarray:
    """K_k(m) = Σ_{|S|=k} χ_S(x) for a point with m coordinates at -1; shape (d + 1, d + 1), rows k.

    >>> krawtchouk(2).tolist()
    [[1.0, 1.0, 1.0], [2.0, 0.0, -2.0], [1.0, -1.0, 1.0]]
    """
    table = [
        [
            sum((-1) ** j * math.comb(m, j) * math.comb(d - m, k - j) for j in range(min(k, m) + 1))
            for m in range(d + 1)
        ]
        for k in range(d + 1)
    ]
    return np.array(table, dtype=np.float64)


def sampled_weights(signs: np.ndarray, values: np.ndarray, max_degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Shares of the power at each degree, from values at independent uniform points.

    W_k = Σ_{|S|=k} f̂(S)² = E[f(x) f(x') K_k(distance of x and x')] over independent pairs: the mean over all pairs of
    different points is unbiased. The share is W_k / E[f²].

    Args:
        signs: Points, shape (n, d), entries -1 and 1.
        values: Shape (n, outputs); the weights of the outputs are added.
        max_degree: Degrees 0 to this one; the last entry is what is left for all higher ones.

    Returns:
        Shares and their standard errors (by the influence of each point), shape (max_degree + 2,).
    """
    count, d = signs.shape
    table = krawtchouk(d)[: max_degree + 1]
    parts = np.zeros((count, max_degree + 1))
    for start in range(0, count, 512):
        rows = slice(start, min(start + 512, count))
        products = signs[rows].astype(np.float32) @ signs.T.astype(np.float32)
        distances = np.rint((d - products) / 2).astype(np.int64)
        inner = values[rows] @ values.T
        height = len(inner)
        places = np.arange(height)
        inner[places, start + places] = 0.0  # a point is no pair with itself
        flat = (distances + (d + 1) * places[:, None]).ravel()
        sums = np.bincount(flat, inner.ravel(), minlength=height * (d + 1)).reshape(height, d + 1)
        parts[rows] = sums @ table.T / (count - 1)
    power = (values**2).sum(1)
    total = power.mean()
    shares = parts.mean(0) / total
    # Influence of a point on (mean over pairs) / (mean of squares): a pair holds two points, hence the 2.
    influence = (2 * (parts - parts.mean(0)) - shares * (power - total)[:, None]) / total
    influence = np.concatenate([influence, -influence.sum(1, keepdims=True)], axis=1)
    errors = np.sqrt((influence**2).sum(0) / (count * (count - 1)))
    return np.append(shares, 1 - shares.sum()), errors


def subsets(d: int, max_degree: int) -> list[tuple[int, ...]]:
    """All sets of at most ``max_degree`` of d coordinates, the small ones first."""
    return [s for k in range(max_degree + 1) for s in itertools.combinations(range(d), k)]


def sampled_coefficients(
    signs: np.ndarray, values: np.ndarray, sets: Sequence[tuple[int, ...]]
) -> tuple[np.ndarray, np.ndarray]:
    """Mean of f·χ_S over sampled points for some sets, with standard errors, each of shape (sets, outputs)."""
    count = len(signs)
    columns = np.ascontiguousarray(signs.T, dtype=np.float32)
    means = np.empty((len(sets), values.shape[1]))
    for start in range(0, len(sets), 512):
        block = sets[start : start + 512]
        characters = np.ones((len(block), count), dtype=np.float32)
        for row, chosen in zip(characters, block, strict=True):
            for i in chosen:
                row *= columns[i]
        means[start : start + len(block)] = characters @ values / count
    variance = np.maximum((values**2).mean(0) - means**2, 0.0)
    return means, np.sqrt(variance / max(count - 1, 1))


def leap_order(sets: Iterable[Iterable[int]]) -> tuple[int, list[tuple[int, ...]]]:
    """Leap of a function with these sets as its Fourier support, and an order that attains it.

    min over orders of max over steps of the number of coordinates that are new. Always taking the set with the fewest
    new coordinates is optimal: the known coordinates only grow, so a set never gets harder by waiting.

    Args:
        sets: Sets of coordinates with a nonzero coefficient; the empty set counts for nothing.

    Returns:
        The leap (0 for a constant), and the sets in order.

    >>> leap_order([(0, 1), (2, 3), (0, 1, 2, 3)])
    (2, [(0, 1), (2, 3), (0, 1, 2, 3)])
    >>> leap_order([(4, 5), (0, 1, 2, 3)])[0], leap_order([(0,), (0, 1, 2)])[0], leap_order([()])[0]
    (4, 2, 0)
    """
    waiting = sorted({tuple(sorted(s)) for s in sets} - {()}, key=lambda s: (len(s), s))
    known: set[int] = set()
    leap, order = 0, []
    while waiting:
        best = min(waiting, key=lambda s: len(set(s) - known))
        waiting.remove(best)
        leap = max(leap, len(set(best) - known))
        known |= set(best)
        order.append(best)
    return leap, order

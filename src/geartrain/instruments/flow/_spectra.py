"""Spectra of random matrices: the Marchenko-Pastur law, its median, and the Tracy-Widom law of its edge.

A matrix of m x n independent entries of variance s² (m ≤ n, β = m/n) has squared singular values over n s² that fill
[(1 - √β)², (1 + √β)²] with the density √((x₊ - x)(x - x₋)) / (2πβx).

References:
    Marchenko, Pastur (1967); Johnstone (2001), Annals of Statistics 29, for centring and scale at the edge; Ferrari,
    Spohn (2005), arXiv:math-ph/0501069, and Bornemann (2010), arXiv:0804.2543, for the law as a determinant.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from scipy import special

_NODES = 48


@functools.cache
def _points(beta: float, nodes: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Nodes x in the bulk and the mass at each: Gauss-Chebyshev of the second kind takes the square root."""
    angles = np.arange(1, nodes + 1) * math.pi / (nodes + 1)
    x = 1 + beta + 2 * math.sqrt(beta) * np.cos(angles)
    # √((x₊ - x)(x - x₋)) dx = 4β sin²(φ) dφ
    mass = 4 * beta * np.sin(angles) ** 2 * (math.pi / (nodes + 1)) / (2 * math.pi * beta * x)
    return x[::-1], mass[::-1]


def bulk_cdf(x: np.ndarray, beta: float) -> np.ndarray:
    """Distribution function of the Marchenko-Pastur law at x (for β ≤ 1), with x = squared singular value/(n s²).

    >>> bulk_cdf(np.array([0.25, 1.0, 2.25]), 0.25).round(3).tolist()
    [0.0, 0.553, 1.0]
    """
    low, high = (1 - math.sqrt(beta)) ** 2, edge(beta)
    x = np.asarray(x, dtype=float)
    inside = np.clip(x, low + 1e-14 * high, high)
    ratio = np.maximum(np.sqrt((high - inside) / (inside - low)), 1e-150)
    total = math.pi * beta + np.sqrt((high - inside) * (inside - low))
    total = total - (1 + beta) * np.arctan((ratio**2 - 1) / (2 * ratio))
    if beta < 1:
        total = total + (1 - beta) * np.arctan((low * ratio**2 - high) / (2 * (1 - beta) * ratio))
    return np.where(x <= low, 0.0, np.where(x >= high, 1.0, np.clip(total / (2 * math.pi * beta), 0.0, 1.0)))


def edge(beta: float) -> float:
    """Upper end of the bulk, (1 + √β)².

    >>> edge(0.25)
    2.25
    """
    return (1 + math.sqrt(beta)) ** 2


@functools.cache
def bulk_quantiles(beta: float, count: int) -> np.ndarray:
    """Quantiles (i - ½)/count of the Marchenko-Pastur law, i = 1 .. count: where that many eigenvalues sit.

    >>> bulk_quantiles(1.0, 1).round(4).tolist()  # the median, Gavish and Donoho 2014, §III.E
    [0.6528]
    """
    low, high = (1 - math.sqrt(beta)) ** 2, edge(beta)
    # Denser towards the ends, where the density has a root or, for β = 1, a pole.
    grid = low + (high - low) * np.sin(np.linspace(0, math.pi / 2, 8001)) ** 4
    return np.interp((np.arange(count) + 0.5) / count, bulk_cdf(grid, beta), grid)


def bulk_variance(ascending: np.ndarray, long: int, beta: float, outliers: int) -> float:
    """Variance of an entry from squared singular values: the lower nine tenths of the bulk against its quantiles."""
    rest = len(ascending) - outliers
    used = max(int(0.9 * rest), 1)
    law = long * bulk_quantiles(beta, rest)[:used]
    return float(ascending[:used] @ law / (law @ law))


def gaussian_effective_rank(rows: int, columns: int) -> float:
    """Effective rank of a large matrix of independent entries: exp(entropy of √x / Σ√x) under the law of its bulk."""
    m, n = sorted((rows, columns))
    x, mass = _points(m / n)
    root, mass = np.sqrt(x), mass / mass.sum()
    mean = float(mass @ root)
    return m * mean * math.exp(-float(mass @ (root * np.log(root))) / mean)


def tracy_widom_cdf(s: float) -> float:
    """Distribution function of the Tracy-Widom law of order 1, det(1 - Ai((x + y)/2 + s)/2) on (0, ∞).

    >>> round(tracy_widom_cdf(0.9793), 4)
    0.95
    """
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    length = max(16.0, 16.0 - s)
    x, w = length * (nodes + 1) / 2, weights * length / 2
    kernel = 0.5 * special.airy((x[:, None] + x) / 2 + s)[0]
    roots = np.sqrt(w)
    return float(np.linalg.det(np.eye(_NODES) - roots[:, None] * kernel * roots))


@functools.cache
def tracy_widom_quantile(level: float) -> float:
    """Value that the largest eigenvalue of pure noise exceeds with probability 1 - ``level`` (centred and scaled).

    >>> round(tracy_widom_quantile(0.99), 3)
    2.023
    """
    low, high = -8.0, 12.0
    while high - low > 1e-10:
        middle = (low + high) / 2
        low, high = (middle, high) if tracy_widom_cdf(middle) < level else (low, middle)
    return (low + high) / 2


def noise_threshold(rows: int, columns: int, level: float) -> float:
    """Squared singular value that the largest of ``rows`` x ``columns`` standard normal entries exceeds rarely.

    Johnstone (2001), theorem 1.1, with the centring of Ma (2012), arXiv:0810.1329, which is accurate to the second
    order: (√(n - ½) + √(m - ½))² + s (√(n - ½) + √(m - ½)) (1/√(n - ½) + 1/√(m - ½))^⅓.

    Args:
        rows: m.
        columns: n.
        level: Probability to stay below.

    Returns:
        The threshold, in units of the variance of an entry.
    """
    a, b = math.sqrt(rows - 0.5), math.sqrt(columns - 0.5)
    scale = (a + b) * (1 / a + 1 / b) ** (1 / 3)
    return (a + b) ** 2 + tracy_widom_quantile(level) * scale


def spike_strength(x: np.ndarray, beta: float) -> np.ndarray:
    """Strength c of a planted rank-one part from its squared singular value x/(n s²): x = (1 + c)(1 + β/c).

    NaN at or below the edge, where it cannot be told from noise (Baik, Ben Arous, Péché 2005).

    >>> spike_strength(np.array([3.375]), 0.25).tolist()
    [2.0]
    """
    shifted = np.asarray(x, dtype=float) - 1 - beta
    inside = shifted**2 - 4 * beta
    return np.where(x > edge(beta), (shifted + np.sqrt(np.maximum(inside, 0.0))) / 2, np.nan)

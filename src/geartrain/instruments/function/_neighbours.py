"""Nearest neighbours and how well they predict: of inputs and of features alike."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Agreement:
    """How well neighbours predict the target.

    Attributes:
        value: Corrected for chance: 1 = determined, 0 = unrelated.
        error: Its standard error.
        agreement: Share of right votes, or 1 - MSE/σ².
        chance: The same where target and neighbours are independent.
    """

    value: float
    error: float
    agreement: float
    chance: float


def squared_distances(points: np.ndarray) -> np.ndarray:
    """Squared distances between rows, shape (n, n); infinite from a row to itself."""
    return from_products(points @ points.T, (points**2).sum(1))


def from_products(gram: np.ndarray, squares: np.ndarray | None = None) -> np.ndarray:
    """The same from the inner products of the rows."""
    squares = np.diag(gram) if squares is None else squares
    distances = squares[:, None] + squares[None, :] - 2 * gram
    # Equal up to rounding is identical: subtraction leaves 1e-16 of the squares.
    distances[distances <= 1e-9 * (1 + squares)[:, None]] = 0.0
    np.fill_diagonal(distances, np.inf)
    return distances


def nearest(distances: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the k nearest others, nearest first, shape (n, k); and whether the nearest is identical."""
    near = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return near, np.take_along_axis(distances, near[:, :1], axis=1)[:, 0] <= 0


def votes_of(codes: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Majority among the neighbours of each row, shape (n,); the nearer win ties."""
    weights = 1 + 1e-3 * 0.5 ** np.arange(near.shape[1])  # no two sets of voters weigh the same
    return np.stack([((codes[near] == c) * weights).sum(1) for c in range(codes.max() + 1)], axis=1).argmax(1)


def agreement_of_classes(labels: np.ndarray, near: np.ndarray) -> Agreement:
    """(a - c) / (1 - c): share a of the votes that are right, c if labels and votes were independent."""
    _, codes = np.unique(labels, return_inverse=True)
    votes = votes_of(codes, near)
    agreement = float((votes == codes).mean())
    chance = float(sum((votes == c).mean() * (codes == c).mean() for c in range(codes.max() + 1)))
    error = math.sqrt(max(agreement * (1 - agreement), 1 / len(codes)) / len(codes)) / (1 - chance)
    return Agreement((agreement - chance) / (1 - chance), error, agreement, chance)


def influence_of_classes(labels: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Influence of every row's hit, vote and class on (a - c) / (1 - c), shape (rows,); sums to 0."""
    _, codes = np.unique(labels, return_inverse=True)
    classes = np.arange(codes.max() + 1)
    votes = votes_of(codes, near)
    voted, own = (c[:, None] == classes for c in (votes, codes))
    hits = (votes == codes).astype(float)
    chance = float(voted.mean(0) @ own.mean(0))
    moved = voted @ own.mean(0) + own @ voted.mean(0) - 2 * chance
    return (hits - hits.mean()) / (1 - chance) - moved * (1 - hits.mean()) / (1 - chance) ** 2


def influence_of_numbers(values: np.ndarray, near: np.ndarray) -> np.ndarray:
    """The same on 1 - MSE / (σ²(1 + 1/k))."""
    spread = np.where(values.std(0) > 0, values.std(0), 1.0)
    squares = ((values - values[near].mean(1)) / spread) ** 2
    own = ((values - values.mean(0)) / spread) ** 2
    return -(squares - squares.mean(0) * own).mean(1) / (1 + 1 / near.shape[1])


def graph_error(influence: np.ndarray, near: np.ndarray, groups: np.ndarray) -> float:
    """Standard error of a mean over rows that depend on one another through the neighbours that they share.

    Given the points, two rows are independent unless they, or neighbours of theirs, are the same example: the
    variance is the sum of the products over all other pairs (Chen and Shao 2004, local dependence), never below that
    of independent groups. At random the binomial error is too small by a third, the jackknife twice too large.
    """
    rows = len(near)
    _, codes = np.unique(groups, return_inverse=True)
    touched = np.zeros((rows, codes.max() + 1))
    touched[np.arange(rows), codes] = 1
    touched[np.arange(rows)[:, None], codes[near]] = 1
    together = (touched @ touched.T) > 0
    alone = np.bincount(codes, influence)
    return math.sqrt(max(float(influence @ together @ influence), float(alone @ alone))) / rows


def agreement_of_numbers(values: np.ndarray, near: np.ndarray) -> Agreement:
    """1 - MSE / (σ²(1 + 1/k)) of the neighbours' mean."""
    scaled = (values - values.mean(0)) / np.where(values.std(0) > 0, values.std(0), 1.0)
    squares = ((scaled - scaled[near].mean(1)) ** 2).mean(1)
    chance = 1 + 1 / near.shape[1]
    value = 1 - float(squares.mean()) / chance
    error = float(squares.std(ddof=1)) / math.sqrt(len(squares)) / chance
    return Agreement(value, error, 1 - float(squares.mean()), 1 - chance)

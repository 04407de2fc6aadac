"""Random relu features as theory has them (unit rows, the mean feature taken off), and the ridge it finds best."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np
import torch

from geartrain.zoo.risk.random_features import RandomFeatures

RIDGES = tuple(10.0 ** (k / 3) for k in range(-18, 4))
"""Strengths among which the best one is looked for."""
LEAST = 1e-6
"""A ridge that stands for none."""


def unit_rows(toy: RandomFeatures, generator: torch.Generator, count: int) -> np.ndarray:
    """First-layer weights, shape (count, d)."""
    rows = toy.weights(generator, count)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def lifted(toy: RandomFeatures, x: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Centred features, shape (examples, count)."""
    return toy.lift(x, rows) - 1 / math.sqrt(2 * math.pi * len(rows))


@cache
def theory(samples: int, features: int, noise: float, ridge: float = LEAST) -> float:
    """Mean excess risk in the limit of large dimensions (Mei, Montanari 2019, arXiv 1908.05355)."""
    return replace(RandomFeatures(), samples=samples, features=features, noise=noise, ridge=ridge).risk(
        features
    )


def best_ridge(samples: int, features: int, noise: float) -> float:
    """The strength of `RIDGES` with the lowest risk in the theory."""
    return min(RIDGES, key=lambda ridge: theory(samples, features, noise, ridge))

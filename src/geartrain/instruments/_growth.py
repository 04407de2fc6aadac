"""Sizes of signals and how they grow from layer to layer."""

from __future__ import annotations

import math

import numpy as np


def rms_with_error(squares: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Root of the mean of per-example mean squares, with its standard error over examples."""
    rms = np.array([math.sqrt(s.mean()) for s in squares])
    spread = np.array([s.std(ddof=1) / math.sqrt(len(s)) if len(s) > 1 else math.nan for s in squares])
    return rms, spread / np.maximum(2 * rms, 1e-300)


def mean_growth(sizes: list[float] | np.ndarray) -> tuple[float, float]:
    """Mean log ratio of successive sizes, and its standard error over the layers; NaN with fewer than two.

    >>> mean_growth([1.0, 2.0, 8.0])[0] == math.log(8) / 2
    True
    """
    if len(sizes) < 2:
        return math.nan, math.nan
    steps = np.diff(np.log(np.maximum(np.asarray(sizes, dtype=float), 1e-300)))
    error = float(steps.std(ddof=1) / math.sqrt(len(steps))) if len(steps) > 1 else math.nan
    return float(steps.mean()), error

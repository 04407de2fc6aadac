"""Standard errors of means over answers that come in groups (the places of one sequence are not independent)."""

from __future__ import annotations

import math

import numpy as np


def group_sums(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Sum over each group, shape (groups,) or (groups, columns)."""
    _, codes = np.unique(groups, return_inverse=True)
    count = int(codes.max(initial=-1)) + 1
    if values.ndim == 1:
        return np.bincount(codes, weights=values, minlength=count)
    return np.stack([np.bincount(codes, weights=v, minlength=count) for v in values.T], axis=1)


def influence_error(influence: np.ndarray, groups: np.ndarray) -> float:
    """Standard error of an estimate from the influence of each row on it (mean zero); NaN for a single group."""
    sums = group_sums(influence - influence.mean(), groups)
    if len(sums) < 2:
        return math.nan
    return math.sqrt(len(sums) / (len(sums) - 1) * float(sums @ sums)) / len(influence)


def mean_of(values: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """Mean over rows with its standard error over groups."""
    return float(values.mean()), influence_error(values, groups)


def share_of(hits: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """Share of rows that are 1, with its standard error over groups.

    Binomial with one success and one failure added (Agresti and Coull), because an error bar of 0 would be a boast;
    at least that for as many trials as there are groups.
    """
    share, count = float(hits.mean()), len(np.unique(groups))
    smoothed = (share * count + 1) / (count + 2)
    binomial = math.sqrt(smoothed * (1 - smoothed) / count)
    if count == len(hits):
        return share, binomial
    spread = influence_error(hits.astype(float), groups)
    alone = math.sqrt(smoothed * (1 - smoothed) / len(hits))
    return share, binomial if share in (0.0, 1.0) or math.isnan(spread) else max(spread, alone)


def difference_of(before: np.ndarray, after: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """Mean of the paired differences before - after, each -1, 0 or 1, and its standard error.

    One more change is counted in the error than was seen (Agresti and Min 2005, matched pairs).
    """
    gaps = before - after
    error = influence_error(gaps, groups)
    floor = 1 / (len(np.unique(groups)) + 2)
    return float(gaps.mean()), floor if math.isnan(error) else math.hypot(error, floor)

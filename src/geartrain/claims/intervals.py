"""Intervals: from draws, one row for each seed, to an `Effect`. All at 95 % unless told otherwise, all deterministic.

Means, medians, slopes and log-ratios by the bootstrap over seeds; proportions by Clopper-Pearson up to 40 trials and by
Wilson beyond. The bootstrap's percentiles are set wider for few draws, as Student's t is (Hesterberg 2015,
arXiv:1411.5279, section 3.3, "expanded percentile intervals"): plain percentiles of eight draws cover 88 %, not 95 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats

from geartrain.claims.effect import LEVEL, Effect
from geartrain.errors import InputError

RESAMPLES = 10_000
FEW_TRIALS = 40
_CHUNK = 4_000_000
Statistic = Callable[..., Any]


def bootstrap(
    statistic: Statistic,
    *samples: Any,
    paired: bool = True,
    vectorised: bool = False,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    unit: str = "1",
    seed: int = 0,
) -> Effect:
    """Interval of any statistic of draws.

    **Cost** `resamples` calls of the statistic (or a few, if it is vectorised).

    Args:
        statistic: From the samples to one number. Vectorised: from samples with one more axis in front, to one number
            for each entry of it.
        *samples: Arrays whose first axis is the seeds.
        paired: All samples are resampled with the same seeds; otherwise each by itself.
        vectorised: What the statistic can do.
        level: Of confidence.
        resamples: How many.
        unit: Of the statistic.
        seed: Of the resampling.

    Raises:
        InputError: There are fewer than two seeds, or paired samples of different lengths.
    """
    arrays = [np.asarray(s, dtype=float) for s in samples]
    lengths = {len(a) for a in arrays}
    if min(lengths) < 2 or (paired and len(lengths) > 1):
        raise InputError(
            f"Samples have {sorted(lengths)} seeds; a bootstrap needs two or more, as many in each."
        )
    generator = np.random.default_rng(seed)
    told = f"{'paired ' if paired and len(arrays) > 1 else ''}bootstrap over seeds, {resamples:,} resamples"
    value = float(statistic(*(a[None] for a in arrays))[0]) if vectorised else float(statistic(*arrays))
    found: list[np.ndarray] = []
    step = max(1, _CHUNK // max(a.size for a in arrays)) if vectorised else 1
    left = resamples
    while left:
        now = min(step, left)
        left -= now
        draws = [generator.integers(len(a), size=(now, len(a))) for a in arrays[: 1 if paired else None]]
        drawn = [a[draws[0 if paired else i]] for i, a in enumerate(arrays)]
        found.append(
            np.asarray(statistic(*drawn)) if vectorised else np.array([statistic(*(d[0] for d in drawn))])
        )
    few = min(lengths)
    tail = stats.norm.cdf(math.sqrt(few / (few - 1)) * stats.t.ppf((1 - level) / 2, few - 1))
    if not math.isfinite(value):
        return Effect(value, math.nan, math.nan, unit, few, told)
    # A resample may leave a statistic undefined (a correlation of equal numbers); it says nothing then.
    low, high = np.nanquantile(np.concatenate(found), [tail, 1 - tail])
    return Effect(value, float(low), float(high), unit, few, told)


def mean(x: Any, **options: Any) -> Effect:
    """Mean over seeds of one number each."""
    return bootstrap(lambda a: a.mean(1), x, vectorised=True, **options)


def median(x: Any, **options: Any) -> Effect:
    """Median over seeds of one number each."""
    return bootstrap(lambda a: np.median(a, 1), x, vectorised=True, **options)


def difference(x: Any, y: Any, *, paired: bool = True, **options: Any) -> Effect:
    """Mean of x minus mean of y."""
    return bootstrap(lambda a, b: a.mean(1) - b.mean(1), x, y, paired=paired, vectorised=True, **options)


def log_ratio(x: Any, y: Any, *, paired: bool = True, **options: Any) -> Effect:
    """Ln of the ratio of medians."""
    return bootstrap(
        lambda a, b: np.log(np.median(a, 1) / np.median(b, 1)),
        x,
        y,
        paired=paired,
        vectorised=True,
        **options,
    )


def slope(x: Sequence[float], y: Any, **options: Any) -> Effect:
    """Least-squares slope over x of y, shape (seeds, len(x)), averaged over seeds."""
    place = np.asarray(x, dtype=float)
    weight = (place - place.mean()) / ((place - place.mean()) ** 2).sum()
    return bootstrap(lambda a: a.mean(1) @ weight, y, vectorised=True, **options)


def spearman(x: Any, y: Any, **options: Any) -> Effect:
    """Rank correlation over seeds (or runs) of two numbers each."""
    return bootstrap(rank_correlation, x, y, vectorised=True, **options)


def rank_correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Spearman's along axis 1; ties share their mean rank."""
    a, b = (stats.rankdata(v, axis=1) for v in (x, y))
    a, b = (v - v.mean(1, keepdims=True) for v in (a, b))
    with np.errstate(invalid="ignore"):
        return (a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1))


def proportion(successes: Any, trials: int | None = None, *, level: float = LEVEL) -> Effect:
    """Share of successes: Clopper-Pearson up to 40 trials, Wilson beyond.

    Args:
        successes: Their number; or one truth value for each trial.
        trials: Number of trials, if `successes` is a number.
        level: Of confidence.
    """
    if trials is None:
        flags = np.asarray(successes, dtype=bool)
        count, trials = int(flags.sum()), flags.size
    else:
        count = int(successes)
    if trials < 1 or not 0 <= count <= trials:
        raise InputError(
            f"{count} successes in {trials} trials; there must be a trial, and no more successes."
        )
    exact = trials <= FEW_TRIALS
    found = stats.binomtest(count, trials).proportion_ci(level, "exact" if exact else "wilson")
    return Effect(
        count / trials,
        float(found.low),
        float(found.high),
        "1",
        trials,
        "Clopper-Pearson" if exact else "Wilson",
    )


def difference_of_proportions(first: Any, second: Any, *, level: float = LEVEL) -> Effect:
    """First minus second share, of truth values of independent trials; Newcombe (1998), method 10."""
    one, other = (np.asarray(v, dtype=bool).ravel() for v in (first, second))
    z = float(stats.norm.ppf((1 + level) / 2))
    (p, low1, high1), (q, low2, high2) = (_wilson(v, z) for v in (one, other))
    low = p - q - math.hypot(p - low1, high2 - q)
    high = p - q + math.hypot(high1 - p, q - low2)
    return Effect(p - q, low, high, "1", min(one.size, other.size), "Newcombe's hybrid of Wilson intervals")


def _wilson(flags: np.ndarray, z: float) -> tuple[float, float, float]:
    p, n = float(flags.mean()), flags.size
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return p, middle - half, middle + half


def family_level(comparisons: int, level: float = LEVEL) -> float:
    """Level of each interval so that all of them hold together (Bonferroni).

    >>> round(family_level(5), 4)
    0.99
    """
    return 1 - (1 - level) / max(1, comparisons)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """p-values after Holm's correction, in the same order.

    >>> holm([0.01, 0.04, 0.03]).round(2).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)
    raised = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    found = np.empty_like(p)
    found[order] = np.minimum(raised, 1.0)
    return found

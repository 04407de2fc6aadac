"""What the instruments of the recorded columns share: reading one, smoothing it, and robust statistics.

Each takes a `History`, or a `Run` whose history is meant.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from geartrain.records import Cost


@dataclass(frozen=True)
class Series:
    """One recorded column without the steps at which it was not finite.

    Attributes:
        steps: Step numbers, counted from 0.
        values: The column there.
        failed: Whether the run broke (the last values were not finite).
    """

    steps: np.ndarray
    values: np.ndarray
    failed: bool

    def __len__(self) -> int:
        return len(self.values)


def price(subject: Any, **options: Any) -> Cost:
    """Reading what was recorded costs no pass over the data."""
    return Cost()


def series(subject: Any, column: str = "loss") -> Series:
    """The finite part of a column of the history."""
    history = getattr(subject, "history", subject)
    values, steps = history.column(column), history.column("step")
    if not len(values):
        return Series(np.array([]), np.array([]), history.failure is not None)
    good = np.isfinite(values)
    return Series(steps[good], values[good], history.failure is not None or not bool(good[-1]))


def too_short(recorded: Series, needed: int, column: str = "loss") -> str | None:
    """The sentence that says so, or ``None``."""
    if len(recorded) >= needed:
        return None
    return f"Only {len(recorded)} finite values of {column} were recorded; at least {needed} are needed."


def block_means(values: np.ndarray, count: int) -> np.ndarray:
    """Means of ``count`` stretches of (nearly) equal length."""
    return np.array([part.mean() for part in np.array_split(values, count)])


def spread(values: np.ndarray) -> float:
    """Robust standard deviation: 1.4826 times the median distance from the median."""
    return 1.4826 * float(np.median(np.abs(values - np.median(values)))) if len(values) else float("nan")


def trailing_median(values: np.ndarray, window: int) -> np.ndarray:
    """Median of at most ``window`` values strictly before each place; NaN at the first."""
    result = np.full(len(values), np.nan)
    for i in range(1, min(window, len(values))):
        result[i] = np.median(values[:i])
    if len(values) > window:
        views = np.lib.stride_tricks.sliding_window_view(values, window)[:-1]
        result[window:] = np.median(views, axis=1)
    return result


def logarithm(values: np.ndarray) -> np.ndarray:
    """Ln of the values unless one is negative (then they are left alone): multiplicative noise becomes even.

    Zeros, which rounding makes of the losses of single examples, count as the smallest positive value.
    """
    positive = values[values > 0]
    if not len(positive) or float(values.min()) < 0:
        return values
    return np.log(np.maximum(values, positive.min()))


@dataclass(frozen=True)
class Jumps:
    """Upward jumps of a positive column.

    Attributes:
        places: Index of the first value of each jump.
        peaks: Largest ratio to the running median within each.
        ratios: Ratio of every value to its running median; NaN for the first few.
    """

    places: np.ndarray
    peaks: np.ndarray
    ratios: np.ndarray


def jumps(values: np.ndarray, *, sigmas: float, least: float, window: int = 50, warmup: int = 10) -> Jumps:
    """Values more than ``sigmas`` robust deviations, and at least the factor ``least``, above the running median.

    Both are judged on the logarithm: batch noise is multiplicative and skewed, and on the raw loss of a small
    batch six deviations are exceeded all the time.
    """
    logs = logarithm(values)
    above = logs - trailing_median(logs, window)
    above[: min(warmup, len(above))] = np.nan
    known = np.nan_to_num(above)
    local = 1.4826 * trailing_median(np.abs(known[warmup:]), 2 * window)
    scale = np.concatenate([np.full(min(warmup, len(above)), np.nan), local])
    # A calm stretch of a few steps must not make ordinary noise look like a jump.
    scale = np.fmax(scale, 0.5 * spread(known[warmup:]) if len(known) > warmup else np.nan)
    limit = np.maximum(sigmas * np.nan_to_num(scale, nan=np.inf), np.log(least))
    high = known > limit
    starts = np.flatnonzero(high & ~np.concatenate([[False], high[:-1]]))
    ends = [i + int(np.argmin(np.append(high[i:], False))) for i in starts]
    peaks = np.array([np.exp(known[i:j].max()) for i, j in zip(starts, ends, strict=True)])
    return Jumps(starts, peaks, np.exp(above))

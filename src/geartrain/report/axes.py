"""Axes of a chart: from numbers to pixels, linear or logarithmic, and where the ticks go."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

# Beyond this, differences of two values overflow.
_LARGEST = 1e300


@dataclass(frozen=True)
class Axis:
    """A mapping of the interval [low, high] to the pixels [start, end].

    Attributes:
        low: Smallest number shown.
        high: Largest number shown, above ``low``.
        start: Pixel of ``low``.
        end: Pixel of ``high``.
        log: Whether equal ratios, not differences, are equally far apart.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def pixels(self, values: np.ndarray) -> np.ndarray:
        """Positions of the values; NaN where a value is not finite or has no logarithm."""
        values = np.asarray(values, dtype=float)
        valid = np.isfinite(values) & ((values > 0) | (not self.log))
        low, high = self._scaled(np.array([self.low, self.high]))
        position = np.full(values.shape, np.nan)
        fraction = (self._scaled(np.clip(values[valid], -_LARGEST, _LARGEST)) - low) / (high - low)
        # SVG coordinates are single precision; what lies far outside is clipped anyway.
        position[valid] = self.start + np.clip(fraction, -5.0, 6.0) * (self.end - self.start)
        return position

    def ticks(self, count: int = 5) -> list[float]:
        """Round numbers inside the interval, about ``count`` of them."""
        return (
            _log_ticks(self.low, self.high, count) if self.log else _linear_ticks(self.low, self.high, count)
        )

    def _scaled(self, values: np.ndarray) -> np.ndarray:
        return np.log10(values) if self.log else values


def linear_axis(arrays: Iterable[np.ndarray], start: float, end: float, *, pad: float = 0.06) -> Axis:
    """A linear axis around all finite values."""
    low, high = _extent(arrays)
    margin = pad * (high - low)
    # A loss or a rate that never goes below zero should not be given a negative axis.
    bottom = max(low - margin, 0.0) if low >= 0 else low - margin
    return Axis(bottom, high + margin, start, end)


def log_axis(arrays: Iterable[np.ndarray], start: float, end: float) -> Axis | None:
    """A logarithmic axis around all finite values, or None where one of them is not positive."""
    values = _finite(arrays)
    if values.size == 0 or values.min() <= 0:
        return None
    low, high = math.log10(values.min()), math.log10(min(values.max(), _LARGEST))
    margin = max(0.06 * (high - low), 0.02)
    return Axis(10 ** max(low - margin, -307.0), 10 ** min(high + margin, 307.0), start, end, log=True)


def _finite(arrays: Iterable[np.ndarray]) -> np.ndarray:
    parts = [np.ravel(np.asarray(a, dtype=float)) for a in arrays]
    values = np.concatenate(parts) if parts else np.empty(0)
    return values[np.isfinite(values)]


def _extent(arrays: Iterable[np.ndarray]) -> tuple[float, float]:
    values = np.clip(_finite(arrays), -_LARGEST, _LARGEST)
    if values.size == 0:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    if high - low > 1e-9 * max(abs(low), abs(high)):
        return low, high
    half = 0.5 * abs(low) or 0.5
    return low - half, high + half


def _linear_ticks(low: float, high: float, count: int) -> list[float]:
    magnitude = 10.0 ** math.floor(math.log10((high - low) / count))
    ticks: list[float] = []
    for multiple in (10.0, 5.0, 2.0, 1.0, 0.5):
        step = multiple * magnitude
        first, last = math.ceil(low / step), math.floor(high / step + 1e-9)
        ticks = [float(f"{k * step:.12g}") for k in range(first, last + 1)]
        if len(ticks) >= max(2, count - 1):
            break
    return ticks


def _log_ticks(low: float, high: float, count: int) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    decades = [10.0**k for k in range(first, last + 1) if low <= 10.0**k <= high]
    if len(decades) >= 3:
        stride = math.ceil(len(decades) / count)
        return decades[::stride]
    steps = [m * 10.0**k for k in range(first, last + 1) for m in (1, 2, 5)]
    fine = [t for t in steps if low <= t <= high]
    if len(fine) > 2 * count and len(decades) >= 2:
        return decades  # the others would stand on each other
    return fine if len(fine) >= 2 else _linear_ticks(low, high, count - 1)

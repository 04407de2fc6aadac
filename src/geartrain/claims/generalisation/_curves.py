"""How much a curve rises, and where, without choosing the place on the numbers that are then reported."""

from __future__ import annotations

import math

import numpy as np


def largest_rise(logs: np.ndarray) -> tuple[int, int]:
    """Places i < j with the largest difference of a curve, shape (places,)."""
    gaps = np.where(np.triu(np.ones((len(logs), len(logs)), bool), 1), logs[None] - logs[:, None], -math.inf)
    i, j = np.unravel_index(int(gaps.argmax()), gaps.shape)
    return int(i), int(j)


def halves(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Draws that choose, draws that are judged: even and odd ones, and the other way round."""
    even = np.arange(count) % 2 == 0
    return [(even, ~even), (~even, even)]


def crossed_rise(curves: np.ndarray) -> np.ndarray:
    """Largest rise (ln) of positive curves, shape (draws, places), one number for each draw.

    Where the mean curve rises most is chosen on one half of the draws and judged on the other, both ways: the
    largest of many noisy differences would be biased upwards.
    """
    logs, found = np.log(curves), np.empty(len(curves))
    for choosing, judged in halves(len(curves)):
        i, j = largest_rise(logs[choosing].mean(0))
        found[judged] = logs[judged, j] - logs[judged, i]
    return found


def crossed_ends(curves: np.ndarray) -> np.ndarray:
    """Lowest value before the peak over the last value (ln), one number for each draw; chosen likewise."""
    logs, found = np.log(curves), np.empty(len(curves))
    for choosing, judged in halves(len(curves)):
        i, _ = largest_rise(logs[choosing].mean(0))
        found[judged] = logs[judged, i] - logs[judged, -1]
    return found

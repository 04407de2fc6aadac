"""Longest stretch of the run without progress.

Misleads on runs that were stopped long after convergence (the tail *is* a plateau; see ``level`` and ``from_start``)
and where the noise of single batches hides slow progress: only what exceeds the noise of the smoothed loss
counts. Ledger: 0.10, 1.11.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from geartrain.budget import Budget
from geartrain.instruments import _series
from geartrain.instruments._answers import answer, no_answer
from geartrain.instruments._base import instrument
from geartrain.records import Measurement

_LEAST = 16
_BLOCKS = 50
_SHARE = 0.01


@instrument(needs="history", unit="1", price=_series.price)
def loss_plateau(
    history: Any, *, generator: torch.Generator | None = None, budget: Budget | int | str | None = None
) -> Measurement:
    """Find the longest stretch in which the smoothed loss won less than 1 % of its range; give its share of the run.

    The loss is averaged over at most 50 stretches of equal length; m_i is the least average so far. The plateau is the
    longest [i, j] with m_i - m_j below 1 % of the range of the averages and below one standard deviation of their
    noise (from second differences), whichever is larger. A run whose whole gain is below three such deviations
    is one plateau.

    **Cost** nothing.

    **Assumes** nothing of the loss.

    **Misleads** on runs that were stopped long after convergence (the tail *is* a plateau: see ``level`` and
    ``from_start``), and where the noise of single batches hides slow progress.

    Args:
        history: A `History`, or a `Run`.
        generator: Not used.
        budget: Not used.

    Returns:
        The share, between 0 and 1, exact to one stretch (the standard error). ``details``: ``first_step``,
        ``last_step``, ``level`` (loss on the plateau over the initial loss), ``from_start`` and ``to_end`` (whether
        it begins within the first tenth, and lasts to the end), ``range``, ``noise``.

    >>> from geartrain.run import History
    >>> history = History({"step": list(range(100)), "loss": [1.0] * 100})
    >>> float(loss_plateau(history))
    1.0
    """
    recorded = _series.series(history)
    if (why := _series.too_short(recorded, _LEAST)) is not None:
        return no_answer("loss_plateau", why)
    count = min(_BLOCKS, len(recorded) // 4)
    means = _series.block_means(recorded.values, count)
    best, noise = np.minimum.accumulate(means), _noise(means)
    extent = float(means.max() - means.min())
    still = best[0] - best[-1] <= 3.0 * noise
    first, last = (0, count - 1) if still else _longest(best, max(_SHARE * extent, noise))
    share = (last - first) / (count - 1)
    parts = np.array_split(recorded.steps, count)
    details = {
        "first_step": int(parts[first][0]),
        "last_step": int(parts[last][-1]),
        "level": _over(float(means[first : last + 1].mean()), float(means[0])),
        "from_start": first < 0.1 * count,
        "to_end": last == count - 1,
        "range": extent,
        "noise": noise,
    }
    sentence = f"Longest stretch without progress: steps {details['first_step']} to {details['last_step']}."
    return answer("loss_plateau", share, sentence, error=1.0 / count, details=details)


def _longest(best: np.ndarray, limit: float) -> tuple[int, int]:
    """The longest [i, j] with best[i] - best[j] < limit; ``best`` never rises."""
    first, found = 0, (0, 0)
    for last in range(len(best)):
        while best[first] - best[last] >= limit and first < last:
            first += 1
        if last - first > found[1] - found[0]:
            found = (first, last)
    return found


def _noise(means: np.ndarray) -> float:
    """Standard deviation of the noise of the averages: second differences of a smooth curve are small."""
    return _series.spread(np.diff(means, 2)) / 6.0**0.5 if len(means) > 3 else 0.0


def _over(a: float, b: float) -> float:
    return a / b if b else float("nan")

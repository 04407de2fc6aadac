"""Slope of the loss at the end of what was recorded, on logarithmic axes: is it still falling?

Misleads when the step size was just changed (a decay step makes a cliff that no power law continues) and when
the loss approaches a floor above zero: the relative slope then tends to zero although the excess still falls.
References: Sen (1968), J. Am. Stat. Assoc. 63:1379. Ledger: 1.26.
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

_LEAST = 24
_BLOCKS = 12


@instrument(needs="history", unit="1", price=_series.price)
def loss_slope(
    history: Any, *, generator: torch.Generator | None = None, budget: Budget | int | str | None = None
) -> Measurement:
    """Estimate d ln(loss) / d ln(step) over the last third of the recorded steps.

    The third is cut into at most 12 stretches; the value is the median slope over all pairs of stretches (Theil and
    Sen) of the logarithm of the mean loss against the logarithm of the step.

    **Cost** nothing.

    **Assumes** a positive loss.

    **Misleads** where the step size was just changed (a decay step makes a cliff that no power law continues),
    and where the loss approaches a floor above zero: the relative slope then tends to zero although the excess
    still falls.

    Args:
        history: A `History`, or a `Run`.
        generator: Not used.
        budget: Not used.

    Returns:
        The exponent, a pure number: -0.5 means that ten times the steps divide the loss by about three; 0, that it
        does not fall. The standard error comes from the scatter of the stretches. ``details``: ``first_step``,
        ``last_step``, ``predicted_gain`` (share of the loss that twice the steps would win at this slope).

    >>> from geartrain.run import History
    >>> history = History({"step": list(range(300)), "loss": [1.0 / (t + 1.0) for t in range(300)]})
    >>> round(float(loss_slope(history)), 3)
    -1.0
    """
    recorded = _series.series(history)
    if (why := _series.too_short(recorded, _LEAST)) is not None:
        return no_answer("loss_slope", why)
    last = slice(len(recorded) - len(recorded) // 3, None)
    steps, values = recorded.steps[last] + 1.0, recorded.values[last]
    count = min(_BLOCKS, len(values) // 2)
    means = _series.block_means(values, count)
    if means.min() <= 0:
        return no_answer("loss_slope", "The loss is not positive, so it has no relative slope.")
    slope, error = _theil_sen(_series.block_means(np.log(steps), count), np.log(means))
    sentence = f"d ln(loss)/d ln(step) over the steps {int(steps[0]) - 1} to {int(steps[-1]) - 1}."
    details = {
        "first_step": int(steps[0]) - 1,
        "last_step": int(steps[-1]) - 1,
        "predicted_gain": 1.0 - float(2.0 ** min(slope, 50.0)),
    }
    return answer("loss_slope", slope, sentence, error=error, details=details)


def _theil_sen(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    first, second = np.triu_indices(len(x), 1)
    slope = float(np.median((y[second] - y[first]) / (x[second] - x[first])))
    residuals = y - slope * x
    scatter = float(np.std(residuals, ddof=2)) if len(x) > 2 else float("nan")
    return slope, scatter / float(np.sqrt(np.sum((x - x.mean()) ** 2)))

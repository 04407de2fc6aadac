"""Share of the initial training loss that the run has removed.

Misleads when the first losses are huge for a reason that has nothing to do with learning (a bad initialisation:
see `initial_scale`), and says nothing about the floor that noise in the labels sets. Ledger: 1.26.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from geartrain.budget import Budget
from geartrain.instruments import _series
from geartrain.instruments._answers import answer, mean_and_error, no_answer
from geartrain.instruments._base import instrument
from geartrain.records import Measurement

_LEAST = 8


@instrument(needs="history", unit="1", price=_series.price)
def loss_progress(
    history: Any, *, generator: torch.Generator | None = None, budget: Budget | int | str | None = None
) -> Measurement:
    """Compute 1 - (loss at the end) / (loss at the start), both averaged over steps.

    The start is the mean of the first 1 % of the batch losses (at least 1, at most 16), the end that of the last 5 %
    (at least 4, at most 200).

    **Cost** nothing.

    **Assumes** a positive loss.

    **Misleads** where the first losses are huge for a reason that has nothing to do with learning (see
    `initial_scale`); and it says nothing about the floor that noise in the labels sets, so 0.5 may be all there
    is.

    Args:
        history: A `History`, or a `Run`.
        generator: Not used.
        budget: Not used.

    Returns:
        The share: 1 = all of it, 0 = nothing, negative = the loss grew. The standard error is that of both means.
        ``details``: ``initial``, ``final``, ``minimum`` (least mean over stretches as long as the end), ``rose`` =
        final/minimum, ``failed`` (whether the loss stopped being finite; the value then speaks of the steps before).

    >>> from geartrain.run import History
    >>> history = History({"step": list(range(10)), "loss": [4.0] + [1.0] * 9})
    >>> float(loss_progress(history))
    0.75
    """
    recorded = _series.series(history)
    if (why := _series.too_short(recorded, _LEAST)) is not None:
        return no_answer("loss_progress", why, details={"failed": recorded.failed})
    count = len(recorded)
    start = recorded.values[: int(np.clip(round(0.01 * count), 1, 16))]
    length = int(np.clip(round(0.05 * count), 4, 200))
    initial, initial_error = mean_and_error(start)
    final, final_error = mean_and_error(recorded.values[-length:])
    if not initial > 0:
        return no_answer("loss_progress", "The initial loss is not positive, so there is no share of it.")
    error = float(np.hypot(final_error, np.nan_to_num(initial_error) * final / initial)) / initial
    minimum = float(np.min(np.convolve(recorded.values, np.ones(length) / length, mode="valid")))
    details = {
        "initial": initial,
        "final": final,
        "minimum": minimum,
        "rose": final / minimum if minimum > 0 else float("nan"),
        "failed": recorded.failed,
    }
    broken = " The loss then stopped being finite." if recorded.failed else ""
    sentence = f"From {initial:.3g} to {final:.3g} in {count} steps.{broken}"
    return answer("loss_progress", 1.0 - final / initial, sentence, error=error, details=details)

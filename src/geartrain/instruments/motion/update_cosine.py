"""Cosine of successive updates: does the optimizer go straight on, wander, or turn back?

Misleads under momentum, which makes successive updates alike whatever the gradients do, and averages over all
directions: `back_and_forth` looks along the sharpest one. Ledger: 0.4.
"""

from __future__ import annotations

import numpy as np
import torch

from geartrain.budget import Budget
from geartrain.instruments import _window
from geartrain.instruments._answers import answer, mean_and_error, no_answer
from geartrain.instruments._base import instrument
from geartrain.records import Measurement, State
from geartrain.run import Run


@instrument(needs="run", unit="1", price=_window.price)
def update_cosine(
    run: Run,
    *,
    steps: int = _window.STEPS,
    window: _window.Window | None = None,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the mean cosine of the angle between successive updates.

    For gradient descent of step η on one mode of curvature λ it is +1 below ηλ = 1 and -1 above.

    **Cost** three gradients per step.

    **Assumes** at least two updates that are not zero.

    **Misleads** under momentum, which makes successive updates alike whatever the gradients do. It averages
    over all directions: `back_and_forth` looks along the sharpest one.

    Args:
        run: The run; it is put back exactly.
        steps: Further steps to take.
        window: Steps taken already.
        generator: Not used.
        budget: Limit in time.

    Returns:
        The cosine, a pure number, with its standard error over the pairs. ``details``: ``cosines`` (of each pair),
        ``lag_2`` (mean cosine of updates two steps apart), ``share_negative`` (of the pairs).
    """
    taken = _window.of(run, steps, window, budget)
    if taken.failure and len(taken) < 3:
        return no_answer("update_cosine", taken.failure, state=State.NON_FINITE)
    moved = taken.updates.double()[taken.updates.double().norm(dim=1) > 0]
    if len(moved) < 2:
        return no_answer("update_cosine", f"Only {len(moved)} of {len(taken)} steps moved the parameters.")
    unit = moved / moved.norm(dim=1, keepdim=True)
    cosines = (unit[1:] * unit[:-1]).sum(1).cpu().numpy()
    value, error = mean_and_error(cosines)
    second = (unit[2:] * unit[:-2]).sum(1).cpu().numpy()
    details = {
        "cosines": cosines,
        "lag_2": mean_and_error(second)[0],
        "share_negative": float(np.mean(cosines < 0)),
    }
    return answer(
        "update_cosine", value, f"Mean over {len(cosines)} pairs of steps.", error=error, details=details
    )

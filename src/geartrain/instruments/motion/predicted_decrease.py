"""Actual decrease of a batch's loss in one step, over the decrease that its gradient promised.

1 while the loss is straight over the length of a step, exactly 1/2 at the minimum of the parabola along the step,
0 where the step jumps to the other side at the same height, negative where the loss goes up. Misleads
under strong momentum on small batches: the update then has little to do with this batch's gradient, and the promise
is small or of the wrong sign (see ``share_downhill``). Reference: Nocedal and Wright (2006), §4.1, for the ratio
of actual to predicted reduction. Ledger: 0.21.
"""

from __future__ import annotations

import numpy as np
import torch

from geartrain.budget import Budget
from geartrain.instruments import _window
from geartrain.instruments._answers import answer, no_answer, ratio_and_error
from geartrain.instruments._base import instrument
from geartrain.records import Measurement, State
from geartrain.run import Run


@instrument(needs="run", unit="1", price=_window.price)
def predicted_decrease(
    run: Run,
    *,
    steps: int = _window.STEPS,
    window: _window.Window | None = None,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure Σ(L(θ) - L(θ+δ)) / Σ(-∇L(θ)·δ) over steps, each on its own batch.

    On a quadratic, one step of gradient descent with step η along curvature λ gives 1 - ηλ/2. The second-order
    prediction uses the slope at both ends of the step, -(∇L(θ) + ∇L(θ+δ))·δ/2, exact for parabolas.

    **Cost** three gradients per step.

    **Assumes** that the run has a loss function.

    **Misleads** under strong momentum on small batches: the update then has little to do with this batch's
    gradient, and the promise is small or of the wrong sign (see ``share_downhill``).

    Args:
        run: The run; it is put back exactly.
        steps: Further steps to take.
        window: Steps taken already.
        generator: Not used.
        budget: Limit in time.

    Returns:
        The ratio, a pure number, with a jackknife standard error over the steps that includes rounding of the losses.
        ``details``: ``second_order`` (the ratio that the parabola predicts), ``second_order_gap`` (value minus
        that: what third and higher orders do), ``share_downhill`` (steps whose update goes downhill on its own batch),
        ``share_uphill_loss`` (steps after which the loss of the same batch was higher), ``ratios`` (of each step).
    """
    taken = _window.of(run, steps, window, budget)
    before, after = taken.column("loss_before"), taken.column("loss_after")
    promised, later = -taken.column("slope_before"), -taken.column("slope_after")
    if taken.failure:
        return no_answer("predicted_decrease", taken.failure, state=State.NON_FINITE)
    known = np.isfinite(before) & np.isfinite(after) & np.isfinite(promised) & np.isfinite(later)
    if not known.any():
        return no_answer("predicted_decrease", "The run has no loss function, or no step was affordable.")
    actual, promised, later = (before - after)[known], promised[known], later[known]
    if not promised.sum() > 0:
        return no_answer(
            "predicted_decrease",
            "Over these steps the updates do not go downhill on their own batches at all.",
        )
    value, error = ratio_and_error(actual, promised)
    second, _ = ratio_and_error(0.5 * (promised + later), promised)
    details = {
        "second_order": second,
        "second_order_gap": value - second,
        "share_downhill": float(np.mean(promised > 0)),
        "share_uphill_loss": float(np.mean(actual < 0)),
        "ratios": actual / np.where(promised != 0, promised, np.nan),
    }
    error = float(np.hypot(error, _rounding(run, before[known]) / promised.sum()))
    sentence = f"From {len(actual)} steps, each on its own batch; 1/2 is the minimum of the parabola."
    return answer("predicted_decrease", value, sentence, error=error, details=details)


def _rounding(run: Run, losses: np.ndarray) -> float:
    """Error of a sum of differences of losses that carry the rounding of the parameters' type."""
    eps = torch.finfo(next(run.model.parameters()).dtype).eps
    return float(eps * np.sqrt(np.sum(losses**2)))

"""Where on its own parabola a step lands: short of the minimum, at it, or beyond.

-1: hardly moved (the slope is the same at both ends); 0: at the minimum; +1: at the same height on the other side;
more than 1: the loss went up. Misleads under momentum on small batches, as `predicted_decrease` does. Reference:
Schneider, Dangel, Hennig (2021), Cockpit, arXiv:2102.06604, §2.2 (who also weigh the losses and their noise; here the
parabola is that of the two slopes on the same batch, which have no sampling noise). Ledger: 0.21.
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
def step_length_gauge(
    run: Run,
    *,
    steps: int = _window.STEPS,
    window: _window.Window | None = None,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure α = -Σ slope after / Σ slope before the step, both along the update and on the step's own batch.

    A parabola with these slopes has its minimum at t* = slope before / (slope before - slope after) of the step, and
    α = 1/t* - 1. On a quadratic, gradient descent with step η along curvature λ gives ηλ - 1.

    **Cost** three gradients per step.

    **Assumes** that the run has a loss function.

    **Misleads** under momentum on small batches: the update then has little to do with this batch's gradient,
    and α scatters widely. A value near 0 is the best step for this batch alone; over many batches shorter steps
    do better.

    Args:
        run: The run; it is put back exactly.
        steps: Further steps to take.
        window: Steps taken already.
        generator: Not used.
        budget: Limit in time.

    Returns:
        α, a pure number, with a jackknife standard error over the steps. ``details``: ``median`` (over steps that go
        downhill), ``share_beyond`` (of those steps: α > 0), ``curvature`` (mean second derivative along the update
        per squared length, unit ℓ/θ²), ``alphas`` (of each step, NaN where it goes uphill).
    """
    taken = _window.of(run, steps, window, budget)
    if taken.failure:
        return no_answer("step_length_gauge", taken.failure, state=State.NON_FINITE)
    before, after = taken.column("slope_before"), taken.column("slope_after")
    known = np.isfinite(before) & np.isfinite(after)
    if not known.any():
        return no_answer("step_length_gauge", "The run has no loss function, or no step was affordable.")
    before, after, lengths = before[known], after[known], taken.norms()[known]
    if not before.sum() < 0:
        return no_answer(
            "step_length_gauge",
            "Over these steps the updates do not go downhill on their own batches at all.",
        )
    value, error = ratio_and_error(-after, before)
    alphas = np.where(before < 0, -after / np.where(before < 0, before, 1.0), np.nan)
    down = alphas[np.isfinite(alphas)]
    details = {
        "median": float(np.median(down)),
        "share_beyond": float(np.mean(down > 0)),
        "curvature": float(np.sum(after - before) / np.sum(lengths**2)),
        "alphas": alphas,
    }
    sentence = (
        f"From {len(before)} steps; -1 hardly moved, 0 at the minimum of the parabola, 1 as far beyond."
    )
    return answer("step_length_gauge", value, sentence, error=error, details=details)

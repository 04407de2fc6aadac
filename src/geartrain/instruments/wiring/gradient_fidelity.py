"""Does the optimizer get the gradient of this batch's loss, or something else?

The gradient that reaches ``optimizer.step`` is compared with one computed anew, at the same parameters, on the same
batch, in the same mode and with the same random numbers. They part when gradients are not cleared (they then add
up), when something edits them, or when the step minimises another loss than the one declared. Misleads where
the user's step mixes or augments the batch after it was handed over. Ledger: 0.13.
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

_SAME = 0.01


@instrument(needs="run", unit="1", price=_window.price)
def gradient_fidelity(
    run: Run,
    *,
    steps: int = _window.STEPS,
    window: _window.Window | None = None,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the mean cosine between the gradient used (before clipping) and the gradient of the batch's loss.

    Where several batches are gathered for one optimizer step, the sum of their gradients is what is compared. If
    gradients are not cleared, the one used is exactly what lay in the parameters plus the fresh one.

    **Cost** three gradients per step.

    **Assumes** a loss function, and an optimizer that does not evaluate it itself.

    **Misleads** where the user's step mixes or augments the batch after it was handed over, or adds terms that
    the declared loss does not have: the gradients then differ rightly.

    Args:
        run: The run; it is put back exactly.
        steps: Further steps to take.
        window: Steps taken already.
        generator: Not used.
        budget: Limit in time.

    Returns:
        The cosine: 1 = the same direction. The standard error is over the steps. ``details``: ``norm_ratio`` (mean of
        used over fresh norm), ``norm_ratio_growth`` (change of that ratio per step, relative to its mean),
        ``uncleared`` (share of the steps whose gradient is leftover + fresh to 1 %, but not the fresh one alone: 1
        means that gradients are never cleared), ``accumulation`` (mean cosine between the gradient used and
        leftover + fresh) and ``accumulation_error``, ``gathers`` (whether the loop gathers several batches per
        optimizer step), ``cosines``.
    """
    if isinstance(run.optimizer, torch.optim.LBFGS):
        return no_answer("gradient_fidelity", "LBFGS evaluates the loss itself, several times per step.")
    taken = _window.of(run, steps, window, budget)
    if taken.failure and len(taken) < 3:
        return no_answer("gradient_fidelity", taken.failure, state=State.NON_FINITE)
    cosines = taken.column("fidelity")
    known = np.isfinite(cosines)
    if not known.any():
        return no_answer(
            "gradient_fidelity",
            "The run has no loss function, its gradients are zero, or no optimizer step was seen.",
        )
    value, error = mean_and_error(cosines[known])
    uncleared = (taken.column("sum_error") < _SAME) & (taken.column("fresh_error") > _SAME)
    ratio = taken.column("used_norm")[known] / taken.column("fresh_norm")[known]
    summed = taken.column("accumulation")
    accumulation, accumulation_error = mean_and_error(summed[np.isfinite(summed)])
    details = {
        "norm_ratio": float(ratio.mean()),
        "norm_ratio_growth": _growth(ratio),
        "accumulation": accumulation,
        "accumulation_error": accumulation_error,
        "uncleared": float(uncleared[known].mean()),
        "gathers": not all(step.updated for step in taken.steps),
        "cosines": cosines,
    }
    sentence = f"Mean over {int(known.sum())} optimizer steps; 1 is the gradient of the batch's own loss."
    return answer("gradient_fidelity", value, sentence, error=error, details=details)


def _growth(ratio: np.ndarray) -> float:
    """Slope of the ratio over steps, relative to its mean."""
    if len(ratio) < 2 or not ratio.mean() > 0:
        return float("nan")
    return float(np.polyfit(np.arange(len(ratio)), ratio, 1)[0] / ratio.mean())

"""Length of the optimizer's updates.

Misleads across architectures: a length in parameters means nothing by itself (``relative`` in the details and
`update_ratio` compare it with the weights). Ledger: 0.21.
"""

from __future__ import annotations

import torch

from geartrain.budget import Budget
from geartrain.instruments import _window
from geartrain.instruments._answers import answer, mean_and_error, no_answer
from geartrain.instruments._base import instrument
from geartrain.records import Measurement, State
from geartrain.run import Run


@instrument(needs="run", unit="θ", price=_window.price)
def update_norm(
    run: Run,
    *,
    steps: int = _window.STEPS,
    window: _window.Window | None = None,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the mean Euclidean norm of the parameters' change in a training step.

    **Cost** three gradients per step.

    **Assumes** that the next steps are like the present ones.

    **Misleads** across architectures: a length in parameters means nothing by itself (``relative`` and
    `update_ratio` compare it with the weights).

    Args:
        run: The run; it is put back exactly.
        steps: Further steps to take.
        window: Steps taken already.
        generator: Not used: the steps draw what the run's own next steps would draw.
        budget: Limit in time.

    Returns:
        The norm, unit θ, with its standard error over the steps. ``details``: ``relative`` (over the norm of all
        parameters), ``norms`` (of each step), ``path_efficiency`` (length of the sum of the updates over the sum of
        their lengths: 1 straight on, about 1/√steps for a random walk, less when it goes back and forth), ``lr``.
    """
    taken = _window.of(run, steps, window, budget)
    if not len(taken):
        state = State.NON_FINITE if taken.failure else State.OUT_OF_BUDGET
        return no_answer("update_norm", taken.failure or "No step was affordable.", unit="θ", state=state)
    norms = taken.norms()
    value, error = mean_and_error(norms)
    size, total = float(taken.start.double().norm()), float(norms.sum())
    details = {
        "relative": value / size if size > 0 else float("nan"),
        "norms": norms,
        "path_efficiency": float(taken.updates.double().sum(0).norm()) / total if total > 0 else float("nan"),
        "lr": run.lr,
    }
    return answer(
        "update_norm", value, f"Mean over {len(taken)} steps.", unit="θ", error=error, details=details
    )

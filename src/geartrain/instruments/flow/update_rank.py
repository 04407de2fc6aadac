"""Rank of the updates: along how many directions a training step changes each weight matrix.

The gradient of a linear layer on B examples is a sum of B outer products, so its rank is at most B; what is seen is
usually far less, because the examples' errors and inputs are alike. Adam, which divides entry by entry, spreads the
update over more directions; a sum of many steps whose rank stays low is what low-rank adaptation relies on.

References:
    Roy, Vetterli (2007), "The effective rank", EUSIPCO; Hu et al. (2021), "LoRA", arXiv:2106.09685, §7.

Ledger: 0.15, 1.11
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch

from geartrain.budget import Budget
from geartrain.instruments import _window
from geartrain.instruments._answers import no_answer, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments.flow import _matrices
from geartrain.records import Measurement, State, Status
from geartrain.run import Run


@instrument(needs="run", unit="1", price=_window.price)
def update_rank(
    run: Run,
    *,
    steps: int = _window.STEPS,
    window: _window.Window | None = None,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the effective rank of the change that one training step makes to each weight matrix.

    With the singular values of a step's update, p_i = σ_i/Σσ: exp(-Σ p_i ln p_i), the mean over the next ``steps``.

    **Cost** three gradients per step, as for the other instruments of the next steps (they share them), and one
    singular value decomposition per matrix and step.

    **Assumes** that the next steps are like the present ones.

    **Misleads** in low precision: rounding of small updates to large weights adds directions that nothing learns in
    (the effective rank is then near that of a random matrix; ``stable_rank`` hardly moves). Weight decay adds the
    weights themselves to every update.

    Args:
        run: The run; it is put back exactly.
        steps: Further steps to take.
        window: Steps taken already.
        generator: Not used: the steps draw what the run's own next steps would draw.
        budget: Limit in time.

    Returns:
        The effective rank of a single update, dims ``("layer",)``, with standard errors over the steps; NaN for a
        matrix that did not move. ``details``: per layer ``stable_rank`` (mean), ``of_sum`` (effective rank of all
        the steps' changes added up), ``stable_rank_of_sum``, ``per_step`` (steps x layers), ``shape``, ``steps``.

    Raises:
        InputError: A setting is out of range.

    References:
        Roy, Vetterli (2007), definition 1.

    Example:
        One example changes a linear layer along one direction:

        >>> import torch
        >>> model = torch.nn.Linear(3, 2, bias=False).double()
        >>> x, y = torch.randn(1, 3).double(), torch.randn(1, 2).double()
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        >>> run = Run(model, torch.nn.functional.mse_loss, optimizer, (x, y), batch_size=1)
        >>> update_rank(run).details["stable_rank"].round(9).tolist()
        [1.0]
    """
    name = "update_rank"
    taken = _window.of(run, steps, window, budget)
    shapes = _matrices.shapes_of(taken.layout)
    if not shapes:
        return not_applicable(name, "No parameter is a matrix.")
    if taken.failure or not len(taken):
        state = State.NON_FINITE if taken.failure else State.OUT_OF_BUDGET
        return no_answer(name, taken.failure or "No step was affordable.", state=state)
    rows = [_ranks(taken.layout, update) for update in taken.updates]
    each = np.array([_matrices.table(row, "effective_rank") for row in rows])
    value, error = _mean(each)
    if not np.isfinite(value).any():
        return not_applicable(name, f"None of {len(taken)} steps moved a matrix.")
    whole = _ranks(taken.layout, taken.updates.double().sum(0))
    details = {
        "stable_rank": _mean(np.array([_matrices.table(row, "stable_rank") for row in rows]))[0],
        "of_sum": _matrices.table(whole, "effective_rank"),
        "stable_rank_of_sum": _matrices.table(whole, "stable_rank"),
        "per_step": each,
        "shape": shapes,
        "steps": len(taken),
    }
    labels = list(shapes)
    highest = int(np.nanargmax(value))
    sentence = f"Mean over {len(taken)} steps; highest in {labels[highest]} ({value[highest]:.3g})."
    return Measurement(
        name,
        value,
        "1",
        Status(State.ESTIMATE, sentence),
        error,
        ("layer",),
        {"layer": labels},
        details=details,
    )


def _ranks(layout: Any, update: torch.Tensor) -> dict[str, dict[str, float]]:
    found = _matrices.matrices(layout, update)
    return {label: _matrices.ranks(_matrices.singular_values(matrix)) for label, matrix in found.items()}


def _mean(each: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard error over the steps in which a matrix moved."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a matrix that never moved has a NaN mean
        count = np.isfinite(each).sum(0)
        spread = np.nanstd(each, axis=0, ddof=1) / np.sqrt(np.maximum(count, 1))
        return np.nanmean(each, axis=0), np.where(count > 1, spread, np.nan)

"""Output reach: whether the targets lie where the model's output activation can go.

A sigmoid at the end of a regression onto 25 to 346, a rectifier onto negative numbers: no training gets there.
Only an activation function whose result *is* the output is seen; outputs that are rescaled afterwards count as
unbounded.

Ledger: 0.13
"""

from __future__ import annotations

import numpy as np
import torch

from geartrain.budget import Budget
from geartrain.instruments._answers import exact, forward_price, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments._examples import examples_of, target_values
from geartrain.instruments._layers import head_of, in_evaluation
from geartrain.objective import Objective
from geartrain.records import Measurement


@instrument(needs="objective", unit="1", price=forward_price)
def output_reach(
    objective: Objective,
    *,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the share of target numbers outside the range of the output activation.

    **Cost** one forward pass over at most 64 examples.

    **Assumes** that the last activation's result is the output, unscaled.

    **Misleads** where outputs are rescaled after the activation (counted as unbounded), and at the edge:
    targets of exactly 0 or 1 under a sigmoid are approached but never reached, which is meant in
    classification.

    Args:
        objective: What to measure; made from ``loss_fn(outputs, targets)``.
        generator: Not used: nothing is drawn.
        budget: Not used.

    Returns:
        The share, 0 to 1. Details: ``last_activation`` (``"none"`` where the output is unbounded), ``low`` and
        ``high`` of its range, ``target_low`` and ``target_high``. Not applicable to classes.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.ReLU())
        >>> x, y = torch.ones(4, 1), torch.tensor([[-1.0], [1.5], [2.5], [3.5]])
        >>> output_reach(Objective(model, torch.nn.functional.mse_loss, (x, y))).value
        0.25
    """
    name = "output_reach"
    if objective.loss_fn is None:
        return not_applicable(name, "batch_loss(model, batch) hides the model's outputs.")
    found = examples_of(objective)
    values = None if found is None else target_values(found.targets)
    if values is None:
        return not_applicable(name, "The targets are classes, not numbers that outputs must reach.")
    quiet = in_evaluation(objective)
    head = head_of(quiet, objective.batches[0][0])[0]
    objective.charge(forwards=min(1.0, 64 / objective.num_examples))
    slack = 1e-6 * max(1.0, float(np.abs(values).max()))
    share = float(((values < head.low - slack) | (values > head.high + slack)).mean())
    details = {
        "last_activation": head.activation,
        "low": head.low,
        "high": head.high,
        "target_low": float(values.min()),
        "target_high": float(values.max()),
    }
    ends = (
        f"ends in {head.activation} ({head.low:g} to {head.high:g})"
        if head.activation != "none"
        else "has an unbounded output"
    )
    sentence = f"The model {ends}; the targets run from {values.min():.3g} to {values.max():.3g}."
    return exact(name, share, sentence, details=details)

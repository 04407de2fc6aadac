"""Target scale: how far the targets are from the unit scale at which a fresh model's outputs begin.

Targets in the hundreds make the first gradients hundreds of times too large for common step sizes, and large
offsets are learnt by the bias alone. A model that rescales its outputs by itself is not affected; nor is a loss
that does.

References:
    LeCun, Bottou, Orr, Müller (1998), "Efficient BackProp", section 4.5.

Ledger: 0.13
"""

from __future__ import annotations

import math

import numpy as np
import torch

from geartrain.budget import Budget
from geartrain.instruments._answers import data_price, estimate, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments._examples import examples_of, target_values
from geartrain.objective import Objective
from geartrain.records import Measurement
from geartrain.run import Run


@instrument(needs="data", unit="1", price=data_price)
def target_scale(
    subject: Objective | Run,
    *,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure max(standard deviation, |mean|) of numeric targets, in their own unit.

    With several outputs: the largest over the outputs. A well-scaled target gives about 1.

    **Cost** a pass over the data; the model is not run.

    **Assumes** that the targets are numbers.

    **Misleads** for models or losses that rescale by themselves, and for adaptive optimizers, which feel the
    scale through the number of steps only. Heavy tails make the standard deviation a poor summary.

    Args:
        subject: An objective or a run.
        generator: Not used: nothing is drawn.
        budget: Not used.

    Returns:
        The scale. Details: ``mean``, ``std`` and ``offset`` = |mean| / std of the output with the largest scale,
        ``std_ratio`` (largest over smallest non-zero standard deviation among the outputs). Not applicable to classes.

    Example:
        >>> import torch
        >>> x, y = torch.zeros(2, 1), torch.tensor([[90.0], [110.0]])
        >>> target_scale(Objective(torch.nn.Linear(1, 1), torch.nn.functional.mse_loss, (x, y))).value
        100.0
    """
    found = examples_of(subject)
    values = None if found is None else target_values(found.targets)
    if values is None:
        return not_applicable(
            "target_scale", "The targets are classes, or none were found: they have no scale."
        )
    means, deviations = values.mean(0), values.std(0)
    scales = np.maximum(deviations, np.abs(means))
    worst = int(scales.argmax())
    mean, deviation, count = float(means[worst]), float(deviations[worst]), len(values)
    varying = deviations[deviations > 0]
    details = {
        "mean": mean,
        "std": deviation,
        "offset": abs(mean) / deviation if deviation > 0 else math.inf,
        "std_ratio": float(varying.max() / varying.min()) if len(varying) else math.nan,
    }
    # Of the mean: σ/√n; of the standard deviation of a normal variable: σ/√(2n).
    error = deviation / math.sqrt(count if abs(mean) >= deviation else 2 * count)
    sentence = f"Mean {mean:.3g}, standard deviation {deviation:.3g} on {count} examples."
    return estimate("target_scale", float(scales[worst]), error, sentence, details=details)

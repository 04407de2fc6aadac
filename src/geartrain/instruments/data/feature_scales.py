"""Feature scales: how far apart the sizes of the input features are.

Gradient descent learns the weight of a feature at a speed proportional to the feature's variance, so features a
thousand times smaller are learnt a million times later. It misleads where small features are irrelevant, and for
optimizers that rescale each weight (Adam); correlated features are another matter, see `input_conditioning`.

References:
    LeCun, Bottou, Orr, Müller (1998), "Efficient BackProp", section 4.3.

Ledger: 0.13
"""

from __future__ import annotations

import math

import numpy as np
import torch

from geartrain.budget import Budget
from geartrain.instruments._answers import data_price, estimate, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments._examples import channels, examples_of, feature_spreads
from geartrain.objective import Objective
from geartrain.records import Measurement
from geartrain.run import Run

RARE = 0.01
"""A feature that leaves its usual value in fewer examples than this share tells nothing about its scale."""


@instrument(needs="data", unit="1", price=data_price)
def feature_scales(
    subject: Objective | Run,
    *,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the ratio of the largest to the smallest spread over the input features.

    The spread of a feature is its standard deviation; for a feature that sits at one value in more than half of
    the examples (a pixel that is mostly background, an indicator) it is the rms departure from that value in the
    other examples, so that being rare does not look like being small. Constant features and those that leave
    their usual value in fewer than 1 % (or 3) of the examples are left out. Features are the flattened inputs; for
    images that meet convolutions they are the channels, for sequences of vectors the entries of the vectors.

    **Cost** a pass over the data; the model is not run.

    **Assumes** that the inputs are numbers, and that a feature keeps its place.

    **Misleads** where the small features are irrelevant, and for optimizers that rescale each weight (Adam).
    Features may have equal scales and still be badly conditioned, through correlation: see
    `input_conditioning`.

    Args:
        subject: An objective or a run.
        generator: Not used: nothing is drawn.
        budget: Not used.

    Returns:
        The ratio, 1 or more. Details: ``largest_std``, ``smallest_std`` (spreads as above), ``largest_offset``
        (greatest |mean| / spread), ``rms`` of all inputs, ``num_features``, ``constant_features``. Not applicable to
        tokens.

    Example:
        >>> import torch
        >>> x = torch.tensor([[0.0, 0.0], [2.0, 200.0]])
        >>> model = torch.nn.Linear(2, 1)
        >>> feature_scales(Objective(model, torch.nn.functional.mse_loss, (x, x[:, :1]))).value
        100.0
    """
    found = examples_of(subject)
    table = None if found is None else channels(found.inputs, subject.model)
    if found is None or table is None:
        return not_applicable(
            "feature_scales", "The inputs are tokens or cannot be put together: they have no scale."
        )
    rare = max(RARE, min(3 / len(table), 0.5))
    away = (table != np.median(table, axis=0)).mean(0)
    spread = np.where(away >= rare, feature_spreads(table), 0.0)
    kept = spread > 0
    if not kept.any():
        return not_applicable(
            "feature_scales", "Every input feature is constant.", rms=float(np.sqrt((table**2).mean()))
        )
    top, bottom = float(spread[kept].max()), float(spread[kept].min())
    offset = np.abs(table.mean(0))[kept] / spread[kept]
    details = {
        "largest_std": top,
        "smallest_std": bottom,
        "largest_offset": float(offset.max()),
        "rms": float(np.sqrt((table**2).mean())),
        "num_features": int(kept.sum()),
        "constant_features": int((~kept).sum()),
    }
    error = top / bottom * math.hypot(*(_relative_error(table[:, spread == s][:, 0]) for s in (top, bottom)))
    sentence = (
        f"{int(kept.sum())} features, spreads from {bottom:.3g} to {top:.3g}, on {found.size} examples."
    )
    return estimate("feature_scales", top / bottom, error if top > bottom else 0.0, sentence, details=details)


def _relative_error(column: np.ndarray) -> float:
    """Relative standard error of a standard deviation, √((kurtosis - 1) / 4n)."""
    centred = column - column.mean()
    variance = (centred**2).mean()
    kurtosis = (centred**4).mean() / variance**2
    return math.sqrt(max(kurtosis - 1, 0.0) / (4 * len(column)))

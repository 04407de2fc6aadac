"""Neighbour agreement: whether examples that look alike have the same target.

A model-free floor for how noisy the targets are: with shuffled labels neighbours agree by chance only. Low
agreement has a second explanation: the target is a complicated function of the inputs (parity, say) or distances
between inputs mean little (photographs); it is evidence of noise only where simple models should do well.

References:
    Cover and Hart (1967); Cohen (1960), for the correction by chance.

Ledger: 0.22, 3.1
"""

from __future__ import annotations

import math

import numpy as np
import torch

from geartrain.budget import Budget
from geartrain.instruments._answers import data_price, estimate, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments._examples import class_labels, examples_of, features, standardised, target_values
from geartrain.instruments.function._neighbours import (
    agreement_of_classes,
    agreement_of_numbers,
    nearest,
    squared_distances,
)
from geartrain.objective import Objective
from geartrain.records import Measurement
from geartrain.run import Run


@instrument(needs="data", unit="1", price=data_price)
def neighbour_agreement(
    subject: Objective | Run,
    k: int = 5,
    *,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure how well the k nearest other examples predict the target, corrected for chance.

    Classes: (a - c) / (1 - c) with a the share of examples whose label is the majority vote of their neighbours
    (the nearer wins ties) and c the agreement of independent labels and votes. Numbers: 1 - MSE / (σ²(1 + 1/k)) for
    the neighbours' mean. Distances are Euclidean after every feature is divided by its spread.

    **Cost**: n² distances; the model is not run.

    **Assumes** inputs that are numbers, and independent examples.

    **Misleads** as a measure of label noise where the target is a complicated function of the inputs (parity) or
    distances between inputs mean little (photographs): agreement is low there without any noise.

    Args:
        subject: An objective or a run.
        k: Neighbours that vote.
        generator: Not used: nothing is drawn.
        budget: Not used.

    Returns:
        1 = neighbours determine the target, 0 = targets have nothing to do with inputs (slightly negative by
        chance). Details: ``agreement`` (uncorrected share, or 1 - MSE/σ²), ``chance``, ``duplicate_disagreement``
        (share of the examples with an identical twin whose twin has another label; NaN without twins or classes).
        Not applicable to tokens.

    Example:
        >>> x = torch.cat([torch.zeros(20, 1), torch.ones(20, 1)]) + torch.arange(40.0)[:, None] / 1e3
        >>> y = torch.arange(40) // 20
        >>> neighbour_agreement(Objective(torch.nn.Linear(1, 2), torch.nn.functional.cross_entropy, (x, y))).value
        1.0
    """
    name = "neighbour_agreement"
    found = examples_of(subject)
    table = None if found is None else features(found.inputs)
    if found is None or table is None:
        return not_applicable(
            name, "The inputs are tokens or cannot be put together: they have no distances."
        )
    if found.size <= 2 * k:
        return not_applicable(name, f"{found.size} examples are too few for {k} neighbours each.")
    labels, values = class_labels(found.targets), target_values(found.targets)
    near, twin = nearest(squared_distances(standardised(table)), k)
    if labels is not None and len(np.unique(labels)) > 1:
        return _classes(name, labels, near, twin)
    if values is not None and values.std() > 0:
        return _numbers(name, values, near)
    return not_applicable(
        name, "The targets are neither classes nor numbers, one set per example, that vary."
    )


def _classes(name: str, labels: np.ndarray, near: np.ndarray, twin: np.ndarray) -> Measurement:
    votes = agreement_of_classes(labels, near)
    twins = float((labels[near[twin, 0]] != labels[twin]).mean()) if twin.any() else math.nan
    details = {"agreement": votes.agreement, "chance": votes.chance, "duplicate_disagreement": twins}
    sentence = (
        f"Neighbours agree in {votes.agreement:.1%} of {len(labels)} examples; by chance {votes.chance:.1%}."
    )
    return estimate(name, votes.value, votes.error, sentence, details=details)


def _numbers(name: str, values: np.ndarray, near: np.ndarray) -> Measurement:
    found = agreement_of_numbers(values, near)
    details = {
        "agreement": found.agreement,
        "chance": found.chance,
        "duplicate_disagreement": math.nan,
    }
    left = 1 - found.agreement
    sentence = (
        f"The mean of {near.shape[1]} neighbours leaves {left:.1%} of the variance of {len(values)} targets."
    )
    return estimate(name, found.value, found.error, sentence, details=details)

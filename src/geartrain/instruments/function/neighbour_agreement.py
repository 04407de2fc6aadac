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

from geartrain.instruments._answers import data_price, estimate, not_applicable
from geartrain.instruments._base import Budget, instrument
from geartrain.instruments._examples import class_labels, examples_of, features, standardised, target_values
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
    near, twin = _neighbours(standardised(table), k)
    if labels is not None and len(np.unique(labels)) > 1:
        return _classes(name, labels, near, twin)
    if values is not None and values.std() > 0:
        return _numbers(name, values, near)
    return not_applicable(
        name, "The targets are neither classes nor numbers, one set per example, that vary."
    )


def _neighbours(points: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the k nearest others, nearest first, shape (n, k); and whether the nearest is identical."""
    squares = (points**2).sum(1)
    distances = squares[:, None] + squares[None, :] - 2 * points @ points.T
    np.fill_diagonal(distances, np.inf)
    near = np.argsort(distances, axis=1, kind="stable")[:, :k]
    twin = np.take_along_axis(distances, near[:, :1], axis=1)[:, 0] <= 1e-9 * (1 + squares)
    return near, twin


def _classes(name: str, labels: np.ndarray, near: np.ndarray, twin: np.ndarray) -> Measurement:
    classes, codes = np.unique(labels, return_inverse=True)
    weights = 1 + 1e-3 * 0.5 ** np.arange(
        near.shape[1]
    )  # no two sets of voters weigh the same: nearer ones win ties
    votes = np.stack([((codes[near] == c) * weights).sum(1) for c in range(len(classes))], axis=1).argmax(1)
    agreement = float((votes == codes).mean())
    chance = float(sum((votes == c).mean() * (codes == c).mean() for c in range(len(classes))))
    twins = float((codes[near[twin, 0]] != codes[twin]).mean()) if twin.any() else math.nan
    value = (agreement - chance) / (1 - chance)
    error = math.sqrt(max(agreement * (1 - agreement), 1 / len(codes)) / len(codes)) / (1 - chance)
    details = {"agreement": agreement, "chance": chance, "duplicate_disagreement": twins}
    sentence = f"Neighbours agree in {agreement:.1%} of {len(codes)} examples; by chance {chance:.1%}."
    return estimate(name, value, error, sentence, details=details)


def _numbers(name: str, values: np.ndarray, near: np.ndarray) -> Measurement:
    k = near.shape[1]
    scaled = (values - values.mean(0)) / np.where(values.std(0) > 0, values.std(0), 1.0)
    squares = ((scaled - scaled[near].mean(1)) ** 2).mean(1)
    chance = 1 + 1 / k
    value = 1 - float(squares.mean()) / chance
    error = float(squares.std(ddof=1)) / math.sqrt(len(squares)) / chance
    details = {
        "agreement": 1 - float(squares.mean()),
        "chance": 1 - chance,
        "duplicate_disagreement": math.nan,
    }
    sentence = (
        f"The mean of {k} neighbours leaves {squares.mean():.1%} of the variance of {len(squares)} targets."
    )
    return estimate(name, value, error, sentence, details=details)

"""Feature neighbours: whether examples that a layer places side by side have the same target.

Followed through the layers it shows where the network turns "looks alike" into "means alike". The row ``input`` is
`neighbour_agreement` of the data: a layer below it has thrown away what made neighbours alike.

References:
    Cover and Hart (1967); Papernot and McDaniel (2018), arXiv:1803.04765; Cohen (1960), for the correction by chance.

Ledger: 3.1
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from geartrain.budget import Budget
from geartrain.errors import InputError
from geartrain.instruments._answers import not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments.function._features import (
    ROWS,
    Rows,
    input_gram,
    layer_grams,
    rows_of,
    rows_price,
)
from geartrain.instruments.function._neighbours import (
    Agreement,
    agreement_of_classes,
    agreement_of_numbers,
    from_products,
    graph_error,
    influence_of_classes,
    influence_of_numbers,
    nearest,
    votes_of,
)
from geartrain.instruments.function._said import broken, is_broken
from geartrain.instruments.function._view import began
from geartrain.objective import Objective
from geartrain.records import Measurement, State, Status
from geartrain.run import Run

NAME = "feature_neighbours"


@instrument(needs="data", unit="1", price=rows_price)
def feature_neighbours(
    subject: Objective | Run,
    k: int = 5,
    *,
    rows: int = ROWS,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure per layer how well the k nearest other examples in feature space predict the target.

    Classes: (a - c) / (1 - c) with a the share of examples whose class is the majority vote of their neighbours and c
    the agreement by chance. Numbers: 1 - MSE / (σ²(1 + 1/k)) of the neighbours' mean. Distances are Euclidean between
    the features as they are (rotations and a common scale change nothing); for ``input`` every feature is divided by
    its spread first, because inputs have units.

    **Cost**: two forward passes over at most ``rows`` examples, and rows² distances per layer.

    **Assumes** independent examples; for sequences a row is a place, and places of the same sequence are no neighbours.

    **Misleads** in wide layers with one large direction: distance then means that direction. On training data the last
    layers agree because they were fitted to these labels, also to random ones; read validation data.

    Args:
        subject: An objective, or a run (validation data where it has them).
        k: Neighbours that vote.
        rows: Examples (places) at most.
        generator: Not used: the rows are a fixed choice.
        budget: Time to begin in.

    Returns:
        Agreement per layer, dims ``("layer",)``: 1 = neighbours determine the target, 0 = chance. Standard errors
        allow for the neighbours that examples share. Details: ``agreement`` (uncorrected) and ``chance`` per layer,
        ``model_agreement`` (share of examples whose neighbours vote for what the *model* says, classes only; 1 = the
        layers above could be a nearest-neighbour rule), ``rows``, ``split``.

    Raises:
        InputError: ``k`` is not positive.

    Example:
        >>> x = torch.cat([torch.zeros(20, 1), torch.ones(20, 1)]) + torch.arange(40.0)[:, None] / 1e3
        >>> data = x, torch.arange(40) // 20
        >>> feature_neighbours(Objective(torch.nn.Linear(1, 2), torch.nn.functional.cross_entropy, data)).value.tolist()
        [1.0, 1.0]
    """
    if k < 1:
        raise InputError(f"k is {k}; allowed: 1 or more neighbours. 5 is usual.")
    view = began(NAME, subject, budget, limit=rows)
    if isinstance(view, Measurement):
        return view
    found = rows_of(view.objective, rows)
    if found is None or found.said.kind == "unjudged":
        return not_applicable(NAME, "The data hold no target for each row of features.")
    if is_broken(found.said):
        return broken(NAME)
    groups = found.said.groups
    largest = int(np.bincount(groups).max())
    if found.said.rows - largest <= 2 * k:
        return not_applicable(NAME, f"{found.said.rows} rows are too few for {k} neighbours each.")
    if not _varies(found):
        return not_applicable(NAME, "The targets are all the same, so neighbours cannot but agree.")
    grams = layer_grams(found)
    first = input_gram(found)
    grams = ({} if first is None else {"input": first}) | grams
    if not grams:
        return not_applicable(NAME, "No layer has features for each row.")
    results = {name: _agreement(gram, found, k) for name, gram in grams.items()}
    return _answer(results, view.split, view.words, found.said.rows)


def _varies(rows: Rows) -> bool:
    said = rows.said
    if said.labels is not None:
        return len(said.labels.unique()) > 1
    return said.values is not None and bool(said.values.std(dim=0, correction=0).sum() > 0)


def _agreement(gram: np.ndarray, rows: Rows, k: int) -> tuple[Agreement, float]:
    """Agreement with the targets, and share of agreement with the model."""
    said = rows.said
    distances = from_products(gram)
    distances[said.groups[:, None] == said.groups[None, :]] = np.inf
    near, _ = nearest(distances, k)
    if said.labels is None:
        assert said.values is not None
        values = said.values.numpy()
        error = graph_error(influence_of_numbers(values, near), near, said.groups)
        return replace(agreement_of_numbers(values, near), error=error), math.nan
    labels, predicted = said.labels.numpy(), said.predicted.numpy()
    found = agreement_of_classes(labels, near)
    error = graph_error(influence_of_classes(labels, near), near, said.groups)
    codes = np.unique(predicted, return_inverse=True)[1]
    # Where all agree nothing varies; the binomial error with a doubt left in it is then the honest one.
    error = found.error if found.agreement in (0.0, 1.0) else error
    return replace(found, error=error), float((votes_of(codes, near) == codes).mean())


def _answer(results: dict[str, tuple[Agreement, float]], split: str, words: str, count: int) -> Measurement:
    names = list(results)
    value = np.array([a.value for a, _ in results.values()])
    details = {
        "agreement": {n: a.agreement for n, (a, _) in results.items()},
        "chance": {n: a.chance for n, (a, _) in results.items()},
        "model_agreement": {n: m for n, (_, m) in results.items()},
        "rows": count,
        "split": split,
    }
    best = int(value.argmax())
    sentence = f"Neighbours agree most in {names[best]} ({value[best]:.1%} above chance), on {words}."
    error = np.array([a.error for a, _ in results.values()])
    status = Status(State.ESTIMATE, sentence)
    return Measurement(NAME, value, "1", status, error, ("layer",), {"layer": names}, details=details)

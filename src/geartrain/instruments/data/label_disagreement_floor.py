"""Label-disagreement floor: the lowest error that any function of the inputs can reach on these data.

Where equal inputs have different labels, somebody is wrong whatever the model answers. A training error at the floor
cannot fall further; one below it means that the model sees more than the inputs.

Ledger: 0.22
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from geartrain.budget import Budget
from geartrain.errors import InputError
from geartrain.instruments._answers import data_price, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments._examples import (
    class_labels,
    examples_of,
    features,
    standardised,
    target_kind,
    target_values,
    tokens,
)
from geartrain.objective import Objective
from geartrain.records import Measurement, State, Status
from geartrain.run import Run

NAME = "label_disagreement_floor"


@instrument(needs="data", unit="1", price=data_price)
def label_disagreement_floor(
    subject: Objective | Run,
    *,
    near: float = 0.0,
    causal: bool = True,
    limit: int = 50_000,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the least error of any function on these data: inputs grouped, the best answer given to each group.

    Classes: Σ_groups (n_g - largest count of one label in g) / n. Numbers: Σ_g Σ_{i∈g} |y_i - ȳ_g|² / Σ_i |y_i - ȳ|²
    (squared error as a share of the variance). Next tokens: groups are equal prefixes.

    **Cost** a pass over the data; the model is not run.

    **Assumes** that the model sees nothing but the inputs. With ``near`` > 0 inputs closer than that are taken for
    equal, as are their neighbours' neighbours; then it is a floor only for functions that cannot tell them apart.

    **Misleads** as the irreducible error of the *population*: distinct inputs cannot disagree, so with few duplicates
    (``duplicated``) the floor is far below the Bayes error.

    Args:
        subject: An objective or a run (its training data).
        near: Distance, in standard deviations per feature (root mean square), within which inputs count as equal.
        causal: For sequences: the model sees only what came before. ``False``: it sees the whole input.
        limit: Examples looked at.
        generator: Not used.
        budget: Not used: nothing is computed with the model.

    Returns:
        The floor, exact for these data. ``details``: ``floor_loss`` (least mean cross-entropy in nats; for numbers
        the least mean squared error), ``groups``, ``duplicated`` (share of items whose group has others), ``worst``
        (numbers of up to 20 examples in the groups that disagree most), ``items``. Not applicable where inputs
        cannot be compared.

    Raises:
        InputError: ``near`` is negative.

    References:
        Cover and Thomas (2006), §2.10; Northcutt, Athalye, Mueller (2021), arXiv:2103.14749 (label errors in test
        sets).

    >>> import geartrain as gt
    >>> x, y = torch.tensor([[0.0], [0.0], [0.0], [1.0]]), torch.tensor([0, 0, 1, 1])
    >>> float(label_disagreement_floor(gt.Objective(torch.nn.Linear(1, 2), torch.nn.functional.cross_entropy, (x, y))))
    0.25
    """
    if not near >= 0:
        raise InputError(f"near is {near}; it must be 0 (equal inputs) or a positive distance.")
    found = examples_of(subject, limit)
    if found is None or found.targets is None:
        return not_applicable(NAME, "The batches hold no targets, or cannot be put together.")
    words = tokens(found.inputs)
    if target_kind(found.targets) == "sequence":
        return _sequences(words, found.targets, causal)
    groups = _groups(found.inputs, words, near)
    if groups is None:
        return not_applicable(NAME, "The inputs are neither one table of numbers nor tokens.")
    labels = class_labels(found.targets)
    if labels is not None:
        return _classes(groups, labels, np.arange(len(labels)))
    values = target_values(found.targets)
    if values is None:
        return not_applicable(NAME, "The targets are neither classes nor numbers.")
    return _numbers(groups, values)


def _groups(inputs: Any, words: torch.Tensor | None, near: float) -> np.ndarray | None:
    """Group of each example, shape (examples,)."""
    table = features(inputs) if words is None else words.cpu().numpy()
    if table is None:
        return None
    if near == 0 or words is not None:
        return np.unique(np.ascontiguousarray(table), axis=0, return_inverse=True)[1].reshape(-1)
    scaled = standardised(table)
    if not scaled.shape[1]:
        return np.zeros(len(table), dtype=int)
    pairs = KDTree(scaled).query_pairs(near * np.sqrt(scaled.shape[1]), output_type="ndarray")
    edges = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(table), len(table)))
    return connected_components(edges, directed=False)[1]


def _sequences(words: torch.Tensor | None, targets: torch.Tensor, causal: bool) -> Measurement:
    if words is None or targets.reshape(len(targets), -1).shape != words.shape:
        return not_applicable(NAME, "There is no token before every target, so prefixes cannot be compared.")
    table = words.cpu().numpy().astype(np.int64)
    labels = targets.reshape(len(targets), -1).cpu().numpy()
    if not causal:
        whole = np.unique(table, axis=0, return_inverse=True)[1].reshape(-1)
        groups = whole[:, None] * table.shape[1] + np.arange(table.shape[1])
    else:
        groups, prefix, offset = np.empty_like(table), np.zeros(len(table), dtype=np.int64), 0
        for place in range(table.shape[1]):
            pairs = np.stack([prefix, table[:, place]], axis=1)
            prefix = np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1)
            groups[:, place] = prefix + offset
            offset += int(prefix.max()) + 1
    examples = np.repeat(np.arange(len(table)), table.shape[1])
    asked = labels.ravel() >= 0
    return _classes(groups.ravel()[asked], labels.ravel()[asked], examples[asked])


def _classes(groups: np.ndarray, labels: np.ndarray, examples: np.ndarray) -> Measurement:
    groups = np.unique(groups, return_inverse=True)[1].reshape(-1)
    pairs, counts = np.unique(np.stack([groups, labels], axis=1), axis=0, return_counts=True)
    sizes = np.bincount(groups)
    largest = np.zeros(len(sizes), dtype=np.int64)
    np.maximum.at(largest, pairs[:, 0], counts)
    wrong = sizes - largest
    total = len(groups)
    loss = -float((counts * np.log(counts / sizes[pairs[:, 0]])).sum()) / total
    details = _details(groups, sizes, wrong / sizes, examples) | {"floor_loss": abs(loss)}
    value = float(wrong.sum() / total)
    return _answer(value, details, "of the items must be answered wrong")


def _numbers(groups: np.ndarray, values: np.ndarray) -> Measurement:
    groups = np.unique(groups, return_inverse=True)[1].reshape(-1)
    sizes = np.bincount(groups)
    means = np.stack([np.bincount(groups, c) / sizes for c in values.T], axis=1)
    squares = ((values - means[groups]) ** 2).sum(1)
    variance = float(((values - values.mean(0)) ** 2).sum())
    if variance <= 1e-24 * float((values**2).sum()):  # the rounding of a mean is no variation
        return not_applicable(NAME, "The targets do not vary.")
    inside = np.bincount(groups, squares) / sizes
    details = _details(groups, sizes, inside, np.arange(len(groups)))
    details |= {"floor_loss": float(squares.sum() / values.size)}
    return _answer(float(squares.sum()) / variance, details, "of the variance cannot be explained")


def _details(
    groups: np.ndarray, sizes: np.ndarray, disagreement: np.ndarray, examples: np.ndarray
) -> dict[str, Any]:
    order = np.argsort(-disagreement[groups], kind="stable")
    worst = [int(examples[i]) for i in order[:20] if disagreement[groups[i]] > 0]
    return {
        "groups": len(sizes),
        "items": len(groups),
        "duplicated": float((sizes[groups] > 1).mean()),
        "worst": tuple(dict.fromkeys(worst)),
    }


def _answer(value: float, details: dict[str, Any], words: str) -> Measurement:
    sentence = f"{value:.2%} {words}; {details['duplicated']:.1%} of the items have an equal input elsewhere."
    return Measurement(NAME, value, "1", Status(State.EXACT, sentence), 0.0, details=details)

"""Objectives made of objectives: a sum over different parameters, a sum on all pairs of examples, a multiple."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from geartrain._torch import batches as _batches
from geartrain._torch.loss import SupervisedLoss
from geartrain.errors import InputError
from geartrain.objective import Objective

MOST_PAIRS = 20_000
"""Pairs of examples, beyond which a product of data is too large to measure in a moment."""


class Sides(nn.Module):
    """Two models that know nothing of one another."""

    first: nn.Module
    second: nn.Module

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second


def summed(first: Objective, second: Objective) -> Objective:
    """L₁(a) + L₂(b), as one example: whatever looks at single examples has nothing to see."""
    parts = [(o.batch_loss, _weighted(o)) for o in (first, second)]

    def loss(model: Any, batch: Tensor) -> Tensor:
        found = torch.zeros((), dtype=first.dtype)
        for side, (side_loss, batches) in zip((model.first, model.second), parts, strict=True):
            for weight, own in batches:
                found = found + weight * side_loss(side, _batches.detached(own))
        return found

    whole = Objective(_sides(first, second), data=[torch.zeros(1, 1, dtype=first.dtype)], batch_loss=loss)
    return whole.restrict(_names(first, second))


def paired(first: Objective, second: Objective) -> Objective:
    """L₁(a) + L₂(b) as a mean over all pairs of an example of each."""
    check_pairs(first, second)
    n, m = first.num_examples, second.num_examples
    left = _batches.take(_batches.join(first.batches), torch.arange(n).repeat_interleave(m))
    right = _batches.take(_batches.join(second.batches), torch.arange(m).repeat(n))

    def loss(model: Any, batch: tuple[object, object]) -> Tensor:
        return first.batch_loss(model.first, batch[0]) + second.batch_loss(model.second, batch[1])

    whole = Objective(_sides(first, second), data=[(left, right)], batch_loss=loss)
    return whole.restrict(_names(first, second))


def multiplied(objective: Objective, factor: float) -> Objective:
    """c·L; outputs stay as they are."""
    inner, batches = objective.batch_loss, list(objective.batches)
    model, training, seed = copy.deepcopy(objective.model), objective.training, objective.seed
    if isinstance(inner, SupervisedLoss):
        loss_fn = inner.loss_fn
        twin = Objective(
            model,
            lambda outputs, targets: factor * loss_fn(outputs, targets),
            batches,
            training=training,
            seed=seed,
        )
    else:
        twin = Objective(
            model,
            data=batches,
            batch_loss=lambda m, batch: factor * inner(m, batch),
            training=training,
            seed=seed,
        )
    return twin.restrict(list(objective.layout.names))


def check_pairs(first: Objective, second: Objective) -> None:
    """Refuse products of data that are too large.

    Raises:
        InputError: There are more than `MOST_PAIRS` pairs.
    """
    n, m = first.num_examples, second.num_examples
    if n * m > MOST_PAIRS:
        raise InputError(
            f"The product has {n} x {m} = {n * m:,} pairs of examples; allowed: {MOST_PAIRS:,}. "
            "Make one of the toys with fewer examples, or take the sum of both, a + b."
        )


def _sides(first: Objective, second: Objective) -> Sides:
    """Copies of both models, so that a toy can be added to itself; each in the mode that its objective asks for."""
    if first.dtype != second.dtype or first.device != second.device:
        raise InputError(
            f"The toys are of {first.dtype} on {first.device} and of {second.dtype} on {second.device}; "
            "they must be alike to be composed."
        )
    models = []
    for objective in (first, second):
        model = copy.deepcopy(objective.model)
        models.append(model if objective.training is None else model.train(objective.training))
    return Sides(*models)


def _names(first: Objective, second: Objective) -> list[str]:
    return [f"first.{n}" for n in first.layout.names] + [f"second.{n}" for n in second.layout.names]


def _weighted(objective: Objective) -> list[tuple[float, object]]:
    return [(_batches.size_of(b) / objective.num_examples, b) for b in objective.batches]

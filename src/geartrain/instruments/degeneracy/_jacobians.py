"""Jacobians to count dimensions with: in float64 whatever the model's type, on the data and on random inputs."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from geartrain._torch import batches as _batches
from geartrain._torch import ntk
from geartrain.instruments import _outputs
from geartrain.objective import Objective


def in_double(objective: Objective) -> Objective:
    """The same in float64, on the same meter: dimensions are counted in singular values far below float32's rounding.

    A model that insists on its own type is measured as it is.
    """
    if objective.dtype is torch.float64:
        return objective
    model = copy.deepcopy(objective.model).double()
    batches = [tree_map(_widened, batch) for batch in objective.batches]
    try:
        twin = Objective(model, objective.loss_fn, batches, training=objective.training, seed=objective.seed)
        twin.outputs()
    except (RuntimeError, TypeError, ValueError):
        return objective
    names = set(objective.layout.names)
    twin._meter, twin._share = objective._meter, objective._share
    return twin.restrict(lambda name, _: name in names)


def random_inputs(objective: Objective, count: int, generator: torch.Generator) -> Any:
    """A batch of inputs like the data in range only: normal about the data's mean, or uniform numbers.

    The spread is that of the data, up to five times it from example to example: kinks far out are to be met too.
    The targets are those of examples of the data; nothing here asks for them.
    """
    batch = _batches.join(list(objective.batches))
    size = _batches.size_of(batch)
    chosen = torch.randint(size, (count,), generator=generator)
    wider = 1 + 4 * torch.rand(count, generator=generator, dtype=torch.float64)

    def drawn(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or leaf.ndim == 0 or leaf.shape[0] != size:
            return leaf
        shape = (count, *leaf.shape[1:])
        if leaf.is_floating_point():
            spread = float(leaf.double().std(correction=0)) or 1.0
            noise = torch.randn(shape, generator=generator, dtype=torch.float64)
            return (float(leaf.double().mean()) + spread * noise * wider.view(-1, *[1] * (leaf.ndim - 1))).to(
                leaf
            )
        if leaf.dtype is torch.bool:
            return leaf[chosen.to(leaf.device)]
        low, high = int(leaf.min()), int(leaf.max())
        return torch.randint(low, high + 1, shape, generator=generator).to(leaf)

    return (tree_map(drawn, batch[0]), tree_map(lambda t: _picked(t, chosen, size), batch[1]))


def class_axis(objective: Objective) -> tuple[tuple[int, ...], int] | None:
    """Shape of one example's outputs and the axis of classes in it, where outputs count up to a shift of the logits."""
    one = objective.on([_batches.take(objective.batches[0], slice(0, 1))])
    outputs = one.outputs()
    axis = _outputs.class_axis(outputs, one.batches[0][1])
    return None if axis is None else (tuple(outputs.shape[1:]), axis - 1)


def centred_logits(rows: Tensor, classes: tuple[tuple[int, ...], int] | None) -> Tensor:
    """Rows of shape (examples, outputs, params) with their mean over the classes taken off."""
    if classes is None:
        return rows
    shape, axis = classes
    split = rows.reshape(len(rows), *shape, rows.shape[-1])
    return (split - split.mean(axis + 1, keepdim=True)).reshape(rows.shape)


def jacobian(objective: Objective, classes: tuple[tuple[int, ...], int] | None = None) -> Tensor:
    """All rows, shape (examples x outputs, params)."""
    return centred_logits(ntk.jacobian(objective), classes).flatten(0, 1)


@dataclass(frozen=True)
class Rank:
    """A numerical rank, and how clear it is.

    Attributes:
        rank: Singular values above the threshold.
        gap: Smallest of them over the largest one below (infinite if there is none below or it is 0).
        threshold: Relative to the largest singular value.
        smallest: Smallest singular value above, relative to the largest.
    """

    rank: int
    gap: float
    threshold: float
    smallest: float


def rank_of(singular_values: np.ndarray, threshold: float) -> Rank:
    """Count the singular values (the largest first) above ``threshold`` times the largest."""
    values = np.asarray(singular_values, dtype=float)
    if not len(values) or values[0] <= 0:
        return Rank(0, float("inf"), threshold, float("nan"))
    rank = int((values > threshold * values[0]).sum())
    below = float(values[rank]) if rank < len(values) else 0.0
    gap = float(values[rank - 1]) / below if below > 0 else float("inf")
    return Rank(rank, gap, threshold, float(values[rank - 1] / values[0]))


def _widened(leaf: Any) -> Any:
    return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf


def _picked(leaf: Any, chosen: Tensor, size: int) -> Any:
    if isinstance(leaf, Tensor) and leaf.ndim and leaf.shape[0] == size:
        return leaf[chosen.to(leaf.device)]
    return leaf

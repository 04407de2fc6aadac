"""Products with the mean of gᵢ gᵢᵀ over the examples, centred or not, from gradients that are taken once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

KEPT_BYTES = 2**29
"""Per-example gradients are kept while they fit in this many bytes; beyond, every product takes them anew."""


def bytes_of_rows(objective: Any) -> int:
    """Memory that the per-example gradients would take."""
    return objective.num_examples * objective.num_params * torch.finfo(objective.dtype).bits // 8


def outer_vp(objective: Any, *, centred: bool) -> Callable[[Tensor], Tensor]:
    """Product with (1/n) Σ gᵢ gᵢᵀ, less g gᵀ if ``centred``, at the present parameters.

    **Cost**: one pass of per-example gradients at the first product, then two passes over the kept rows for each (as
    many operations as two thirds of a gradient); where the rows do not fit, a pass of gradients for every product.
    """
    if bytes_of_rows(objective) > KEPT_BYTES:
        return objective.covariance_vp if centred else _with_mean(objective)
    return _Rows(objective, centred)


class _Rows:
    """The per-example gradients, taken at the first product."""

    def __init__(self, objective: Any, centred: bool) -> None:
        self.objective = objective
        self.centred = centred
        self.rows: Tensor | None = None

    def __call__(self, v: Tensor) -> Tensor:
        rows = self._kept()
        self.objective.charge(products=1)
        return rows.T @ (rows @ v.to(rows.dtype)) / len(rows)

    def _kept(self) -> Tensor:
        if self.rows is None:
            rows: Tensor = self.objective.per_example_gradients()
            self.rows = rows - rows.mean(0) if self.centred else rows
        assert self.rows is not None
        return self.rows


def _with_mean(objective: Any) -> Callable[[Tensor], Tensor]:
    """The covariance plus g gᵀ."""
    kept: list[Tensor] = []

    def product(v: Tensor) -> Tensor:
        if not kept:
            kept.append(objective.gradient())
        gradient = kept[0]
        return objective.covariance_vp(v) + gradient * (gradient @ v.to(gradient.dtype))

    return product

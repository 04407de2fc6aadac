"""Embeddings: rows gathered from the tables of all members at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from geartrain.ensemble.engines._stack._layer import Declined, Layer, Weights


class Embedding(Layer):
    """Rows of a table by number."""

    def __init__(self, weight: str, padding: int | None) -> None:
        super().__init__()
        self.weight = weight
        self.padding = padding
        self.weight_names = (weight,)
        self._seen: tuple[Any, ...] = ()

    def forward(self, weights: Weights, x: Tensor) -> Tensor:
        """Numbers (members, ...) to rows (members, ..., width)."""
        table = weights.of(self.weight)
        members, entries, width = table.shape
        dense = self.space.get("table", (members, entries, width), table)
        dense.copy_(table)
        self.rows = self._rows(x, entries)
        y = self.space.get("y", (self.rows.numel(), width), table)
        torch.index_select(dense.view(-1, width), 0, self.rows, out=y)
        return y.view(*x.shape, width)

    def _rows(self, x: Tensor, entries: int) -> Tensor:
        """Where the rows stand in the tables laid end to end; kept while the same numbers come again."""
        key = (x.data_ptr(), x.shape, x.stride(), x._version)
        if self._seen and self._seen[0] == key:
            return self._seen[2]
        low, high = (int(v) for v in torch.aminmax(x[0] if x.stride(0) == 0 else x))
        if low < 0 or high >= entries:
            raise IndexError(f"An embedding of {entries} rows was asked for row {low if low < 0 else high}.")
        start = torch.arange(len(x), device=x.device) * entries
        rows = (x.reshape(len(x), -1) + start.unsqueeze(1)).reshape(-1)
        self._seen = (key, x, rows)
        return rows

    def backward(
        self, weights: Weights, gradient: Tensor, wanted: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...]:
        """Every row gets the sum over its uses."""
        if weights.trains(self.weight):
            members, entries, width = weights.of(self.weight).shape
            total = self.space.get("total", (members, entries, width), gradient).zero_()
            total.view(-1, width).index_add_(0, self.rows, gradient.reshape(-1, width))
            if self.padding is not None:
                total[:, self.padding] = 0
            weights.put(self.weight, total)
        return (None,)


def _of_module(module: nn.Embedding, names: dict[str, str]) -> Layer:
    if module.max_norm is not None or module.scale_grad_by_freq or module.sparse:
        raise Declined("an embedding has max_norm, scale_grad_by_freq or sparse set")
    return Embedding(names["weight"], module.padding_idx)


MODULES = {nn.Embedding: _of_module}

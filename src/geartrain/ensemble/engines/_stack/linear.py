"""Linear layers: three batched products, or sums of gathered rows where the inputs are mostly zeros (one-hot)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from geartrain.ensemble.engines._stack._layer import Layer, Weights
from geartrain.ensemble.engines._stack._sparse import SparseRows, sparse_rows


class Linear(Layer):
    """``x W^T + b`` with the weights of every member."""

    def __init__(self, weight: str, bias: str | None) -> None:
        super().__init__()
        self.weight = weight
        self.bias = bias
        self.weight_names = (weight, bias) if bias else (weight,)
        self._rows: SparseRows | None = None
        self._seen: tuple[Any, ...] = ()

    def forward(self, weights: Weights, x: Tensor) -> Tensor:
        """Shape (members, ..., in) to (members, ..., out)."""
        w = weights.of(self.weight)
        self.x = x
        flat = self.flat = x.reshape(len(x), -1, x.shape[-1])
        y = self.space.get("y", (len(w), flat.shape[1], w.shape[1]), w)
        self._rows = sparse_rows(flat, self) if self.reads_data else None
        if self._rows is not None:
            self._rows.products(w, self.space, out=y)
            if self.bias:
                y.add_(weights.of(self.bias).unsqueeze(1))
        elif self.bias:
            torch.baddbmm(weights.of(self.bias).unsqueeze(1), flat, w.mT, out=y)
        else:
            torch.bmm(flat, w.mT, out=y)
        return y.view(*x.shape[:-1], w.shape[1])

    def backward(
        self, weights: Weights, gradient: Tensor, wanted: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...]:
        """Products with the transposes."""
        w = weights.of(self.weight)
        g = gradient.reshape(len(w), -1, w.shape[1])
        if weights.trains(self.weight):
            if self._rows is not None:
                weights.put(self.weight, self._rows.transposed_products(g, self.space).mT)
            else:
                weights.put(
                    self.weight, torch.bmm(g.mT, self.flat, out=self.space.get("dw", tuple(w.shape), w))
                )
        if self.bias and weights.trains(self.bias):
            weights.put(self.bias, torch.sum(g, 1, out=self.space.get("db", (len(w), w.shape[1]), w)))
        if not wanted[0]:
            return (None,)
        dx = torch.bmm(g, w, out=self.space.get("dx", (len(w), g.shape[1], w.shape[2]), w))
        return (dx.view(self.x.shape),)


def _of_module(module: nn.Linear, names: dict[str, str]) -> Layer:
    return Linear(names["weight"], names.get("bias"))


MODULES = {nn.Linear: _of_module}

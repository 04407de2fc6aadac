"""Layer normalisation: torch's own kernel for the statistics, the scale and shift of every member around it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from geartrain.ensemble.engines._stack._layer import Layer, Weights, aligned, summed_to

_aten = torch.ops.aten


class LayerNorm(Layer):
    """Over the last axes, with or without scale and shift."""

    def __init__(self, shape: tuple[int, ...], eps: float, scale: str | None, shift: str | None) -> None:
        super().__init__()
        self.shape, self.eps, self.scale, self.shift = list(shape), eps, scale, shift
        self.weight_names = tuple(n for n in (scale, shift) if n)
        self.keeps_output = scale is None

    def forward(self, weights: Weights, x: Tensor) -> Tensor:
        """Shape kept."""
        self.x = x.contiguous()
        self.normal, self.mean, self.rstd = _aten.native_layer_norm(self.x, self.shape, None, None, self.eps)
        if self.scale is None:
            return self.normal
        y = self.space.get("y", tuple(x.shape), x)
        _, scale = aligned([self.normal, weights.of(self.scale)])
        if self.shift is None:
            return torch.mul(self.normal, scale, out=y)
        return torch.addcmul(aligned([x, weights.of(self.shift)])[1], self.normal, scale, out=y)

    def backward(
        self, weights: Weights, gradient: Tensor, wanted: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...]:
        """First the scale and shift, then the statistics."""
        g: Any = gradient
        if self.shift is not None and weights.trains(self.shift):
            weights.put(self.shift, summed_to(g, weights.of(self.shift).shape))
        if self.scale is not None:
            scale = weights.of(self.scale)
            if weights.trains(self.scale):
                product = torch.mul(g, self.normal, out=self.space.get("product", tuple(g.shape), g))
                weights.put(self.scale, summed_to(product, scale.shape))
            g = torch.mul(g, aligned([g, scale])[1], out=self.space.get("scaled", tuple(g.shape), g))
        if not wanted[0]:
            return (None,)
        parts = [True, False, False]
        return (
            _aten.native_layer_norm_backward(g, self.x, self.shape, self.mean, self.rstd, None, None, parts)[
                0
            ],
        )


def _of_module(module: nn.LayerNorm, names: dict[str, str]) -> Layer:
    return LayerNorm(tuple(module.normalized_shape), module.eps, names.get("weight"), names.get("bias"))


MODULES = {nn.LayerNorm: _of_module}

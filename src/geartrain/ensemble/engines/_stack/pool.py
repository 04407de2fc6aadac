"""Pooling of images: torch's own kernels, members and examples as one batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from geartrain.ensemble.engines._stack._layer import Declined, Layer, Weights
from geartrain.ensemble.engines._stack.arithmetic import Mean

_aten = torch.ops.aten


class MaxPool(Layer):
    """Largest number of every window."""

    def __init__(self, module: nn.MaxPool2d) -> None:
        super().__init__()
        self.options = [
            _pair(p) for p in (module.kernel_size, module.stride, module.padding, module.dilation)
        ]
        self.ceil = module.ceil_mode

    def forward(self, weights: Weights, x: Tensor) -> Tensor:
        """Shape (members, examples, channels, ...)."""
        self.x = x.flatten(0, 1)
        y, self.where = _aten.max_pool2d_with_indices(self.x, *self.options, self.ceil)
        return y.unflatten(0, x.shape[:2])

    def backward(
        self, weights: Weights, gradient: Tensor, wanted: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...]:
        """To where the largest stood."""
        g = _aten.max_pool2d_with_indices_backward(
            gradient.flatten(0, 1), self.x, *self.options, self.ceil, self.where
        )
        return (g.unflatten(0, gradient.shape[:2]),)


class MeanPool(Layer):
    """Mean of every window."""

    def __init__(self, module: nn.AvgPool2d) -> None:
        super().__init__()
        self.options: list[Any] = [_pair(p) for p in (module.kernel_size, module.stride, module.padding)]
        self.options += [module.ceil_mode, module.count_include_pad, module.divisor_override]

    def forward(self, weights: Weights, x: Tensor) -> Tensor:
        """Shape (members, examples, channels, ...)."""
        self.x = x.flatten(0, 1)
        return _aten.avg_pool2d(self.x, *self.options).unflatten(0, x.shape[:2])

    def backward(
        self, weights: Weights, gradient: Tensor, wanted: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...]:
        """Spread over the window."""
        g = _aten.avg_pool2d_backward(gradient.flatten(0, 1), self.x, *self.options)
        return (g.unflatten(0, gradient.shape[:2]),)


def _pair(size: Any) -> list[int]:
    return [int(size)] * 2 if isinstance(size, int) else [int(n) for n in size]


def _of_max(module: nn.MaxPool2d, names: dict[str, str]) -> Layer:
    if module.return_indices:
        raise Declined("a max-pooling returns indices")
    return MaxPool(module)


def _of_global_mean(module: nn.AdaptiveAvgPool2d, names: dict[str, str]) -> Layer:
    if module.output_size not in (1, (1, 1)):
        raise Declined("an adaptive pooling has an output larger than 1 x 1")
    return Mean((-2, -1), True, True)


MODULES: dict[type[nn.Module], Any] = {
    nn.MaxPool2d: _of_max,
    nn.AvgPool2d: lambda module, names: MeanPool(module),
    nn.AdaptiveAvgPool2d: _of_global_mean,
}

"""Sums, products with numbers, products of two values, softmax, means."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from geartrain.ensemble.engines._stack._layer import Declined, Layer, Weights, aligned, summed_to

_aten = torch.ops.aten


class Add(Layer):
    """``a + sign * b``, with broadcasting; sizes are added as numbers."""

    takes_options = True

    def __init__(self, sign: int = 1) -> None:
        super().__init__()
        self.sign = sign

    def forward(self, weights: Weights, a: Any, b: Any) -> Any:
        """The sum."""
        self.shapes = [t.shape for t in (a, b) if isinstance(t, Tensor)]
        self.first = isinstance(a, Tensor)
        if not self.shapes:
            return a + self.sign * b
        if len(self.shapes) < 2:
            return a + self.sign * b
        a, b = aligned([a, b])
        shape = torch.broadcast_shapes(a.shape, b.shape)
        return torch.add(a, b, alpha=self.sign, out=self.space.get("y", tuple(shape), a))

    def backward(
        self, weights: Weights, gradient: Tensor, wanted: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...]:
        """The gradient for both; the second gets its own copy."""
        if len(self.shapes) < 2:
            return (gradient if self.first else gradient.mul_(self.sign),)
        one, other = self.shapes
        second = None
        if wanted[1]:
            second = summed_to(gradient, other)
            if second is gradient:
                second = self.space.get("second", tuple(other), gradient).copy_(gradient)
            second = second if self.sign == 1 else second.neg_()
        return (summed_to(gradient, one) if wanted[0] else None, second)


class Scale(Layer):
    """Multiplied or divided by a number; sizes as numbers."""

    takes_options = True

    def __init__(self, function: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, weights: Weights, a: Any, b: Any) -> Any:
        """The product."""
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            raise Declined("it multiplies two values elementwise")
        if isinstance(b, Tensor) and self.function is operator.truediv:
            raise Declined("it divides a number by a value")
        self.factor = b if isinstance(a, Tensor) else a
        return self.function(a, b)

    def backward(
        self, weights: Weights, gradient: Tensor, wanted: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...]:
        """The same factor."""
        return (self.function(gradient, self.factor),)


class Product(Layer):
    """``a @ b`` of two values, over their last two axes."""

    def forward(self, weights: Weights, a: Tensor, b: Tensor) -> Tensor:
        """The products."""
        if min(a.ndim, b.ndim) < 3 or a.ndim != b.ndim:
            raise Declined("it multiplies values of different numbers of axes")
        self.a, self.b = a, b
        return a @ b

    def backward(
        self, weights: Weights, gradient: Tensor, wanted: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...]:
        """Products with the transposes."""
        first = summed_to(gradient @ self.b.mT, self.a.shape) if wanted[0] else None
        return (first, summed_to(self.a.mT @ gradient, self.b.shape) if wanted[1] else None)


class Softmax(Layer):
    """Over one axis."""

    keeps_output = True

    def __init__(self, dim: int | None) -> None:
        super().__init__()
        if dim is None:
            raise Declined("a softmax does not say over which axis")
        self.dim = dim if dim < 0 else dim + 1

    def forward(self, weights: Weights, x: Tensor) -> Tensor:
        """Positive, summing to one."""
        self.y = torch.softmax(x, self.dim)
        return self.y

    def backward(
        self, weights: Weights, gradient: Tensor, wanted: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...]:
        """Torch's own."""
        return (_aten._softmax_backward_data(gradient, self.y, self.dim, self.y.dtype),)


class Mean(Layer):
    """Mean or sum over some axes."""

    def __init__(self, dim: Any, keepdim: bool, mean: bool) -> None:
        super().__init__()
        if dim is None:
            raise Declined("it averages over all axes, the examples included")
        dims = dim if isinstance(dim, (tuple, list)) else (dim,)
        self.dims = tuple(d if d < 0 else d + 1 for d in dims)
        self.keepdim, self.mean = keepdim, mean

    def forward(self, weights: Weights, x: Tensor) -> Tensor:
        """Fewer axes."""
        self.shape = x.shape
        return x.mean(self.dims, self.keepdim) if self.mean else x.sum(self.dims, self.keepdim)

    def backward(
        self, weights: Weights, gradient: Tensor, wanted: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...]:
        """Spread evenly."""
        if not self.keepdim:
            for d in sorted(d % len(self.shape) for d in self.dims):
                gradient = gradient.unsqueeze(d)
        spread = self.space.get("dx", tuple(self.shape), gradient).copy_(gradient)
        number = spread.numel() // gradient.numel()
        return (spread.div_(number) if self.mean else spread,)


def _softmax(x: Any, dim: int | None = None) -> Layer:
    return Softmax(dim)


def _mean(x: Any, dim: Any = None, keepdim: bool = False) -> Layer:
    return Mean(dim, keepdim, True)


def _sum(x: Any, dim: Any = None, keepdim: bool = False) -> Layer:
    return Mean(dim, keepdim, False)


MODULES = {nn.Softmax: lambda module, names: Softmax(module.dim)}

FUNCTIONS: dict[Any, Callable[..., Layer]] = {
    operator.add: lambda a, b: Add(),
    operator.iadd: lambda a, b: Add(),
    torch.add: lambda a, b: Add(),
    operator.sub: lambda a, b: Add(-1),
    operator.mul: lambda a, b: Scale(operator.mul),
    operator.truediv: lambda a, b: Scale(operator.truediv),
    operator.matmul: lambda a, b: Product(),
    torch.matmul: lambda a, b: Product(),
    torch.bmm: lambda a, b: Product(),
    torch.softmax: _softmax,
    functional.softmax: _softmax,
    torch.mean: _mean,
    torch.sum: _sum,
}

METHODS = {
    "softmax": _softmax,
    "mean": _mean,
    "sum": _sum,
    "matmul": lambda a, b: Product(),
    "add": lambda a, b: Add(),
}

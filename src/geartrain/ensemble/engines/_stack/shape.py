"""Operations that only move numbers: flatten, view, transpose, chunk, index. Sizes are those of one member."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from geartrain.ensemble.engines._stack._layer import Declined, Layer, Weights


class Move(Layer):
    """``forward`` by a function of the value and its options, ``backward`` by one of the gradient and the shape."""

    aliases = True
    takes_options = True

    def __init__(self, there: Callable[..., Any], back: Callable[..., Tensor]) -> None:
        super().__init__()
        self.there, self.back = there, back

    def forward(self, weights: Weights, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The moved value."""
        self.shape, self.options = x.shape, (args, kwargs)
        return self.there(x, *args, **kwargs)

    def backward(
        self, weights: Weights, gradient: Any, wanted: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...]:
        """The moved gradient."""
        args, kwargs = self.options
        return (self.back(gradient, self.shape, *args, **kwargs),)


class Pick(Layer):
    """One item of a tuple, or a number of a size; for tensors, a part."""

    keeps_output = True  # it shares memory with its neighbours
    takes_options = True

    def forward(self, weights: Weights, x: Any, index: Any) -> Any:
        """``x[index]``."""
        self.x, self.index = x, index
        if isinstance(x, (tuple, list)) and isinstance(index, int):
            self.index = index % len(x)
        return x[_member_index(index)] if isinstance(x, Tensor) else x[index]

    def backward(self, weights: Weights, gradient: Any, wanted: tuple[bool, ...]) -> tuple[Any, ...]:
        """Zeros around the part; for tuples, the item's place and its gradient."""
        if not isinstance(self.x, Tensor):
            return ({self.index: gradient},)
        whole = self.space.get("whole", tuple(self.x.shape), gradient).zero_()
        whole[_member_index(self.index)] = gradient
        return (whole,)


class Size(Layer):
    """``x.shape`` or ``x.size(...)`` of one member."""

    depends = False
    takes_options = True

    def forward(self, weights: Weights, x: Any, *args: Any, **kwargs: Any) -> Any:
        """A size or a number."""
        name = args[0] if args and isinstance(args[0], str) else "size"
        if not isinstance(x, Tensor):
            return getattr(x, name)
        if name in ("device", "dtype"):
            return getattr(x, name)
        if name == "ndim":
            return x.ndim - 1
        size = x.shape[1:]
        where = [a for a in (*args, *kwargs.values()) if isinstance(a, int)]
        return size[where[0]] if where else size


class Number(Layer):
    """Arithmetic with sizes."""

    depends = False
    takes_options = True

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, weights: Weights, *args: Any, **kwargs: Any) -> Any:
        """A number; a tensor made of nothing but sizes is the same for all members."""
        made = self.function(*args, **kwargs)
        return made.expand(weights.members, *made.shape) if isinstance(made, Tensor) else made


def _member_index(index: Any) -> tuple[Any, ...]:
    parts = index if isinstance(index, tuple) else (index,)
    if any(not (p is None or p is Ellipsis or isinstance(p, (int, slice))) for p in parts):
        raise Declined("a value is indexed by something other than numbers and slices")
    return (slice(None), *parts)


def _axis(dim: int) -> int:
    """An axis of one member's value as an axis of the stacked value."""
    return dim if dim < 0 else dim + 1


def _sizes(sizes: tuple[Any, ...]) -> tuple[int, ...]:
    return tuple(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes


def _flatten(x: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    return x.flatten(_axis(start_dim), _axis(end_dim))


def _view(x: Tensor, *shape: Any) -> Tensor:
    return x.reshape(len(x), *_sizes(shape))


def _unflatten(x: Tensor, dim: int, sizes: Any) -> Tensor:
    return x.unflatten(_axis(dim), sizes)


def _shaped_back(g: Tensor, shape: torch.Size, *args: Any, **kwargs: Any) -> Tensor:
    return g.reshape(shape)


def _transpose(x: Tensor, dim0: int, dim1: int) -> Tensor:
    return x.transpose(_axis(dim0), _axis(dim1))


def _permute(x: Tensor, *dims: Any) -> Tensor:
    n = x.ndim - 1
    return x.permute(0, *(d % n + 1 for d in _sizes(dims)))


def _permute_back(g: Tensor, shape: torch.Size, *dims: Any) -> Tensor:
    n = len(shape) - 1
    order = [d % n for d in _sizes(dims)]
    return g.permute(0, *(order.index(i) + 1 for i in range(n)))


def _chunk(x: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    return x.chunk(chunks, _axis(dim))


def _split(x: Tensor, split_size: Any, dim: int = 0) -> tuple[Tensor, ...]:
    return x.split(split_size, _axis(dim))


def _split_back(g: dict[int, Tensor], shape: torch.Size, split_size: Any, dim: int = 0) -> Tensor:
    whole = next(iter(g.values())).new_zeros(shape)
    parts = whole.split(split_size, _axis(dim))
    for i, part in g.items():
        parts[i].copy_(part)
    return whole


def _chunks_back(g: dict[int, Tensor], shape: torch.Size, chunks: int, dim: int = 0) -> Tensor:
    whole = next(iter(g.values())).new_zeros(shape)
    parts = whole.chunk(chunks, _axis(dim))
    for i, part in g.items():
        parts[i].copy_(part)
    return whole


def _unbind(x: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    return x.unbind(_axis(dim))


def _unbind_back(g: dict[int, Tensor], shape: torch.Size, dim: int = 0) -> Tensor:
    whole = next(iter(g.values())).new_zeros(shape)
    parts = whole.unbind(_axis(dim))
    for i, part in g.items():
        parts[i].copy_(part)
    return whole


def _squeeze(x: Tensor, dim: int | None = None) -> Tensor:
    if dim is not None:
        return x.squeeze(_axis(dim))
    return x.reshape(len(x), *(n for n in x.shape[1:] if n != 1))


def _unsqueeze(x: Tensor, dim: int) -> Tensor:
    return x.unsqueeze(_axis(dim))


def _mover(there: Callable[..., Any], back: Callable[..., Tensor]) -> Callable[..., Layer]:
    return lambda *args, **kwargs: Move(there, back)


def _of_flatten(module: nn.Flatten, names: dict[str, str]) -> Layer:
    start, end = module.start_dim, module.end_dim
    return Move(lambda x: _flatten(x, start, end), _shaped_back)


def _of_unflatten(module: nn.Unflatten, names: dict[str, str]) -> Layer:
    dim, sizes = module.dim, module.unflattened_size
    if not isinstance(dim, int):
        raise Declined("it unflattens by names of axes")
    return Move(lambda x: _unflatten(x, dim, sizes), _shaped_back)


_MOVES: dict[str, Callable[..., Layer]] = {
    "flatten": _mover(_flatten, _shaped_back),
    "view": _mover(_view, _shaped_back),
    "reshape": _mover(_view, _shaped_back),
    "unflatten": _mover(_unflatten, _shaped_back),
    "squeeze": _mover(_squeeze, _shaped_back),
    "unsqueeze": _mover(_unsqueeze, _shaped_back),
    "transpose": _mover(_transpose, lambda g, shape, *dims, **named: _transpose(g, *dims, **named)),
    "permute": _mover(_permute, _permute_back),
    "chunk": _mover(_chunk, _chunks_back),
    "split": _mover(_split, _split_back),
    "unbind": _mover(_unbind, _unbind_back),
}

MODULES = {nn.Flatten: _of_flatten, nn.Unflatten: _of_unflatten}

METHODS = {**_MOVES, "size": lambda *args, **kwargs: Size(), "dim": lambda x: Number(lambda v: v.ndim - 1)}

FUNCTIONS: dict[Any, Callable[..., Layer]] = {
    **{getattr(torch, name): make for name, make in _MOVES.items() if hasattr(torch, name)},
    getattr: lambda *args: Size(),
    operator.getitem: lambda *args: Pick(),
    operator.floordiv: lambda *args: Number(operator.floordiv),
    torch.arange: lambda *args, **kwargs: Number(torch.arange),
}

"""What a layer of the stack engine is, and what it works with: stacked weights, and buffers that are allocated once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class Declined(Exception):
    """The stack engine cannot run this; the message says why, in one sentence for people."""


class Space:
    """Tensors kept from call to call, so that a pass allocates nothing; their contents are whatever was there."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Tensor, dict[tuple[int, ...], Tensor]]] = {}

    def get(
        self, name: str, shape: tuple[int, ...], like: Tensor, dtype: torch.dtype | None = None
    ) -> Tensor:
        """A contiguous tensor of that shape; of the type (unless said) and device of ``like``."""
        dtype = dtype or like.dtype
        kept = self._kept.get(name)
        if kept is not None and kept[0].dtype == dtype and kept[0].device == like.device:
            if (view := kept[1].get(shape)) is not None:
                return view
        size = 1
        for n in shape:
            size *= n
        if kept is None or kept[0].numel() < size or kept[0].dtype != dtype or kept[0].device != like.device:
            kept = self._kept[name] = torch.empty(size, dtype=dtype, device=like.device), {}
        view = kept[1][shape] = kept[0][:size].view(shape)
        return view

    @property
    def num_bytes(self) -> int:
        """Bytes held."""
        return sum(kept.nbytes for kept, _ in self._kept.values())


class Weights:
    """The parameters of a few members by name, and where their gradients go.

    Attributes:
        values: Views (members, *shape) by name; frozen parameters and buffers among them.
        gradients: Views (members, *shape) of the flat gradient, for the trainable ones.
        members: Number of members.
        examples: Weights of the examples, shape (members, examples), or ``None`` for a plain mean.
    """

    def __init__(
        self,
        values: Mapping[str, Tensor],
        gradients: Mapping[str, Tensor],
        members: int,
        examples: Tensor | None = None,
    ) -> None:
        self.values = values
        self.gradients = gradients
        self.members = members
        self.examples = examples
        self._written: set[str] = set()

    def of(self, name: str) -> Tensor:
        """The parameter, shape (members, *shape)."""
        return self.values[name]

    def trains(self, name: str) -> bool:
        """Whether a gradient is wanted."""
        return name in self.gradients

    def put(self, name: str, gradient: Tensor) -> None:
        """Keep the gradient; a parameter used several times gets the sum."""
        if name in self._written:
            self.gradients[name].add_(gradient)
        elif name in self.gradients:
            self.gradients[name].copy_(gradient)
            self._written.add(name)

    def clear_unreached(self) -> None:
        """Zero for parameters that got nothing: the caller may have written into their place."""
        for name, gradient in self.gradients.items():
            if name not in self._written:
                gradient.zero_()


class Layer:
    """One operation, forward and backward, on values of shape (members, ...).

    What ``forward`` needs again in ``backward`` it keeps on itself; a backward always follows its own forward.
    Gradients handed on belong to whoever gets them: a layer may write into the gradient that it is given.

    Attributes:
        in_place: Set where the layer may overwrite its input: nobody else needs it.
        can_be_in_place: Whether it would know how to.
        keeps_output: Whether its backward needs its own output, so that nobody may overwrite that.
        aliases: Whether its output may share memory with its input.
        depends: Whether its output can depend on the parameters.
        takes_options: Whether ``forward`` takes all arguments as in the model, or only the values among them.
        weight_names: Parameters that it uses.
        reads_data: Set where the input comes straight from the data.
    """

    can_be_in_place = False
    keeps_output = False
    aliases = False
    depends = True
    takes_options = False

    def __init__(self) -> None:
        self.space = Space()
        self.in_place = False
        self.reads_data = False
        self.weight_names: tuple[str, ...] = ()

    def forward(self, weights: Weights, *args: Any, **kwargs: Any) -> Any:
        """The value; tensors among the arguments have a leading member axis, numbers are as in the model."""
        raise NotImplementedError

    def backward(
        self, weights: Weights, gradient: Any, wanted: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...]:
        """Gradients of the tensor arguments in order, ``None`` where not wanted; those of weights are put there."""
        raise NotImplementedError


def aligned(values: list[Any]) -> list[Any]:
    """Tensors with as many axes as the longest, the new ones behind the member axis: broadcasting as in the model."""
    ndim = max(v.ndim for v in values if isinstance(v, Tensor))
    return [
        v[(slice(None),) + (None,) * (ndim - v.ndim)] if isinstance(v, Tensor) and v.ndim < ndim else v
        for v in values
    ]


def summed_to(gradient: Tensor, shape: torch.Size) -> Tensor:
    """The gradient of something that was broadcast from (members, ...) of that shape."""
    if gradient.shape == shape:
        return gradient
    extra = gradient.ndim - len(shape)
    axes = tuple(range(1, 1 + extra))
    axes += tuple(extra + i for i in range(1, len(shape)) if shape[i] == 1 and gradient.shape[extra + i] != 1)
    return gradient.sum(axes, keepdim=True).reshape(shape)

"""Parameters as one flat vector, in the order of ``model.parameters()``, and back."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from geartrain.errors import InputError

ParameterFilter = str | Sequence[str] | Callable[[str, nn.Parameter], bool]


@dataclass(frozen=True)
class Layout:
    """Where each parameter lies in the flat vector.

    Attributes:
        names: Names, as in ``model.named_parameters()`` (a tied weight once, under its first name).
        shapes: Their shapes.
        dtypes: Their types.
    """

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    dtypes: tuple[torch.dtype, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of entries of each parameter."""
        return tuple(shape.numel() for shape in self.shapes)

    @property
    def num_params(self) -> int:
        """Length of the flat vector."""
        return sum(self.sizes)

    @property
    def dtype(self) -> torch.dtype:
        """Type of flat vectors: the widest of the parameters, at least float32."""
        widest = torch.float32
        for dtype in self.dtypes:
            widest = torch.promote_types(widest, dtype)
        return widest

    def slices(self) -> dict[str, slice]:
        """The slice of the flat vector that each parameter occupies."""
        ends = torch.tensor(self.sizes).cumsum(0).tolist()
        return {n: slice(e - s, e) for n, s, e in zip(self.names, self.sizes, ends, strict=True)}

    def flatten(self, tensors: Iterable[Tensor]) -> Tensor:
        """Tensors in the order of ``names`` as one vector, shape (params,)."""
        dense = (t.to_dense() if t.is_sparse else t for t in tensors)  # embeddings may have sparse gradients
        return torch.cat([t.reshape(-1).to(self.dtype) for t in dense])

    def unflatten(self, vector: Tensor) -> list[Tensor]:
        """A vector of shape (params,) as tensors with the shapes and types of the parameters.

        Raises:
            InputError: Its shape is not (params,).
        """
        if vector.shape != (self.num_params,):
            raise InputError(
                f"The vector has shape {tuple(vector.shape)}; this objective has {self.num_params} parameters, "
                f"so the shape must be ({self.num_params},), in the order of model.parameters()."
            )
        parts = vector.split(self.sizes)
        return [p.view(s).to(d) for p, s, d in zip(parts, self.shapes, self.dtypes, strict=True)]


def select(model: nn.Module, wanted: ParameterFilter | None) -> dict[str, nn.Parameter]:
    """Parameters that need gradients and pass the filter, by name, in order.

    Args:
        model: The model.
        wanted: A glob pattern over names (``"layers.3.*"``), several of them, a predicate of (name, parameter),
            or ``None`` for all.

    Returns:
        The parameters.

    Raises:
        InputError: None needs a gradient, or none passes the filter.
    """
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    if not trainable:
        total = sum(1 for _ in model.parameters())
        raise InputError(
            f"No parameter of {type(model).__name__} needs a gradient ({total} parameters, all frozen or none); "
            "at least one must. Call model.requires_grad_(True), or pass the model that is being trained."
        )
    if wanted is None:
        return trainable
    if callable(wanted):
        chosen = {n: p for n, p in trainable.items() if wanted(n, p)}
    else:
        patterns = [wanted] if isinstance(wanted, str) else list(wanted)
        chosen = {n: p for n, p in trainable.items() if any(fnmatch.fnmatchcase(n, q) for q in patterns)}
    if not chosen:
        raise InputError(
            f"The parameter filter {wanted!r} selects nothing. Parameters that need gradients: {', '.join(trainable)}."
        )
    return chosen


def layout_of(parameters: dict[str, nn.Parameter]) -> Layout:
    """The layout of a selection of parameters."""
    return Layout(
        tuple(parameters),
        tuple(p.shape for p in parameters.values()),
        tuple(p.dtype for p in parameters.values()),
    )

"""A point with its graph retained, so that every further curvature product is one backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import grad
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from geartrain.objective import Objective

RETAIN_BYTES = 2**31
"""Graphs of several batches are all kept only while their saved tensors fit in this many bytes."""


@dataclass(frozen=True)
class Point:
    """Everything that a retained graph depends on, to notice when any of it has changed.

    Versions alone would miss ``p.data.add_(...)``, addresses alone a new tensor in an old one's place; so the values
    are compared. **Cost**: one copy and one comparison of parameters and buffers, little beside a product.
    """

    values: tuple[Tensor, ...]
    marks: tuple[Any, ...]

    @staticmethod
    def of(tensors: Sequence[Tensor], data: Sequence[Tensor], params: Tensor | None, modes: Any) -> Point:
        """The present values of ``tensors`` and ``params``; of the data only whether they were written to."""
        marks = tuple((t._version, t.data_ptr()) for t in (*tensors, *data) if not t.is_inference())
        explicit = () if params is None else (params,)
        return Point((*(t.detach() for t in tensors), *explicit), (*marks, modes))

    def kept(self) -> Point:
        """The same with values of its own, which stay when the tensors change."""
        return Point(tuple(t.clone() for t in self.values), self.marks)

    def same(self, other: Point) -> bool:
        """Whether nothing has changed in between."""
        if self.marks != other.marks or len(self.values) != len(other.values):
            return False
        return all(torch.equal(a, b) for a, b in zip(self.values, other.values, strict=True))


class Linearization:
    """Hessian products at one point.

    With several batches whose graphs together would not fit in `RETAIN_BYTES`, each product rebuilds them one by one.

    Args:
        objective: What to differentiate.
        params: Where; ``None`` for the present parameters.
        point: The same, with all it depends on; kept for the owner.
    """

    def __init__(self, objective: Objective, params: Tensor | None, point: Point) -> None:
        self.objective = objective
        self.point = point.kept()
        self.params = None if params is None else params.detach().clone()
        weighted = objective._weighted()
        # One graph is kept in any case; measuring it, which takes another, only decides about several.
        self.retained = len(weighted) == 1 or self._bytes(weighted[0][1]) * len(weighted) <= RETAIN_BYTES
        self.graphs = [(w, self._graph(b)) for w, b in weighted] if self.retained else []

    def gradient(self) -> Tensor:
        """The gradient, shape (params,)."""
        flatten = self.objective.layout.flatten
        return torch.stack([w * flatten(g.detach() for g in grads) for w, (_, grads) in self._each()]).sum(0)

    def product(self, v: Tensor) -> Tensor:
        """The Hessian times ``v``, shape (params,)."""
        layout = self.objective.layout
        parts = layout.unflatten(v)
        total: Tensor | None = None
        for weight, (leaves, grads) in self._each():
            product = layout.flatten(_pull(grads, leaves, parts, retain=self.retained))
            total = product.mul_(weight) if total is None else total.add_(product, alpha=weight)
        assert total is not None  # there is at least one batch
        return total

    def _each(self) -> Any:
        if self.retained:
            return self.graphs
        return ((w, self._graph(b)) for w, b in self.objective._weighted())

    def _graph(self, batch: Any) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        objective = self.objective
        with objective._quiet():
            leaves = objective._leaves(self.params)
            loss = objective._loss(leaves, batch)
            variables = list(leaves.values())
            grads = grad(loss, variables, create_graph=True, allow_unused=True, materialize_grads=True)
        return variables, grads

    def _bytes(self, batch: Any) -> int:
        """Bytes that the graph of one batch holds on to. It is thrown away: hooks would keep versions unchecked."""
        sizes: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            self._graph(batch)
        return sum(sizes.values())


class GaussNewton:
    """Products with Jᵀ H_ℓ J at one point, J by the double-backward trick.

    Args:
        objective: What to differentiate; must have been made from ``loss_fn(outputs, targets)``.
        params: Where; ``None`` for the present parameters.
        point: The same, with all it depends on; kept for the owner.
    """

    def __init__(self, objective: Objective, params: Tensor | None, point: Point) -> None:
        self.objective = objective
        self.point = point.kept()
        self.params = None if params is None else params.detach().clone()
        self.graphs = [(w, self._graph(b)) for w, b in objective._weighted()]

    def product(self, v: Tensor) -> Tensor:
        """The Gauss-Newton matrix times ``v``, shape (params,)."""
        layout = self.objective.layout
        parts = layout.unflatten(v)
        total = torch.zeros_like(v)
        for weight, (leaves, outputs, dummies, pulled, free, slopes) in self.graphs:
            pushed = _pull(pulled, dummies, parts)  # J v
            bent = _pull(slopes, free, pushed)  # H_ℓ J v
            total += weight * layout.flatten(_pull(outputs, leaves, bent))  # Jᵀ H_ℓ J v
        return total

    def _graph(self, batch: Any) -> tuple[Sequence[Tensor], ...]:
        objective = self.objective
        with objective._quiet():
            leaves = list((named := objective._leaves(self.params)).values())
            structure = objective._outputs(named, batch)
            outputs = [t for t in tree_leaves(structure) if isinstance(t, Tensor) and t.requires_grad]
            # Jᵀu is linear in u, so its derivative in u along v is J v.
            dummies = [torch.zeros_like(t, requires_grad=True) for t in outputs]
            pulled = grad(
                outputs, leaves, dummies, create_graph=True, allow_unused=True, materialize_grads=True
            )
            free = [t.detach().requires_grad_() for t in outputs]
            replaced = _replace(structure, outputs, free)
            loss = objective.loss_fn(replaced, batch[1])  # type: ignore[misc]
            slopes = grad(loss, free, create_graph=True, allow_unused=True, materialize_grads=True)
        return leaves, outputs, dummies, pulled, free, slopes


def _pull(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], cotangents: Sequence[Tensor], *, retain: bool = True
) -> list[Tensor]:
    """Vector-Jacobian product; zeros where nothing depends on anything."""
    live = [(o, c) for o, c in zip(outputs, cotangents, strict=True) if o.requires_grad]
    if not live:
        return [torch.zeros_like(i) for i in inputs]
    results = grad(
        [o for o, _ in live],
        inputs,
        [c.to(o.dtype) for o, c in live],
        retain_graph=retain,
        allow_unused=True,
        materialize_grads=True,
    )
    return [r.detach() for r in results]


def _replace(structure: Any, old: Sequence[Tensor], new: Sequence[Tensor]) -> Any:
    from torch.utils._pytree import tree_map

    swap = {id(o): n for o, n in zip(old, new, strict=True)}
    return tree_map(lambda leaf: swap.get(id(leaf), leaf), structure)

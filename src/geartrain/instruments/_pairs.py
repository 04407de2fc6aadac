"""The trace of the Gauss-Newton matrix from pairs of layer inputs and output gradients, without any product.

tr JᵀH_ℓJ = Σ_i E‖J_iᵀ s_i‖² with E s sᵀ = H_ℓ, the Hessian of the loss in the outputs: one backward pass from random
output gradients s gives the squared norms of all examples. The structure of H_ℓ (diagonal, softmax, or small and dense)
is found by probing the loss itself, not by the name of the function.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import grad
from torch.utils._pytree import tree_leaves, tree_map

from geartrain._torch import batches as _batches
from geartrain._torch import layer_pairs, piecewise
from geartrain.budget import Clock
from geartrain.objective import Objective

_DENSE = 64
"""Outputs per example up to which H_ℓ is taken column by column."""
_TOLERANCE = {torch.float64: 1e-7, torch.float32: 1e-3}


class NoPairs(Exception):
    """The trace cannot be had this way; the message says why, as half a sentence."""


@dataclass(frozen=True)
class PairTrace:
    """A trace from pairs.

    Attributes:
        samples: Estimates, one per random output gradient, shape (samples,).
        value: Their mean.
        standard_error: From the spread of every example's samples; 0 if exact, NaN from one sample.
        exact: Whether every direction of the outputs was taken once.
        per_parameter: The part of each parameter tensor, by name.
        per_parameter_error: Their standard errors.
        complete: False when the clock ended it early.
    """

    samples: Tensor
    value: float
    standard_error: float
    exact: bool
    per_parameter: dict[str, float]
    per_parameter_error: dict[str, float]
    complete: bool


def obstacle(objective: Objective, *, hessian: bool) -> str | None:
    """Why the trace cannot be had this way, tried on two examples and off the meter; ``None`` if it can."""
    few = objective.on([_batches.take(objective.batches[0], slice(0, 2))])
    few._share = 0.0
    try:
        with few._quiet():
            _ready(few, few.batches[0], hessian)
    except NoPairs as reason:
        return str(reason)
    return None


def trace_by_pairs(
    objective: Objective, num_samples: int, clock: Clock, generator: torch.Generator | None, *, hessian: bool
) -> PairTrace:
    """The trace of the Gauss-Newton matrix, or of the Hessian where the two are equal.

    Args:
        objective: Made from ``loss_fn(outputs, targets)``.
        num_samples: Random output gradients; outputs of no more than so many directions are taken one by one (exact).
        clock: Asked before each; batches that it does not reach are taken to be like the others (error NaN).
        generator: Draws them.
        hessian: Refuse where the trace of the Hessian differs.

    Returns:
        The trace.

    Raises:
        NoPairs: Why it cannot be had.
    """
    source = generator or torch.Generator().manual_seed(0)
    sums, complete, exact = _Sums(objective), True, True
    for number, (weight, batch) in enumerate(objective._weighted()):
        with objective._quiet():
            ready = _ready(objective.on([batch]), batch, hessian)
            exact &= ready.rank <= num_samples
            for k in range(min(num_samples, ready.rank)):
                if (number or k) and clock.exhausted(k):
                    complete = False
                    break
                sums.add(number, weight, ready.squares(k if ready.rank <= num_samples else None, source))
    return sums.result(exact and complete, complete)


@dataclass
class _Ready:
    """A batch with its graph, its layers checked, its loss's curvature known."""

    one: layer_pairs.Pass
    curvature: _Curvature

    @property
    def rank(self) -> int:
        return self.curvature.rank

    def squares(self, column: int | None, generator: torch.Generator) -> dict[str, Tensor]:
        result = self.one.result
        shape = (len(result), self.rank) if self.curvature.small else tuple(result.shape)
        if column is None:
            noise = torch.randint(2, shape, generator=generator, device=generator.device) * 2.0 - 1.0
        else:
            noise = torch.zeros(len(result), self.rank)
            noise[:, column] = 1.0
            noise = noise.reshape(shape)
        weights = self.curvature.root(noise.to(result.device, self.curvature.dtype)).reshape(result.shape)
        self.one.objective.charge(gradients=2 / 3)  # one backward pass to the layers, and the norms
        return self.one.squares([result], [weights.to(result.dtype)])


def _ready(objective: Objective, batch: Any, hessian: bool) -> _Ready:
    one = _forward(objective, batch)
    if hessian and (why := piecewise.obstacle([one.result], one.leaves)):
        raise NoPairs(why)
    curvature = _curvature_of(objective, one)
    source = torch.Generator().manual_seed(len(one.result))
    weights = torch.randn(one.result[:4].shape, generator=source).to(one.result)

    def roots(some: layer_pairs.Pass, part: slice) -> tuple[list[Tensor], list[Tensor]]:
        return [some.result], [weights[part]]

    plan = layer_pairs.agreeing(objective, None, batch, roots, outputs=True)
    if plan.rest:
        raise NoPairs(f"the layers do not give {', '.join(plan.rest[:3])} by pairs")
    if not plan.apply(one):
        raise NoPairs("different examples go through different layers")
    return _Ready(one, curvature)


def _forward(objective: Objective, batch: Any) -> layer_pairs.Pass:
    if objective._caller.only_loss:
        raise NoPairs("batch_loss(model, batch) hides the model's outputs")
    if objective._random():
        raise NoPairs("dropout is on")
    one = layer_pairs.record(objective, None, batch, outputs=True)
    objective.charge(forwards=1)
    found = [t for t in tree_leaves(one.result) if isinstance(t, Tensor)]
    if not isinstance(one.result, Tensor) or len(found) != 1 or not one.result.is_floating_point():
        raise NoPairs("the model's output is not one tensor of real numbers")
    if one.result.ndim == 0 or len(one.result) != one.size or not one.result.requires_grad:
        raise NoPairs("the outputs do not have one row per example that depends on the parameters")
    return one


# ---------------------------------------------------------------------- curvature of the loss in the outputs


@dataclass(frozen=True)
class _Curvature:
    """H_ℓ as B Bᵀ.

    Attributes:
        root: ``z -> B z``.
        rank: Columns of B per example.
        small: Whether z has shape (examples, rank); else that of the outputs.
        dtype: In which it is computed.
    """

    root: Callable[[Tensor], Tensor]
    rank: int
    small: bool
    dtype: torch.dtype


def _curvature_of(objective: Objective, one: layer_pairs.Pass) -> _Curvature:
    product = _loss_product(objective, one)
    shape, dtype = one.result.shape, product.dtype
    source = torch.Generator().manual_seed(1)
    probes = [
        torch.randn(shape, generator=source, dtype=torch.float64).to(one.result.device, dtype) for _ in "12"
    ]
    images = [product(p) for p in probes]
    limit = _TOLERANCE.get(dtype, 5e-2)
    return (
        _diagonal(product, probes[0], images[0], limit)
        or _softmax(product.free, probes, images, limit)
        or _dense(product, probes[0], images[0], limit)
    )


@dataclass
class _LossProduct:
    """``z -> H_ℓ z``, the loss as a function of the outputs alone."""

    free: Tensor
    slope: Tensor

    @property
    def dtype(self) -> torch.dtype:
        return self.free.dtype

    def __call__(self, vector: Tensor) -> Tensor:
        if not self.slope.requires_grad:
            return torch.zeros_like(vector)
        (image,) = grad(
            self.slope, self.free, vector, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return image.detach()


def _loss_product(objective: Objective, one: layer_pairs.Pass) -> _LossProduct:
    free, loss = _loss_alone(objective, one)
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
        raise NoPairs("the loss is not a differentiable function of the outputs alone")
    if any(getattr(node, "variable", free) is not free for node in piecewise.ordered([loss.grad_fn])):
        raise NoPairs("the loss looks at parameters beside the outputs")
    (slope,) = grad(loss.reshape(()), free, create_graph=True, allow_unused=True, materialize_grads=True)
    return _LossProduct(free, slope)


def _loss_alone(objective: Objective, one: layer_pairs.Pass) -> tuple[Tensor, Any]:
    """The outputs as variables, and the loss of them, in double precision where it has no weights of another type."""
    loss_fn = objective.batch_loss.loss_fn  # type: ignore[attr-defined]
    wide = one.result.detach().to(torch.float64, copy=True).requires_grad_()
    try:
        return wide, loss_fn(wide, tree_map(lambda t: _as(t, wide.dtype), one.batch[1]))
    except (RuntimeError, TypeError):
        free = one.result.detach().clone().requires_grad_()
        return free, loss_fn(free, one.batch[1])


def _as(leaf: Any, dtype: torch.dtype) -> Any:
    return leaf.to(dtype) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf


def _diagonal(product: _LossProduct, probe: Tensor, image: Tensor, limit: float) -> _Curvature | None:
    """Squared errors, binary cross-entropy, Huber, ...: H_ℓ z = d∘z."""
    diagonal = product(torch.ones_like(probe))
    if not _same(diagonal * probe, image, limit):
        return None
    root = _root_of(diagonal, limit)
    return _Curvature(lambda z: root * z, probe[0].numel(), False, probe.dtype)


def _softmax(free: Tensor, probes: list[Tensor], images: list[Tensor], limit: float) -> _Curvature | None:
    """Cross-entropy: H_ℓ z = w (p∘z - p (p·z)) at every place, w its share of the mean."""
    for axis in dict.fromkeys((free.ndim - 1, 1)) if free.ndim > 1 else ():
        p = free.detach().softmax(axis)
        shapes = [p * (z - (p * z).sum(axis, keepdim=True)) for z in probes]
        size = shapes[0].square().sum(axis, keepdim=True)
        share = (shapes[0] * images[0]).sum(axis, keepdim=True) / size.clamp_min(torch.finfo(p.dtype).tiny)
        if not all(_same(share * s, i, limit) for s, i in zip(shapes, images, strict=True)):
            continue
        root, half = _root_of(share, limit), p.sqrt()

        def apply(
            z: Tensor, axis: int = axis, root: Tensor = root, p: Tensor = p, half: Tensor = half
        ) -> Tensor:
            return root * (half * z - p * (half * z).sum(axis, keepdim=True))

        return _Curvature(apply, free[0].numel(), False, free.dtype)
    return None


def _dense(product: _LossProduct, probe: Tensor, image: Tensor, limit: float) -> _Curvature:
    """Anything else, of few outputs: its columns for all examples at once."""
    count, size = len(probe), probe[0].numel()
    if size > _DENSE:
        raise NoPairs(f"the loss couples {size} outputs in a way that is not that of a softmax")
    units = torch.eye(size, dtype=probe.dtype, device=probe.device)
    columns = [product(unit.reshape(probe[:1].shape).expand_as(probe)).reshape(count, size) for unit in units]
    blocks = torch.stack(columns, dim=2)
    if not _same((blocks @ probe.reshape(count, size, 1)).reshape(image.shape), image, limit):
        raise NoPairs("the loss couples the outputs of different examples")
    values, vectors = torch.linalg.eigh((blocks + blocks.transpose(1, 2)) / 2)
    root = vectors * _root_of(values, limit)[:, None, :]
    return _Curvature(lambda z: (root @ z[..., None])[..., 0], size, True, probe.dtype)


def _same(found: Tensor, wanted: Tensor, limit: float) -> bool:
    return bool((found - wanted).abs().max() <= limit * wanted.abs().max() + torch.finfo(found.dtype).tiny)


def _root_of(values: Tensor, limit: float) -> Tensor:
    if bool(values.min() < -limit * values.abs().max()):
        raise NoPairs("the loss is not convex in the outputs")
    return values.clamp_min(0).sqrt()


# ---------------------------------------------------------------------- mean and error


class _Sums:
    """Sums over examples of every sample, and of every example's spread over its samples."""

    def __init__(self, objective: Objective) -> None:
        self.names = objective.layout.names
        self.rows: list[list[Tensor]] = []
        self.reached = 0.0

    def add(self, batch: int, weight: float, squares: dict[str, Tensor]) -> None:
        table = torch.stack([squares[n] for n in self.names], dim=1).double()
        if batch == len(self.rows):
            self.rows.append([])
            self.reached += weight
        self.rows[batch].append(weight * table)

    def result(self, exact: bool, complete: bool) -> PairTrace:
        tables = [torch.stack(rows) / self.reached for rows in self.rows]  # (samples, examples, tensors)
        if exact:
            parts = torch.stack([t.sum((0, 1)) for t in tables]).sum(0)
            return self._packed(parts[None], parts, torch.zeros(len(parts)), 0.0, True, complete)
        means = torch.stack([t.sum(1).mean(0) for t in tables]).sum(0)
        samples = torch.stack([t.sum(1)[: min(map(len, tables))] for t in tables]).sum(0)
        unknown = 0.0 if self.reached > 1 - 1e-9 else math.nan
        variances = torch.stack([_variance(t) for t in tables]).sum(0) + unknown
        whole = sum(float(_variance(t.sum(2, keepdim=True))) for t in tables) + unknown
        return self._packed(samples, means, variances.sqrt(), math.sqrt(whole), False, complete)

    def _packed(
        self, samples: Tensor, parts: Tensor, errors: Tensor, error: float, exact: bool, complete: bool
    ) -> PairTrace:
        values, spreads = (dict(zip(self.names, t.tolist(), strict=True)) for t in (parts, errors))
        total = float(parts.sum())
        return PairTrace(samples.sum(1), total, error, exact, values, spreads, complete)


def _variance(table: Tensor) -> Tensor:
    """Variance of the mean over samples of the sum over examples, which are independent of each other."""
    if len(table) < 2:
        return torch.full(table.shape[2:], math.nan, dtype=table.dtype)
    return table.var(0, unbiased=True).sum(0) / len(table)

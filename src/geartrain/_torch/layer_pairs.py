"""Squared norms of per-example gradients from one backward pass, without forming the gradients ("ghost norms").

The gradient of a weight for one example is Σ_t b_t a_tᵀ over places t (words, pixels), a what went into the layer and b
the gradient of what came out. Its squared norm is ‖a‖²‖b‖² for one place, Σ_ts (a_t·a_s)(b_t·b_s) for several (the Gram
way), or that of the small matrix itself (the direct way), whichever takes fewer operations. Nothing is assumed of the
layers by name: a few examples are differentiated one by one first, and whatever does not agree with them is left out.

References:
    Goodfellow (2015), arXiv:1510.01799; Li et al. (2022), arXiv:2110.05679 (ghost clipping); Rochette et al. (2019),
    arXiv:1912.06015 (convolutions).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import grad

from geartrain._torch import batches as _batches
from geartrain._torch import taps

if TYPE_CHECKING:
    from geartrain.objective import Objective

_PIECE = 2**21
"""Entries of a temporary matrix: 8 MB in float32, so that it stays in the cache."""
_KEEP = 2**27
_WORTH_IT = 8
"""Fewer examples are differentiated as quickly one by one."""
_PROBE = 2
"""Examples that are differentiated one by one to check the layers."""
_TOLERANCE = {torch.float64: 1e-7, torch.float32: 2e-3}

Roots = Callable[["Pass", slice], tuple[Sequence[Tensor], Sequence[Tensor]]]
"""What to differentiate in a pass over that part of the examples: tensors of its graph, and what multiplies them."""


@dataclass
class Pass:
    """One forward pass over a batch with its graph, its layers noted.

    Attributes:
        objective: Whose loss.
        leaves: The variables of the graph.
        batch: The examples.
        result: The loss, or the outputs.
        record: The layers.
        sites: Those that have been checked (see `agreeing`).
        factors: What went into the layers, unfolded, kept for the next backward pass while it fits `_KEEP` bytes.
    """

    objective: Objective
    leaves: dict[str, Tensor]
    batch: Any
    result: Any
    record: taps.Record
    sites: list[taps.Site]
    factors: dict[tuple[str, int], Tensor] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Number of examples."""
        return _batches.size_of(self.batch)

    def squares(
        self, roots: Sequence[Tensor], weights: Sequence[Tensor], *, retain: bool = True
    ) -> dict[str, Tensor]:
        """‖Σ wᵀ∂root/∂θ‖² of each example and parameter, by name of the parameter, shapes (examples,)."""
        calls = list({id(c): c for site in self.sites for c in site.calls}.values())
        slopes = grad(
            list(roots),
            [c.output for c in calls],
            list(weights),
            retain_graph=retain,
            allow_unused=True,
            materialize_grads=True,
        )
        by_call = dict(zip(map(id, calls), slopes, strict=True))
        found: dict[str, Tensor] = {}
        for site in self.sites:
            found |= self._squares(site, [by_call[id(c)] for c in site.calls], retain)
        return found

    def _squares(self, site: taps.Site, slopes: Sequence[Tensor], keep: bool) -> dict[str, Tensor]:
        channels = site.channels(slopes, self.size).to(self.objective.dtype)
        totals = channels.sum(1) if site.role == "bias" or site.bias is not None else None
        found = {} if totals is None else {site.bias or site.name: totals.square().sum(1)}
        if site.role == "bias":
            return found
        places, outputs, width = channels.shape[1], channels.shape[2], site.width()
        step = max(1, _PIECE // max(places * (width + outputs), width * outputs))
        if site.role == "outer" and places == 1:
            step = self.size  # nothing is formed
        starts = range(0, self.size, step)
        parts = [_norms(site, self._factor(site, i, step, keep), channels[i : i + step]) for i in starts]
        return {**found, site.name: torch.cat(parts)}

    def _factor(self, site: taps.Site, start: int, step: int, keep: bool) -> Tensor:
        if (site.name, start) in self.factors:
            return self.factors[site.name, start]
        factor = site.factor(self.size, slice(start, start + step)).to(self.objective.dtype)
        if keep and factor.nbytes + sum(f.nbytes for f in self.factors.values()) <= _KEEP:
            self.factors[site.name, start] = factor
        return factor


def record(objective: Objective, params: Tensor | None, batch: Any, *, outputs: bool) -> Pass:
    """Run the model on a batch, noting its layers; to be called inside ``objective._quiet()``."""
    leaves = objective._leaves(params)
    with taps.recording(objective.model, objective.layout.names) as noted:
        result = objective._outputs(leaves, batch) if outputs else objective._loss(leaves, batch)
    return Pass(objective, leaves, batch, result, noted, noted.sites())


def agreeing(objective: Objective, params: Tensor | None, batch: Any, roots: Roots, *, outputs: bool) -> Plan:
    """Which layers' pairs give the norms that differentiating single examples gives, tried on a few.

    Args:
        objective: Whose.
        params: Where.
        batch: The examples to take a few of.
        roots: What to differentiate.
        outputs: Whether passes give outputs or the loss.

    Returns:
        The plan that `Plan.apply` puts on a pass over the whole batch.
    """
    few = _batches.take(batch, slice(0, _PROBE))
    trial = record(objective, params, few, outputs=outputs)
    truth = _one_by_one(trial, params, roots, outputs=outputs)
    objective.charge(gradients=2 * trial.size / objective.num_examples)
    passed: dict[str, tuple[int, ...]] = {}
    waiting = trial.sites
    for axis in (0, 1):
        trial.sites = [s for s in waiting if _put_axis(s, axis, trial.size)]
        if not trial.sites:
            continue
        measured = trial.squares(*roots(trial, slice(0, trial.size)))
        good = [s for s in trial.sites if all(_close(measured[n], truth[n]) for n in s.names)]
        passed |= {s.name: tuple(axis for _ in s.calls) for s in good}
        waiting = [s for s in waiting if s.name not in passed]
    return Plan(
        passed, tuple(n for n in objective.layout.names if n not in _names(trial.record.sites(), passed))
    )


@dataclass(frozen=True)
class Plan:
    """What a few examples taught about the layers.

    Attributes:
        axes: Axis of the examples in every call of every site that passed, by the site's name.
        rest: Parameters that the pairs do not answer for.
    """

    axes: Mapping[str, tuple[int, ...]]
    rest: tuple[str, ...]

    def apply(self, whole: Pass) -> bool:
        """Keep the sites that passed; False where the whole batch went through other layers than the few examples."""
        whole.sites = [s for s in whole.sites if s.name in self.axes]
        for site in whole.sites:
            if len(site.calls) != len(self.axes[site.name]):
                return False
            for call, axis in zip(site.calls, self.axes[site.name], strict=True):
                if not _fits(call, axis, whole.size):
                    return False
                call.axis = axis
        return len(whole.sites) == len(self.axes)


def gradient_squares(objective: Objective, params: Tensor | None = None) -> Tensor:
    """‖∂ℓᵢ/∂θ‖² of every example's own loss and every parameter tensor, shape (examples, tensors), unit ℓ²/θ².

    By pairs where the layers allow it, by the rows of `per_example_gradient_chunks` for the rest.

    Raises:
        UnsupportedError: Examples have no gradients of their own, or the loss is no mean over them.
    """
    objective._refuse_coupled_examples()
    return torch.cat([_batch_squares(objective.on([batch]), params) for batch in objective.batches])


def _batch_squares(objective: Objective, params: Tensor | None) -> Tensor:
    names, found = objective.layout.names, {}
    if objective.num_examples > _WORTH_IT and not objective._random():
        try:
            with objective._quiet():
                found = _by_pairs(objective, params)
        except (RuntimeError, ValueError, TypeError, IndexError):
            found = {}  # a layer of an unforeseen shape; the rows always work
    if rest := [n for n in names if n not in found]:
        # A restriction holds the other parameters at their present values, not at ``params``.
        found |= _by_rows(objective.restrict(rest), None) if params is None else _by_rows(objective, params)
    return objective._finite(torch.stack([found[n] for n in names], dim=1), "per-example gradient", params)


def _by_pairs(objective: Objective, params: Tensor | None) -> dict[str, Tensor]:
    """What the pairs answer for; nothing where that is little, or the batch's loss is no mean of its examples'."""
    batch = objective.batches[0]
    plan = agreeing(objective, params, batch, _own_losses, outputs=False)
    sizes = dict(zip(objective.layout.names, objective.layout.sizes, strict=True))
    if 2 * sum(sizes[n] for n in plan.rest) > objective.num_params:
        return {}
    whole = record(objective, params, batch, outputs=False)
    if not plan.apply(whole) or not _is_mean(objective, whole, params):
        return {}
    objective.charge(forwards=1, gradients=1)
    return whole.squares(*_own_losses(whole, slice(None)), retain=False)


def _by_rows(objective: Objective, params: Tensor | None) -> dict[str, Tensor]:
    slices = objective.layout.slices()
    tables = [
        torch.stack([rows[:, s].square().sum(1) for s in slices.values()])
        for rows in objective.per_example_gradient_chunks(params)
    ]
    return dict(zip(slices, torch.cat(tables, dim=1), strict=True))


def _own_losses(one: Pass, part: slice) -> tuple[list[Tensor], list[Tensor]]:
    # The mean gives every example 1/n of its own gradient.
    return [one.result], [torch.full_like(one.result, float(one.size))]


def _is_mean(objective: Objective, whole: Pass, params: Tensor | None) -> bool:
    # As far as two uneven parts of the batch can tell.
    cut = max(1, whole.size // 3)
    leaves = objective._leaves(params)
    parts = [_batches.take(whole.batch, slice(0, cut)), _batches.take(whole.batch, slice(cut, whole.size))]
    mean = sum(objective._forward_loss(leaves, p) * _batches.size_of(p) / whole.size for p in parts)
    together = whole.result.detach().to(objective.dtype)
    tolerance = _TOLERANCE.get(together.dtype, 5e-2)
    return bool((mean - together).abs() <= 0.1 * tolerance * (1 + together.abs()))


def _one_by_one(trial: Pass, params: Tensor | None, roots: Roots, *, outputs: bool) -> dict[str, Tensor]:
    """The same squares by differentiating the examples one at a time."""
    found: dict[str, list[Tensor]] = {n: [] for n in trial.leaves}
    for i in range(trial.size):
        alone = record(trial.objective, params, _batches.take(trial.batch, slice(i, i + 1)), outputs=outputs)
        tensors, weights = roots(alone, slice(i, i + 1))
        slopes = grad(
            list(tensors),
            list(alone.leaves.values()),
            list(weights),
            allow_unused=True,
            materialize_grads=True,
        )
        for name, slope in zip(alone.leaves, slopes, strict=True):
            slope = slope.to_dense() if slope.is_sparse else slope
            found[name].append(slope.to(trial.objective.dtype).square().sum())
    return {n: torch.stack(v) for n, v in found.items()}


def _close(found: Tensor, truth: Tensor) -> bool:
    tolerance = _TOLERANCE.get(found.dtype, 5e-2)
    return bool((found - truth).abs().max() <= tolerance * truth.max() + torch.finfo(found.dtype).tiny)


def _names(sites: Sequence[taps.Site], passed: Mapping[str, Any]) -> set[str]:
    return {n for s in sites if s.name in passed for n in s.names}


def _put_axis(site: taps.Site, axis: int, size: int) -> bool:
    for call in site.calls:
        if not _fits(call, axis, size):
            return False
        call.axis = axis
    return True


def _fits(call: taps.Call, axis: int, size: int) -> bool:
    if axis == 0:
        return call.inputs.ndim > 0 and call.inputs.shape[0] % size == 0 and call.output.shape[0] % size == 0
    return (
        min(call.inputs.ndim, call.output.ndim) > 1 and call.inputs.shape[1] == call.output.shape[1] == size
    )


# ---------------------------------------------------------------------- the norm of a sum of outer products


def _norms(site: taps.Site, factor: Tensor, channels: Tensor) -> Tensor:
    if site.role == "scale":
        return (factor * channels).sum(1).square().sum(1)
    groups = site.groups
    pairs = zip(factor.chunk(groups, dim=2), channels.chunk(groups, dim=2), strict=True)
    return torch.stack([_outer_norms(f, c) for f, c in pairs]).sum(0)


def _outer_norms(factor: Tensor, channels: Tensor) -> Tensor:
    """‖Σ_t channels_t factor_tᵀ‖² of each example; (examples, places, inputs) and (examples, places, outputs)."""
    places, width, outputs = factor.shape[1], factor.shape[2], channels.shape[2]
    if places == 1:
        return factor.square().sum((1, 2)) * channels.square().sum((1, 2))
    if places * (width + outputs) < width * outputs:
        grams = (factor @ factor.transpose(1, 2)) * (channels @ channels.transpose(1, 2))
        # Rounding may leave a tiny negative number where the places cancel.
        return grams.sum((1, 2)).clamp_min(0)
    return (channels.transpose(1, 2) @ factor).square().sum((1, 2))

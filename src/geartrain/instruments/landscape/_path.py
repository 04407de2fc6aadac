"""Paths between two networks: their ends, the loss along them, and the highest point above the chord.

Running statistics of batch normalisation belong to a point, not to a path: between two networks they must be taken
anew, or the barrier is one of stale statistics (Izmailov et al. 2018, arXiv:1803.05407, §3.2; Jordan et al. 2022,
arXiv:2211.08403).
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from geartrain._torch import batches as _batches
from geartrain._torch import kernels
from geartrain.errors import InputError
from geartrain.instruments._pair import other_objective, same_architecture
from geartrain.instruments.landscape._probe import Probe, Spending
from geartrain.objective import Objective

BatchNorm = Literal["recompute", "interpolate"]
Curve = Callable[[float], Tensor]


@dataclass(frozen=True)
class Ends:
    """Two networks of one architecture.

    Attributes:
        first: Parameters at t = 0, shape (params,).
        second: Parameters at t = 1.
        first_buffers: Floating buffers at t = 0, by name.
        second_buffers: Those at t = 1.
    """

    first: Tensor
    second: Tensor
    first_buffers: Mapping[str, Tensor]
    second_buffers: Mapping[str, Tensor]

    @property
    def distance(self) -> float:
        """Euclidean distance between the two, unit θ."""
        return float((self.second - self.first).double().norm())

    def line(self, t: float) -> Tensor:
        """The point t of the straight line; the ends exactly."""
        return self.first if t == 0 else self.second if t == 1 else torch.lerp(self.first, self.second, t)

    def with_second(self, second: Tensor, buffers: Mapping[str, Tensor]) -> Ends:
        """The same first end with another second one."""
        return replace(self, second=second, second_buffers=buffers)


def ends_of(objective: Objective, other: Any, name: str) -> tuple[Ends, Objective] | str:
    """Both ends, and ``other`` as an objective; a sentence where there is no path between the two."""
    second = other_objective(objective, other, name)
    wanted = set(objective.layout.names)
    if wanted < set(second.layout.names):
        second = second.restrict(lambda own, _: own in wanted)
    if not same_architecture(objective, second):
        return (
            "The two networks have parameters of different names or shapes, so no path leads from one to the other; "
            "pass a second network of the same architecture."
        )
    buffers = [_buffers(o.model) for o in (objective, second)]
    if {n: b.shape for n, b in buffers[0].items()} != {n: b.shape for n, b in buffers[1].items()}:
        return "The two networks have different buffers, so no path leads from one to the other."
    return Ends(objective.parameters(), second.parameters(), *buffers), second


def _buffers(model: nn.Module) -> dict[str, Tensor]:
    return {n: b.detach().clone() for n, b in model.named_buffers() if b.is_floating_point()}


class Walker:
    """The loss along curves between two ends, on a copy of the model.

    Args:
        objective: Its loss, data and mode are used; it is not touched.
        ends: The two ends.
        batch_norm: What becomes of running statistics at every point, the ends included: ``"recompute"`` from the
            data of the objective, or ``"interpolate"`` between those of the ends.
    """

    def __init__(self, objective: Objective, ends: Ends, batch_norm: str, name: str) -> None:
        if batch_norm not in ("recompute", "interpolate"):
            raise InputError(
                f"{name}: batch_norm is {batch_norm!r}; allowed: 'recompute' (running statistics taken anew at each "
                "point) or 'interpolate'."
            )
        self.ends = ends
        self.twin = twin_of(objective)
        with kernels.mode(self.twin.model, self.twin.training):
            self.norms = _norms_with_statistics(self.twin.model)
        self.recomputes = bool(self.norms) and batch_norm == "recompute"
        self.place(0.0, ends.first)
        self.probe = Probe(self.twin)

    def losses(self, t: float, params: Tensor) -> np.ndarray:
        """Losses of the blocks at the point t of a curve, shape (blocks,)."""
        self.place(t, params)
        return self.probe.losses(params)

    def place(self, t: float, params: Tensor) -> None:
        """Buffers of the copy as they should be at this point."""
        ends = self.ends
        with torch.no_grad():
            for name, buffer in self.twin.model.named_buffers():
                if name in ends.first_buffers:
                    buffer.copy_(torch.lerp(ends.first_buffers[name], ends.second_buffers[name], t))
        if self.recomputes:
            self._recompute(params)

    @contextlib.contextmanager
    def batch_statistics(self) -> Iterator[None]:
        """Inside the block the copy normalises by the statistics of the batches, so that gradients see them."""
        training = self.twin.training
        flags = [(m, m.training) for m in self.twin.model.modules()]
        if self.recomputes:
            if training is not None:
                self.twin.model.train(training)
            self.twin.training = None
            for norm in self.norms:
                norm.train()
        try:
            yield
        finally:
            self.twin.training = training
            for module, flag in flags:
                module.training = flag

    def _recompute(self, params: Tensor) -> None:
        """Running statistics of these parameters: the average over the batches, each counting alike."""
        twin, momenta = self.twin, [norm.momentum for norm in self.norms]
        values = dict(zip(twin.layout.names, twin.layout.unflatten(params), strict=True))
        with twin._quiet(), torch.no_grad():
            for name, parameter in twin.model.named_parameters():
                if name in values:
                    parameter.copy_(values[name])
            for norm in self.norms:
                norm.reset_running_stats()
                norm.momentum = None  # type: ignore[assignment]  # a plain average
                norm.train()
            try:
                for batch in twin.batches:
                    kernels.without_gradients(
                        lambda b=batch: twin.batch_loss(twin.model, _batches.detached(b))
                    )
            finally:
                for norm, momentum in zip(self.norms, momenta, strict=True):
                    norm.momentum = momentum
                    norm.eval()
        twin.charge(forwards=1)


def twin_of(objective: Objective) -> Objective:
    """The same loss on a copy of the model, in the same modes, as a function of the same parameters."""
    wanted = set(objective.layout.names)
    twin = objective.of(copy.deepcopy(objective.model))
    if wanted != set(twin.layout.names):
        twin = twin.restrict(lambda own, _: own in wanted)
    return twin


def _norms_with_statistics(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """Layers of batch normalisation that use running statistics in the mode they are in."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    return [m for m in norms if m.running_mean is not None and not m.training]


# ---------------------------------------------------------------------- barriers


@dataclass(frozen=True)
class Barrier:
    """How high the loss rises above the chord between the ends of a curve.

    Attributes:
        height: Largest excess over the chord, never below 0 (the ends lie on it), unit ℓ.
        error: Standard error over the examples of the excess at the highest inner point.
        at: Where: t.
        points: t of the points reached, sorted.
        losses: Loss at each.
        excess: Loss above the chord at each, 0 where it is within rounding.
        excess_errors: Their standard errors, paired over the examples, rounding included.
    """

    height: float
    error: float
    at: float
    points: np.ndarray
    losses: np.ndarray
    excess: np.ndarray
    excess_errors: np.ndarray

    def details(self) -> dict[str, Any]:
        """The profile, for the record."""
        return {
            "at": self.at,
            "points": self.points,
            "losses": self.losses,
            "excess": self.excess,
            "excess_errors": self.excess_errors,
        }


def coarse_to_fine(points: int) -> list[float]:
    """The grid of [0, 1], the ends first, then so that any beginning covers it evenly."""
    grid = [i / (points - 1) for i in range(points)]
    chosen, rest = [grid[0], grid[-1]], grid[1:-1]
    while rest:
        best = max(rest, key=lambda t: (min(abs(t - c) for c in chosen), -abs(t - 0.5)))
        rest.remove(best)
        chosen.append(best)
    return chosen


def barrier_along(
    walker: Walker, curve: Curve, points: int, spending: Spending | None = None
) -> Barrier | None:
    """The barrier on a grid of t; coarser if the budget ends, ``None`` if not one inner point was reached."""
    found: dict[float, np.ndarray] = {}
    for t in coarse_to_fine(points):
        if spending is not None and spending.exhausted():
            break
        found[t] = walker.losses(t, curve(t))
    if len(found) < 3:
        return None
    grid = np.array(sorted(found))
    blocks = np.stack([found[t] for t in grid])
    with np.errstate(invalid="ignore"):
        excess = blocks - (1 - grid)[:, None] * blocks[0] - grid[:, None] * blocks[-1]
    heights, errors = np.asarray(walker.probe.mean(excess)), walker.probe.error(excess)
    heights = np.where(np.isfinite(heights), heights, np.inf)
    losses = np.asarray(walker.probe.mean(blocks))
    rounding = (
        4 * torch.finfo(walker.twin.dtype).eps * float(np.abs(losses[np.isfinite(losses)]).max(initial=0.0))
    )
    errors = np.hypot(errors, rounding)
    heights[np.abs(heights) <= rounding] = 0.0
    heights[[0, -1]] = 0.0
    top = 1 + int(np.argmax(heights[1:-1]))
    return Barrier(
        max(float(heights[top]), 0.0),
        float(errors[top]) if np.isfinite(heights[top]) else float("nan"),
        float(grid[top]) if heights[top] > 0 else 0.0,
        grid,
        losses,
        heights,
        errors,
    )


def check_points(points: int, name: str) -> None:
    """Refuse a grid without inner points.

    Raises:
        InputError: Fewer than 3 points.
    """
    if points < 3:
        raise InputError(f"{name}: points is {points}; allowed: 3 or more, the two ends included.")


def price_of(objective: Any, curves: int, points: int) -> float:
    """Forward passes that so many barriers take, with statistics taken anew where there are some."""
    with kernels.mode(objective.model, objective.training):
        again = bool(_norms_with_statistics(objective.model))
    return curves * points * (2 if again else 1) + 2


def nan_ends(ends: Ends) -> str | None:
    """A sentence if a parameter at either end is not finite."""
    for where, params in (("first", ends.first), ("second", ends.second)):
        if not bool(torch.isfinite(params).all()):
            return f"Parameters of the {where} network are NaN or infinite."
    return None

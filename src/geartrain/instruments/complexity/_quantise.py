"""Rounding parameters to a grid of so many bits per parameter, and what that does to the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from geartrain.budget import Clock
from geartrain.errors import InputError
from geartrain.instruments._limits import spent
from geartrain.instruments.complexity._rise import allowed_rise, loss_at
from geartrain.objective import Objective

Method = Literal["uniform", "codebook", "curvature"]
METHODS = ("uniform", "codebook", "curvature")
BITS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)
BISECTIONS = 5
PROBES = 8


@dataclass(frozen=True)
class Crossing:
    """Where the loss rise crosses what is allowed.

    Attributes:
        bits: Fewest mean bits per parameter; NaN where none of those tried is enough (or affordable).
        error: Its standard error over the random grids.
        curve_bits: Bits tried, shape (points,).
        rises: Mean rise at each, shape (points,).
        rise_errors: Its standard error, likewise.
        allowed: The allowed rise.
        loss: The loss before.
        complete: Whether the budget sufficed.
    """

    bits: float
    error: float
    curve_bits: np.ndarray
    rises: np.ndarray
    rise_errors: np.ndarray
    allowed: float
    loss: float
    complete: bool


class Quantiser:
    """Rounds every tensor of an objective to a grid of its own.

    ``uniform``: one step per tensor, range / 2^bits. ``curvature``: every parameter has its own step, inversely
    proportional to the root of its curvature. Both grids are shifted at random (one offset per tensor), which makes
    rounding errors uniform and unbiased. ``codebook``: the best 2^bits values for each tensor (Lloyd's algorithm).

    Args:
        objective: Whose parameters.
        method: One of the three.
        generator: Draws offsets, starts of codebooks and probes of the curvature.

    Raises:
        InputError: No such method.
    """

    def __init__(self, objective: Objective, method: Method, generator: torch.Generator | None) -> None:
        if method not in METHODS:
            raise InputError(f"method is {method!r}; allowed: {', '.join(map(repr, METHODS))}.")
        self.objective, self.method = objective, method
        self.generator = generator if generator is not None else torch.Generator().manual_seed(0)
        self.params = objective.parameters()
        self.places = objective.layout.slices()
        self.widths = torch.zeros_like(self.params)
        for place in self.places.values():
            part = self.params[place]
            self.widths[place] = part.max() - part.min()
        self.scale = self._scale() if method == "curvature" else torch.ones_like(self.params)

    def _scale(self) -> Tensor:
        """Relative step of each parameter, so that bits of equal worth are spent: geometric mean of steps per range 1.

        Curvature is the diagonal of the Hessian by Hutchinson's estimate; directions of none or negative curvature are
        floored at a thousandth of the mean, else their steps would be infinite.
        """
        total = torch.zeros_like(self.params)
        for _ in range(PROBES):
            signs = self._uniform(len(self.params)).sub(0.5).sign()
            total += signs * self.objective.hvp(signs)
        diagonal = (total / PROBES).abs()
        diagonal = diagonal.clamp_min(float(diagonal.mean()) * 1e-3 + torch.finfo(diagonal.dtype).tiny)
        free = self.widths > 0
        step = diagonal.rsqrt()
        # Mean bits are mean log2(width / step): with this factor they are what was asked for.
        ratio = (step[free] / self.widths[free]).log().mean() if bool(free.any()) else step.new_zeros(())
        return torch.where(free, step / ratio.exp() / self.widths.clamp_min(1e-300), 1.0)

    def _uniform(self, count: int) -> Tensor:
        drawn = torch.rand(count, generator=self.generator, dtype=torch.float64, device=self.generator.device)
        return drawn.to(self.params.device, self.params.dtype)

    def offsets(self) -> dict[str, float]:
        """Shift of each tensor's grid, as a share of its step."""
        drawn = self._uniform(len(self.places)).tolist()
        return dict(zip(self.places, drawn, strict=True))

    def symbols(self, bits: float, offsets: dict[str, float]) -> tuple[Tensor, Tensor]:
        """Number of each parameter's grid value, and the rounded parameters; both of shape (params,)."""
        numbers, rounded = torch.zeros_like(self.params), self.params.clone()
        for name, place in self.places.items():
            part, width = self.params[place], self.widths[place]
            if not bool(width[0] > 0):
                continue  # one value needs no bits
            if self.method == "codebook":
                numbers[place], rounded[place] = _lloyd(part, 2**bits)
                continue
            step = width * self.scale[place] * 2.0**-bits
            shift = offsets[name] * step + part.min()
            numbers[place] = torch.round((part - shift) / step)
            rounded[place] = numbers[place] * step + shift
        return numbers, rounded

    def rises(self, bits: float, draws: list[dict[str, float]], loss: float) -> np.ndarray:
        """Loss rise under each of some shifts, shape (draws,)."""
        return np.array([loss_at(self.objective, self.symbols(bits, d)[1]) - loss for d in draws])


def _lloyd(values: Tensor, levels: float, sweeps: int = 12) -> tuple[Tensor, Tensor]:
    """The best few values to stand for many, in one dimension, starting from quantiles."""
    count = max(round(levels), 1)
    ordered = values.sort().values
    if count >= len(values):
        numbers = torch.unique(values, return_inverse=True)[1]
        return numbers.to(values.dtype), values
    at = ((torch.arange(count, device=values.device, dtype=torch.float64) + 0.5) / count * len(values)).long()
    centres = ordered[at.clamp_max(len(values) - 1)]
    numbers = torch.zeros_like(values, dtype=torch.long)
    for _ in range(sweeps):
        numbers = torch.bucketize(values, (centres[1:] + centres[:-1]) / 2)
        sums = torch.zeros_like(centres).index_add_(0, numbers, values)
        counts = torch.zeros_like(centres).index_add_(0, numbers, torch.ones_like(values))
        centres = torch.where(counts > 0, sums / counts.clamp_min(1), centres).sort().values
    numbers = torch.bucketize(values, (centres[1:] + centres[:-1]) / 2)
    return numbers.to(values.dtype), centres[numbers]


def evaluations(method: Method, samples: int) -> int:
    """Forward passes of a whole search."""
    draws = 1 if method == "codebook" else samples
    return draws * (len(BITS) + BISECTIONS) + 2


def crossing(quantiser: Quantiser, samples: int, rise: float | None, clock: Clock) -> Crossing | None:
    """Fewest bits at which the mean loss rise stays within what is allowed; ``None`` without a finite loss."""
    objective = quantiser.objective
    loss = loss_at(objective, quantiser.params)
    if not np.isfinite(loss):
        return None
    allowed = allowed_rise(objective, loss, rise)
    draws = [quantiser.offsets() for _ in range(1 if quantiser.method == "codebook" else samples)]
    curve: list[tuple[float, np.ndarray]] = []
    complete, used = True, 2

    def affordable() -> bool:
        nonlocal complete
        complete = complete and not spent(clock, used + len(draws))
        return complete

    # From many bits to few: the first one that is too few ends what the answer needs.
    for bits in reversed(BITS):
        if not affordable():
            break
        curve.append((float(bits), quantiser.rises(bits, draws, loss)))
        used += len(draws)
    enough = [b for b, r in curve if _mean(r) <= allowed]
    low_enough = _last_run(curve, allowed)
    bracket = None
    if low_enough is not None and enough:
        below = [b for b, _ in curve if b < low_enough]
        bracket = (max(below, default=0.0), low_enough)
    for _ in range(BISECTIONS if bracket and quantiser.method != "codebook" else 0):
        assert bracket is not None
        if not affordable():
            break
        middle = sum(bracket) / 2
        curve.append((middle, quantiser.rises(middle, draws, loss)))
        used += len(draws)
        bracket = (bracket[0], middle) if _mean(curve[-1][1]) <= allowed else (middle, bracket[1])
    return _crossed(curve, bracket, allowed, loss, complete)


def _mean(rises: np.ndarray) -> float:
    return float(np.mean(rises)) if np.isfinite(rises).all() else float("inf")


def _last_run(curve: list[tuple[float, np.ndarray]], allowed: float) -> float | None:
    """Fewest bits such that all more bits are within the allowed rise too."""
    found = None
    for bits, rises in curve:
        if _mean(rises) > allowed:
            break
        found = bits
    return found


def _crossed(
    curve: list[tuple[float, np.ndarray]],
    bracket: tuple[float, float] | None,
    allowed: float,
    loss: float,
    complete: bool,
) -> Crossing:
    by_bits = {b: r for b, r in curve}
    order = sorted(by_bits)
    means = np.array([_mean(by_bits[b]) for b in order])
    many = len(next(iter(by_bits.values()), ())) > 1
    spreads = [np.std(by_bits[b], ddof=1) / np.sqrt(len(by_bits[b])) if many else 0.0 for b in order]
    errors = np.array([s if np.isfinite(s) else np.inf for s in spreads])
    bits, error = float("nan"), float("nan")
    if bracket is not None:
        bits, error = bracket[1], 0.0
        at = {b: (m, e) for b, m, e in zip(order, means, errors, strict=True)}
        (high, spread), (low, _) = at[bracket[1]], at.get(bracket[0], (np.inf, 0.0))
        if np.isfinite(low) and low > allowed >= high > 0:
            # The rise falls about as 4^-bits, so between the ends its logarithm is close to straight.
            slope = (np.log(low) - np.log(high)) / (bracket[1] - bracket[0])
            bits = bracket[1] - float((np.log(allowed) - np.log(high)) / slope)
        if many and np.isfinite(spread) and high > 0:
            error = float(spread / high / (2 * np.log(2)))
    return Crossing(bits, error, np.array(order), means, errors, allowed, loss, complete)

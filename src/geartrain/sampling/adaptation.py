"""What burn-in finds out: step sizes (dual averaging, or the curvature at the start) and a diagonal mass."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from geartrain.sampling.kernels._base import Info, Kernel, State, Stream
from geartrain.sampling.kernels.hmc import HMC
from geartrain.sampling.potential import BasePotential, Potential

_POWER_STEPS = 20
_CURVATURE_EXAMPLES = 1024
_FIRST_STEPS = 40
"""Doublings or halvings in the search for a first step size."""


@dataclass
class DualAveraging:
    """Step sizes that bring the mean acceptance of each group of chains to its target.

    Args:
        log_step: Logarithm of the first step size, shape (groups,).
        target: Acceptance wanted.

    Attributes:
        log_average: Logarithm of the averaged step size, to be used afterwards.

    References:
        Hoffman & Gelman (2014), section 3.2.1, with their constants.
    """

    log_step: Tensor
    target: float
    anchor: Tensor = field(init=False)
    log_average: Tensor = field(init=False)
    shortfall: Tensor = field(init=False)
    count: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin anew from the present step size."""
        self.anchor = self.log_step + math.log(2.0)
        self.log_average = self.log_step.clone()
        self.shortfall = torch.zeros_like(self.log_step)
        self.count = 0

    def update(self, acceptance: Tensor) -> None:
        """Take in the mean acceptance of each group in one step, shape (groups,)."""
        self.count += 1
        weight = 1 / (self.count + 10)
        self.shortfall = (1 - weight) * self.shortfall + weight * (self.target - acceptance)
        self.log_step = self.anchor - math.sqrt(self.count) / 0.05 * self.shortfall
        weight = self.count**-0.75
        self.log_average = weight * self.log_step + (1 - weight) * self.log_average


@dataclass
class Spread:
    """Running variance of every parameter about each chain's own mean, in windows of growing length."""

    ends: tuple[int, ...]
    count: int = 0
    mean: Tensor | None = None
    squares: Tensor | None = None

    def update(self, positions: Tensor) -> None:
        """Take in one position per chain."""
        self.count += 1
        if self.mean is None or self.squares is None or self.mean.shape != positions.shape:
            self.count, self.mean, self.squares = 1, positions.clone(), torch.zeros_like(positions)
            return
        delta = positions - self.mean
        self.mean += delta / self.count
        self.squares += delta * (positions - self.mean)

    def close(self) -> Tensor | None:
        """The variances (params,), drawn a little towards a common one; and begin anew."""
        if self.squares is None or self.count < 3:
            return None
        count = len(self.squares) * (self.count - 1)
        variance = self.squares.sum(0) / count
        variance = (count * variance + 5e-3 * variance.mean()) / (count + 5)
        self.count, self.mean, self.squares = 0, None, None
        return variance.clamp(min=torch.finfo(variance.dtype).tiny ** 0.5)


def windows(burn_in: int) -> tuple[int, ...]:
    """Steps after which the mass is set anew: from 15 % to 85 % of burn-in, each window twice as long as the last.

    >>> windows(400)
    (85, 135, 340)
    """
    first, last = int(0.15 * burn_in), int(0.85 * burn_in)
    ends, width, at = [], 25, first
    while at + 3 * width <= last:
        at += width
        ends.append(at)
        width *= 2
    return (*ends, last) if last - first >= 20 else ()


class Adaptation:
    """What happens to step sizes and mass during burn-in of a kernel that accepts or rejects.

    Args:
        kernel: The kernel.
        groups: Number of the group that each chain belongs to, shape (chains,); a group shares its step size.
        step_size: First step sizes, shape (chains,).
        burn_in: Steps of burn-in.
    """

    def __init__(self, kernel: Kernel, groups: Tensor, step_size: Tensor, burn_in: int) -> None:
        self.groups = groups
        self.tunes = isinstance(kernel.step_size, str)
        count = int(groups.max()) + 1
        first = step_size.new_zeros(count).scatter_(0, groups, step_size.log())
        self.averaging = DualAveraging(first, kernel.target_acceptance)
        wide = isinstance(kernel, HMC) and kernel.mass == "diagonal"
        self.spread = Spread(windows(burn_in)) if wide else None

    def update(self, state: State, info: Info, running: Tensor | None, step: int) -> State:
        """The state with new step sizes (and mass), after step number ``step`` of burn-in, counted from 1."""
        groups = self.groups if running is None else self.groups[running]
        if self.tunes and info.acceptance is not None:
            total = torch.zeros_like(self.averaging.log_step).index_add_(0, groups, info.acceptance)
            number = torch.zeros_like(total).index_add_(0, groups, torch.ones_like(info.acceptance))
            self.averaging.update(total / number.clamp(min=1))
            state = replace(state, step_size=self.averaging.log_step.exp()[groups])
        if self.spread is not None and self.spread.ends and step > self.spread.ends[0] - 25:
            self.spread.update(state.positions)
            if step in self.spread.ends:
                variance = self.spread.close()
                if variance is not None:
                    state = self._with_mass(state, variance, groups)
        return state

    def _with_mass(self, state: State, variance: Tensor, groups: Tensor) -> State:
        old = state.shared.get("variance")
        # The step is measured in the old mass' units; keep the size of what it moves about the same.
        ratio = (variance.sqrt() if old is None else (variance / old).sqrt()).log().mean()
        if self.tunes:
            self.averaging.log_step = self.averaging.log_average - ratio
            self.averaging.restart()
            state = replace(state, step_size=self.averaging.log_step.exp()[groups])
        return replace(state, shared=state.shared | {"variance": variance})

    def finish(self, state: State, running: Tensor | None) -> State:
        """The state with the averaged step sizes."""
        if not self.tunes or not self.averaging.count:
            return state
        groups = self.groups if running is None else self.groups[running]
        return replace(state, step_size=self.averaging.log_average.exp()[groups])


def first_step_size(
    kernel: Kernel, state: State, potential: BasePotential, stream: Stream, groups: Tensor
) -> Tensor:
    """A step size per chain at which a short step is accepted about every second time; a few gradients.

    Doubled or halved from a guess, by group, until the acceptance of one step crosses one half.
    """
    short = copy.copy(kernel)
    if isinstance(short, HMC):
        short.steps, short.jitter = 1, 0.0
    count = int(groups.max()) + 1
    steepness = state.gradient.square().sum(1).mean().sqrt().clamp(min=1e-6)
    log_step = torch.log(1 / steepness).clamp(max=0.0).expand(count).clone()
    direction = torch.zeros_like(log_step)
    number = torch.zeros_like(log_step).index_add_(0, groups, torch.ones_like(state.energies)).clamp(min=1)
    active = torch.ones_like(log_step, dtype=torch.bool)
    for _ in range(_FIRST_STEPS):
        trial = replace(state.clone(), step_size=log_step.exp()[groups])
        _, info = short.step(trial, potential, stream)
        if info.acceptance is None:
            break
        mean = torch.zeros_like(log_step).index_add_(0, groups, info.acceptance) / number
        want = torch.where(mean > 0.5, 1.0, -1.0).to(log_step.dtype)
        direction = torch.where(direction == 0, want, direction)
        active &= want == direction
        if not bool(active.any()):
            break
        log_step = torch.where(active, log_step + direction * math.log(2.0), log_step)
    return log_step.exp()[groups]


def stiffness(potential: BasePotential, position: Tensor, stream: Stream) -> tuple[Tensor, Tensor]:
    """Largest curvature Λ of U at a position (params,), and the minibatch variance S of ∇U along that direction.

    Λ by power iteration with exact Hessian products (on at most 1,024 examples of an objective), S from the gradients
    of sixteen minibatches (0 without minibatches).
    """
    vector = torch.randn(potential.num_params, generator=stream.generator, device=stream.generator.device)
    vector = vector.to(position)
    vector /= vector.norm()
    product = _products(potential, position, stream)
    curvature = position.new_zeros(())
    for _ in range(_POWER_STEPS):
        image = product(vector)
        before, curvature = curvature, image.norm()
        if not bool(torch.isfinite(curvature)) or not float(curvature):
            break
        vector = image / curvature
        if bool((curvature - before).abs() < 0.02 * curvature):
            break
    beta = potential.n_beta_mean
    curvature = beta * curvature + potential.localisation + potential.prior_precision
    noise = position.new_zeros(())
    if potential.batch_size is not None:
        rows = potential.draw_rows(16, stream.generator)
        _, gradients = potential.loss_and_gradient(position.expand(16, -1).contiguous(), rows)
        noise = (beta * (gradients @ vector)).var()
    return curvature, noise


def _products(potential: BasePotential, position: Tensor, stream: Stream) -> Callable[[Tensor], Tensor]:
    if isinstance(potential, Potential):
        objective = potential.objective
        data = potential._evaluator.data
        if data is not None and potential.num_examples > _CURVATURE_EXAMPLES:
            device = stream.generator.device
            order = torch.randperm(potential.num_examples, generator=stream.generator, device=device)
            some = potential._evaluator.gathered(order[:_CURVATURE_EXAMPLES].to(potential.device))
            objective = objective.on([some])
        return lambda v: objective.hvp(v, position)
    leaf = position.detach().clone().requires_grad_()
    with torch.enable_grad():
        loss = potential._losses(leaf[None], None).sum()  # type: ignore[attr-defined]
        (gradient,) = torch.autograd.grad(loss, leaf, create_graph=True)

    def product(v: Tensor) -> Tensor:
        if not gradient.requires_grad:
            return torch.zeros_like(v)
        (image,) = torch.autograd.grad(
            gradient, leaf, v, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return image

    return product

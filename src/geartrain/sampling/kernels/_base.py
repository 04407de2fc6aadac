"""What a kernel is: it moves all chains by one step. Positions, gradients: (chains, params); the rest: (chains,)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from geartrain.errors import InputError
from geartrain.sampling.potential import BasePotential


class Stream:
    """The random numbers of a sampler.

    Numbers are drawn for all chains and handed to those that still run, so that a chain that stops changes nothing for
    the others.

    Args:
        generator: Where they come from.
        chains: Number of chains, those that stopped included.
        params: Number of parameters.
        dtype: Type of the numbers.
        device: Where they are to live.
    """

    def __init__(
        self, generator: torch.Generator, chains: int, params: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.generator, self.chains, self.params = generator, chains, params
        self.dtype, self.device = dtype, device
        self.running: Tensor | None = None

    def normal(self) -> Tensor:
        """Standard normal numbers (chains, params) for the chains that run."""
        return self._own(self._draw(torch.randn, (self.chains, self.params)))

    def uniform(self) -> Tensor:
        """Numbers from [0, 1), one per chain that runs."""
        return self._own(self._draw(torch.rand, (self.chains,)))

    def uniform_shared(self) -> float:
        """One number from [0, 1) for all chains."""
        return float(torch.rand((), generator=self.generator, device=self.generator.device))

    def rows(self, potential: BasePotential) -> Tensor | None:
        """A fresh minibatch per chain that runs, or ``None`` for all data."""
        rows = potential.draw_rows(self.chains, self.generator)
        return rows if rows is None else self._own(rows)

    def _draw(self, draw: Any, shape: tuple[int, ...]) -> Tensor:
        made = draw(shape, generator=self.generator, dtype=self.dtype, device=self.generator.device)
        return made.to(self.device)

    def _own(self, drawn: Tensor) -> Tensor:
        return drawn if self.running is None else drawn[self.running]


@dataclass
class State:
    """Where the chains are. A step may change it in place.

    Attributes:
        positions: Shape (chains, params).
        energies: U there, on the rows last used; shape (chains,).
        losses: L there, on the same rows; shape (chains,).
        gradient: ∇U there, on the same rows; shape (chains, params).
        step_size: Shape (chains,).
        own: Whatever else the kernel keeps per chain; leading axis chains.
        shared: What it keeps for all chains together (a mass, say).
    """

    positions: Tensor
    energies: Tensor
    losses: Tensor
    gradient: Tensor
    step_size: Tensor
    own: dict[str, Tensor] = field(default_factory=dict)
    shared: dict[str, Tensor] = field(default_factory=dict)

    def take(self, index: Tensor) -> State:
        """Some of the chains."""
        return State(
            self.positions[index],
            self.energies[index],
            self.losses[index],
            self.gradient[index],
            self.step_size[index],
            {name: t[index] for name, t in self.own.items()},
            self.shared,
        )

    def clone(self) -> State:
        """A copy that shares no memory."""
        parts = [
            t.clone() for t in (self.positions, self.energies, self.losses, self.gradient, self.step_size)
        ]
        own, shared = ({n: t.clone() for n, t in d.items()} for d in (self.own, self.shared))
        return State(*parts, own=own, shared=shared)

    @property
    def finite(self) -> Tensor:
        """Which chains are free of NaN and infinities, shape (chains,)."""
        # A finite sum proves it at a fraction of the price; an overflow of the sum alone is settled exactly.
        sums = self.positions.sum(1) + self.gradient.sum(1) + self.energies
        good = torch.isfinite(sums)
        if not bool(good.all()):
            every = (torch.isfinite(self.positions) & torch.isfinite(self.gradient)).all(1)
            good = every & torch.isfinite(self.energies)
        return good


@dataclass(frozen=True)
class Info:
    """What happened in a step.

    Attributes:
        acceptance: Probability with which the proposal was accepted, shape (chains,); ``None`` without a proposal.
        energy_error: Change of the total energy along the trajectory, shape (chains,); ``None`` where there is none.
        total_energy: U plus kinetic energy before the trajectory, shape (chains,), for energy diagnostics.
        gradients: Gradients that each chain took.
    """

    acceptance: Tensor | None = None
    energy_error: Tensor | None = None
    total_energy: Tensor | None = None
    gradients: int = 1


class Kernel(ABC):
    """Moves all chains by one step.

    Args:
        step_size: A number, one per chain, or ``"auto"``: found during burn-in (kernels that accept or reject) or from
            the curvature at the start (the others).

    Attributes:
        adjusted: Whether steps are accepted or rejected, so that the step size causes no bias; needs all data.
        target_acceptance: Acceptance that adaptation of the step size aims at.
        gradients_per_step: Gradients of one step.
    """

    name: ClassVar[str]
    adjusted: ClassVar[bool] = False
    target_acceptance: float = 0.0
    gradients_per_step: float = 1.0
    step_size: float | Tensor | str

    def __init__(self, step_size: float | Tensor | str = "auto") -> None:
        if isinstance(step_size, str):
            good = step_size == "auto"
        else:
            sizes = torch.as_tensor(step_size)
            good = sizes.ndim <= 1 and bool((torch.isfinite(sizes) & (sizes > 0)).all())
        if not good:
            raise InputError(
                f"step_size is {step_size!r}; allowed: a positive number, one per chain, or 'auto'."
            )
        self.step_size = step_size

    @property
    def options(self) -> dict[str, Any]:
        """What the kernel was made with, for its name in records."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def __repr__(self) -> str:
        told = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        return f"{type(self).__name__}({told})"

    def init(self, positions: Tensor, potential: BasePotential, stream: Stream, step_size: Tensor) -> State:
        """The state of chains at these positions; one gradient.

        Raises:
            InputError: The kernel needs all data and the potential draws minibatches.
        """
        if self.adjusted and potential.batch_size is not None:
            raise InputError(
                f"{self.name} accepts or rejects by the exact energy, so it needs all data at every step; "
                f"batch_size is {potential.batch_size}. Pass batch_size=None, or use sgld, sghmc or sgnht."
            )
        energies, gradient, losses = potential.energy_and_gradient(positions, stream.rows(potential))
        state = State(positions, energies, losses, gradient, step_size)
        return replace(state, own=self.start(state, stream))

    def start(self, state: State, stream: Stream) -> dict[str, Tensor]:
        """What the kernel keeps per chain besides the position, at the start."""
        return {}

    @abstractmethod
    def step(self, state: State, potential: BasePotential, stream: Stream) -> tuple[State, Info]:
        """Move all chains by one step; the state that is passed may be changed."""

    def warmed_up(self, state: State) -> State:
        """Called once when burn-in ends: what adapted stops adapting."""
        return state

    def stable_step(self, largest_curvature: Tensor, noise: Tensor) -> Tensor:
        """Step size from the largest curvature Λ of U and the minibatch variance S of its gradient along it.

        With drift ε/2 and noise √ε the stationary variance is (ε + ε²S/4)/(1 - (1 - εΛ/2)²): a twentieth of the
        stability limit keeps the inflation of the stiffest direction near 5 % from the step, and 3 % from the noise.
        """
        return 0.2 / torch.maximum(largest_curvature, 2.0 * noise).clamp(min=1e-12)


def accept(state: State, proposal: State, log_ratio: Tensor, stream: Stream) -> tuple[State, Tensor]:
    """Metropolis: the proposal where a uniform number falls below the ratio, else the state; and the probability."""
    log_ratio = torch.where(torch.isfinite(log_ratio), log_ratio, -math.inf)
    probability = log_ratio.clamp(max=0.0).exp()
    taken = stream.uniform() < probability
    if bool(taken.all()):
        return proposal, probability
    wide = taken[:, None]
    return (
        replace(
            state,
            positions=torch.where(wide, proposal.positions, state.positions),
            gradient=torch.where(wide, proposal.gradient, state.gradient),
            energies=torch.where(taken, proposal.energies, state.energies),
            losses=torch.where(taken, proposal.losses, state.losses),
        ),
        probability,
    )

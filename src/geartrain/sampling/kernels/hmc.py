"""Hamiltonian Monte Carlo with leapfrog trajectories of jittered length, the same for all chains of a step."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from geartrain.errors import InputError
from geartrain.sampling.kernels._base import Info, Kernel, State, Stream, accept
from geartrain.sampling.potential import BasePotential


class HMC(Kernel):
    """Leapfrog trajectories, accepted or rejected.

    All chains take the same number of leapfrog steps in one transition, so that they stay one batched computation;
    it is drawn anew every time, so that no frequency of the target falls in step with it.

    Args:
        step_size: Of the leapfrog; stable below 2/√Λ. ``"auto"`` adapts it during burn-in.
        steps: Mean number of leapfrog steps.
        jitter: Lengths are uniform between (1 - jitter) and (1 + jitter) times the mean; 0 to fix it.
        target_acceptance: What the adaptation aims at.
        mass: ``"unit"``, or ``"diagonal"``: inverse variances estimated in windows of the burn-in.

    References:
        Neal (2011), *MCMC using Hamiltonian dynamics*; Hoffman & Gelman (2014) for the adaptation.
    """

    name = "hmc"
    adjusted = True

    def __init__(
        self,
        step_size: float | Tensor | str = "auto",
        steps: int = 16,
        jitter: float = 0.5,
        target_acceptance: float = 0.8,
        mass: str = "unit",
    ) -> None:
        super().__init__(step_size)
        if isinstance(steps, bool) or int(steps) != steps or steps < 1:
            raise InputError(f"steps is {steps}; it must be a number of leapfrog steps, at least 1.")
        if not 0 <= jitter <= 1:
            raise InputError(f"jitter is {jitter}; it must lie in [0, 1].")
        if not 0 < target_acceptance < 1:
            raise InputError(f"target_acceptance is {target_acceptance}; it must lie between 0 and 1.")
        if mass not in ("unit", "diagonal"):
            raise InputError(f"mass is {mass!r}; allowed: 'unit', 'diagonal'.")
        self.steps, self.jitter, self.target_acceptance, self.mass = (
            int(steps),
            jitter,
            target_acceptance,
            mass,
        )

    @property
    def gradients_per_step(self) -> float:  # type: ignore[override]
        """Mean number of leapfrog steps."""
        low, high = self._range()
        return 0.5 * (low + high)

    def _range(self) -> tuple[int, int]:
        reach = int(self.jitter * self.steps)
        return max(1, self.steps - reach), self.steps + reach

    def step(self, state: State, potential: BasePotential, stream: Stream) -> tuple[State, Info]:
        """See `Kernel.step`."""
        low, high = self._range()
        length = low + int(stream.uniform_shared() * (high - low + 1)) if high > low else low
        return self.trajectory(state, potential, stream, length)

    def trajectory(
        self, state: State, potential: BasePotential, stream: Stream, length: int
    ) -> tuple[State, Info]:
        """One transition with that many leapfrog steps."""
        variance = state.shared.get("variance")  # the inverse mass, (params,)
        size = state.step_size[:, None]
        momentum = stream.normal()
        if variance is not None:
            momentum /= variance.sqrt()
        before = _kinetic(momentum, variance)
        drift = size if variance is None else size * variance
        x = state.positions.clone()
        momentum.addcmul_(state.gradient, size, value=-0.5)
        energies, gradient, losses = state.energies, state.gradient, state.losses
        for i in range(length):
            x.addcmul_(momentum, drift)
            energies, gradient, losses = potential.energy_and_gradient(x)
            momentum.addcmul_(gradient, size, value=-1.0 if i < length - 1 else -0.5)
        error = energies - state.energies + _kinetic(momentum, variance) - before
        proposal = replace(state, positions=x, energies=energies, losses=losses, gradient=gradient)
        total = state.energies + before
        state, probability = accept(state, proposal, -error, stream)
        return state, Info(probability, error, total, gradients=length)


def _kinetic(momentum: Tensor, variance: Tensor | None) -> Tensor:
    square = torch.linalg.vecdot(momentum, momentum if variance is None else momentum * variance)
    return square.mul_(0.5)


KERNEL = HMC

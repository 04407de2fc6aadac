"""Metropolis-adjusted Langevin: SGLD's step on all data, accepted or rejected, so that the step causes no bias."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from geartrain.errors import InputError
from geartrain.sampling.kernels._base import Info, Kernel, State, Stream, accept
from geartrain.sampling.potential import BasePotential


class MALA(Kernel):
    """Propose x - ε/2 ∇U + √ε ξ; accept with the Metropolis ratio.

    Args:
        step_size: ε; ``"auto"`` adapts it during burn-in.
        target_acceptance: What the adaptation aims at; 0.574 is optimal in high dimension.

    References:
        Roberts & Rosenthal (1998), *Optimal scaling of discrete approximations to Langevin diffusions*.
    """

    name = "mala"
    adjusted = True

    def __init__(self, step_size: float | Tensor | str = "auto", target_acceptance: float = 0.574) -> None:
        super().__init__(step_size)
        if not 0 < target_acceptance < 1:
            raise InputError(f"target_acceptance is {target_acceptance}; it must lie between 0 and 1.")
        self.target_acceptance = target_acceptance

    def step(self, state: State, potential: BasePotential, stream: Stream) -> tuple[State, Info]:
        """See `Kernel.step`."""
        size = state.step_size[:, None]
        noise = stream.normal()
        moved = noise * size.sqrt()
        moved.addcmul_(state.gradient, size, value=-0.5)
        x = state.positions + moved
        energies, gradient, losses = potential.energy_and_gradient(x)
        # The way back needs the noise (x - y + ε/2 ∇U(y))/√ε; half its square against half that of the way there.
        back = moved.neg_().addcmul_(gradient, size, value=0.5)
        correction = 0.5 * (noise.square().sum(1) - back.square().sum(1) / state.step_size)
        proposal = replace(state, positions=x, energies=energies, losses=losses, gradient=gradient)
        error = energies - state.energies - correction
        state, probability = accept(state, proposal, -error, stream)
        return state, Info(acceptance=probability, energy_error=error)


KERNEL = MALA

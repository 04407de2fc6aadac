"""SGLD preconditioned by a running mean of squared gradients, as RMSprop would."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from geartrain.errors import InputError
from geartrain.sampling.kernels._base import Info, Kernel, State, Stream
from geartrain.sampling.potential import BasePotential


class RMSpropSGLD(Kernel):
    """x' = x - ε/2 G ∇U + √(εG) ξ with G = 1/(stability + √v), v the running mean of (∇U/nβ)².

    While v moves, a term with its derivative is missing and the stationary law is not the posterior. By default v
    therefore freezes when burn-in ends: what follows is SGLD in fixed other units, with SGLD's own bias only. Each
    chain has its own v.

    Args:
        step_size: ε, in units of the preconditioned parameters.
        decay: Memory of the running mean, in [0, 1).
        stability: Added to √v.
        freeze: Whether v freezes after burn-in; ``False`` is what other implementations do.

    References:
        Li et al. (2016), arXiv:1512.07666, algorithm 1 (whose Γ term is left out, as is usual).
    """

    name = "rmsprop_sgld"

    def __init__(
        self,
        step_size: float | Tensor | str = "auto",
        decay: float = 0.99,
        stability: float = 0.1,
        freeze: bool = True,
    ) -> None:
        super().__init__(step_size)
        if not 0 <= decay < 1:
            raise InputError(f"decay is {decay}; it must lie in [0, 1).")
        if not stability > 0:
            raise InputError(f"stability is {stability}; it must be positive.")
        self.decay, self.stability, self.freeze = decay, stability, freeze

    def start(self, state: State, stream: Stream) -> dict[str, Tensor]:
        """A mean square of one, as if gradients had been of size one; and whether it is frozen."""
        return {
            "square": torch.ones_like(state.positions),
            "frozen": torch.zeros(len(state.positions), dtype=torch.bool, device=state.positions.device),
        }

    def step(self, state: State, potential: BasePotential, stream: Stream) -> tuple[State, Info]:
        """See `Kernel.step`."""
        square = state.own["square"]
        if not bool(state.own["frozen"].any()):
            beta = potential.n_beta
            scaled = state.gradient / (beta[:, None] if isinstance(beta, Tensor) else max(beta, 1e-30))
            square.mul_(self.decay).addcmul_(scaled, scaled, value=1 - self.decay)
        metric = state.step_size[:, None] / square.sqrt().add_(self.stability)
        x = state.positions.addcmul_(state.gradient, metric, value=-0.5)
        x.addcmul_(stream.normal(), metric.sqrt_())
        energies, gradient, losses = potential.energy_and_gradient(x, stream.rows(potential))
        return State(x, energies, losses, gradient, state.step_size, state.own), Info()

    def stable_step(self, largest_curvature: Tensor, noise: Tensor) -> Tensor:
        """As for SGLD where the preconditioner is largest, 1/stability."""
        return super().stable_step(largest_curvature, noise) * self.stability

    def warmed_up(self, state: State) -> State:
        """Freeze the preconditioner."""
        frozen = torch.full_like(state.own["frozen"], self.freeze)
        return replace(state, own=state.own | {"frozen": frozen})


KERNEL = RMSpropSGLD

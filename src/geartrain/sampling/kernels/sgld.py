"""Stochastic-gradient Langevin dynamics: x' = x - ε/2 ∇U(x) + √ε ξ."""

from __future__ import annotations

from torch import Tensor

from geartrain.errors import InputError
from geartrain.sampling.kernels._base import Info, Kernel, State, Stream
from geartrain.sampling.potential import BasePotential


class SGLD(Kernel):
    """Langevin steps without correction, on all data (ULA) or on minibatches.

    On a Gaussian of precision Λ with minibatch variance S of ∇U the stationary variance is
    (ε + ε²S/4) / (1 - (1 - εΛ/2)²): 1/(Λ(1 - εΛ/4)) on all data. Stable below ε = 4/Λ.

    Args:
        step_size: ε; drift ε/2, noise √ε (devinterp's ``lr``).
        noise_level: Multiplies the noise; 1 samples the posterior, 0 descends.

    References:
        Welling & Teh (2011), *Bayesian Learning via Stochastic Gradient Langevin Dynamics*, eq. 4.
    """

    name = "sgld"

    def __init__(self, step_size: float | Tensor | str = "auto", noise_level: float = 1.0) -> None:
        super().__init__(step_size)
        if not noise_level >= 0:
            raise InputError(f"noise_level is {noise_level}; it must be 0 or more (1 samples the posterior).")
        self.noise_level = noise_level

    def step(self, state: State, potential: BasePotential, stream: Stream) -> tuple[State, Info]:
        """See `Kernel.step`."""
        size = state.step_size[:, None]
        x = state.positions.addcmul_(state.gradient, size, value=-0.5)
        x.addcmul_(stream.normal(), size.sqrt(), value=self.noise_level)
        energies, gradient, losses = potential.energy_and_gradient(x, stream.rows(potential))
        return State(x, energies, losses, gradient, state.step_size), Info()


KERNEL = SGLD

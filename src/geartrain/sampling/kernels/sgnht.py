"""Stochastic-gradient Nosé-Hoover thermostat: the friction finds itself, minibatch noise included."""

from __future__ import annotations

from torch import Tensor

from geartrain.errors import InputError
from geartrain.sampling.kernels._base import Info, Kernel, State, Stream
from geartrain.sampling.potential import BasePotential


class SGNHT(Kernel):
    """v' = (1 - α) v - ε/2 ∇U + √(ε a) ξ, x' = x + v', α' = α + |v'|²/params - ε/2.

    The friction α of each chain grows while its velocities are hotter than ε/2 and shrinks while they are colder, so
    that minibatch noise of unknown (but isotropic and constant) strength is absorbed.

    Args:
        step_size: ε, as for `SGHMC`.
        diffusion: a, strength of the noise that is added, and the friction at the start.

    References:
        Ding et al. (2014), *Bayesian Sampling Using Stochastic Gradient Thermostats*, algorithm 2, with h² = ε/2.
    """

    name = "sgnht"

    def __init__(self, step_size: float | Tensor | str = "auto", diffusion: float = 0.1) -> None:
        super().__init__(step_size)
        if not 0 < diffusion <= 1:
            raise InputError(f"diffusion is {diffusion}; it must lie in (0, 1].")
        self.diffusion = diffusion

    def start(self, state: State, stream: Stream) -> dict[str, Tensor]:
        """Velocities from their stationary law N(0, ε/2), friction as if no minibatch noise came on top."""
        velocity = stream.normal().mul_((0.5 * state.step_size[:, None]).sqrt())
        return {"velocity": velocity, "friction": velocity.new_full((len(velocity),), self.diffusion)}

    def step(self, state: State, potential: BasePotential, stream: Stream) -> tuple[State, Info]:
        """See `Kernel.step`."""
        size, friction = state.step_size[:, None], state.own["friction"]
        velocity = state.own["velocity"].mul_(1 - friction[:, None])
        velocity.addcmul_(state.gradient, size, value=-0.5)
        velocity.addcmul_(stream.normal(), (size * self.diffusion).sqrt())
        x = state.positions.add_(velocity)
        friction = friction + velocity.square().mean(1) - 0.5 * state.step_size
        energies, gradient, losses = potential.energy_and_gradient(x, stream.rows(potential))
        own = {"velocity": velocity, "friction": friction}
        return State(x, energies, losses, gradient, state.step_size, own), Info()


KERNEL = SGNHT

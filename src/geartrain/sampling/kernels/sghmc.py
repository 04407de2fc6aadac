"""Stochastic-gradient Hamiltonian Monte Carlo: Langevin steps with a velocity that remembers."""

from __future__ import annotations

from torch import Tensor

from geartrain.errors import InputError
from geartrain.sampling.kernels._base import Info, Kernel, State, Stream
from geartrain.sampling.potential import BasePotential


class SGHMC(Kernel):
    """v' = (1 - α) v - ε/2 ∇U + √(ε(α - b)) ξ, x' = x + v'. With α = 1 and b = 0 it is SGLD of the same ε.

    On a Gaussian the stationary covariance of (x, v) solves a discrete Lyapunov equation; the variance of x exceeds
    1/Λ by a term of order εΛ/(8(1 - α/2)), and by minibatch noise ε S/(4α).

    Args:
        step_size: ε = 2 η with the learning rate η of the paper.
        friction: α, in (0, 1]; 1 - α is the momentum of SGD.
        noise_estimate: b = εS/4, the share of the noise that minibatches already bring; it is taken off.

    References:
        Chen, Fox & Guestrin (2014), arXiv:1402.4102, eq. 15.
    """

    name = "sghmc"

    def __init__(
        self, step_size: float | Tensor | str = "auto", friction: float = 0.1, noise_estimate: float = 0.0
    ) -> None:
        super().__init__(step_size)
        if not 0 < friction <= 1:
            raise InputError(f"friction is {friction}; it must lie in (0, 1].")
        if not 0 <= noise_estimate < friction:
            raise InputError(
                f"noise_estimate is {noise_estimate}; it must be 0 or more and below the friction."
            )
        self.friction, self.noise_estimate = friction, noise_estimate

    def start(self, state: State, stream: Stream) -> dict[str, Tensor]:
        """Velocities from their stationary law N(0, ε/2)."""
        return {"velocity": stream.normal().mul_((0.5 * state.step_size[:, None]).sqrt())}

    def step(self, state: State, potential: BasePotential, stream: Stream) -> tuple[State, Info]:
        """See `Kernel.step`."""
        size = state.step_size[:, None]
        velocity = state.own["velocity"].mul_(1 - self.friction).addcmul_(state.gradient, size, value=-0.5)
        velocity.addcmul_(stream.normal(), (size * (self.friction - self.noise_estimate)).sqrt())
        x = state.positions.add_(velocity)
        energies, gradient, losses = potential.energy_and_gradient(x, stream.rows(potential))
        return State(x, energies, losses, gradient, state.step_size, {"velocity": velocity}), Info()


KERNEL = SGHMC

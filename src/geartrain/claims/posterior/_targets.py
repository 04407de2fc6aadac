"""Posteriors to sample whose answers are known, each with what its weights compute.

`seen` are outputs that a function-space diagnostic looks at, `unseen` others that matter as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from geartrain import zoo
from geartrain.objective import Objective
from geartrain.sampling import BasePotential, FunctionPotential, find_symmetries
from geartrain.sampling.truths import ConjugateRegression
from geartrain.zoo.noise.symmetric_posterior import SymmetricPosterior
from geartrain.zoo.noise.two_basins import TwoBasins

HIDDEN, NOISE, POINTS = 5, 0.1, 40
INSIDE = ((-2.0, -0.5), (0.5, 2.0))
"""Where the inputs of the regressions lie."""


@dataclass(frozen=True)
class Target:
    """A posterior and what can be said of its draws.

    Attributes:
        potential: To be sampled.
        start: (generator, repeats, chains, exact) -> positions (repeats · chains, params); `exact` for draws from the
            posterior itself.
        seen: (..., params) -> (..., outputs), what function-space diagnostics look at.
        unseen: Other outputs.
        truth: Posterior means of seen and of unseen outputs, and deviations of the unseen; None where only a long run
            can tell.
        canonical: (..., params) -> (..., numbers), equal for weights that compute the same; None to leave it out.
        small: (..., params) -> whether in the smaller basin; None where there are no basins.
        mass: The posterior's mass of it.
    """

    potential: BasePotential
    start: Callable[[torch.Generator, int, int, bool], Tensor]
    seen: Callable[[Tensor], Tensor]
    unseen: Callable[[Tensor], Tensor]
    truth: tuple[Tensor, Tensor, Tensor] | None
    canonical: Callable[[Tensor], Tensor]
    small: Callable[[Tensor], Tensor] | None = None
    mass: float = 0.0


class ByHand(FunctionPotential):
    """A potential whose gradient is written out: in two dimensions autograd takes most of the time."""

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        slope: Callable[[Tensor], Tensor],
        *,
        n_beta: float = 1.0,
        prior_precision: float = 0.0,
    ) -> None:
        super().__init__(function, 2, n_beta=n_beta, prior_precision=prior_precision)
        self.slope = slope

    def loss_and_gradient(self, positions: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See `BasePotential.loss_and_gradient`."""
        return self.function(positions), self.slope(positions)


# ---------------------------------------------------------------------- y = abx


def product(curvature: float) -> Target:
    """The zoo's symmetric posterior: two islands with the same functions."""
    toy = zoo.get("symmetric-posterior", curvature=curvature, moment=curvature)
    assert isinstance(toy, SymmetricPosterior)

    def loss(w: Tensor) -> Tensor:
        return 0.5 * toy.precision * (w[:, 0] * w[:, 1] - toy.best) ** 2

    def slope(w: Tensor) -> Tensor:
        return toy.precision * (w[:, :1] * w[:, 1:] - toy.best) * w.flip(1)

    def start(generator: torch.Generator, repeats: int, chains: int, exact: bool) -> Tensor:
        count = repeats * chains
        if not exact:
            return torch.randn(count, 2, generator=generator, dtype=torch.float64)
        pair = torch.tensor(np.stack(toy.sample(generator, count), axis=1))
        return pair * (2 * torch.randint(2, (count, 1), generator=generator) - 1)

    def output(w: Tensor) -> Tensor:
        return (w[..., 0] * w[..., 1])[..., None]

    mean, spread = (torch.tensor([v], dtype=torch.float64) for v in toy.product)
    return Target(
        ByHand(loss, slope, prior_precision=1.0), start, output, output, (mean, mean, spread),
        lambda w: w.abs().sort(-1).values, lambda w: w[..., 0] > 0, 0.5,
    )  # fmt: skip


# ---------------------------------------------------------------------- two wells


def basins(apart: float, temperature: float) -> Target:
    """The zoo's two wells of equal depth in the plane, `apart` widths apart: the training loss cannot tell them apart.

    What is seen is the loss on the training data; what is not is the first coordinate.
    """
    toy = zoo.get("two-basins", dimension=2, centre=apart / (2 * math.sqrt(2)))  # the widths add up to 1
    assert isinstance(toy, TwoBasins)
    beta = 1 / temperature

    def loss(q: Tensor) -> Tensor:
        return -torch.logaddexp(*_heights(toy, q))

    def slope(q: Tensor) -> Tensor:
        narrow = torch.softmax(torch.stack(_heights(toy, q)), 0)[0][:, None]
        return narrow * (q - toy.centre) / toy.narrow**2 + (1 - narrow) * (q + toy.centre) / toy.wide**2

    grid, weight = plane(toy, beta)

    def start(generator: torch.Generator, repeats: int, chains: int, exact: bool) -> Tensor:
        count = repeats * chains
        if exact:
            at = torch.multinomial(weight, count, replacement=True, generator=generator)
            jitter = torch.rand(count, 2, generator=generator, dtype=torch.float64) - 0.5
            return grid[at] + jitter * (grid[1, 1] - grid[0, 1])
        wells = [torch.tensor(toy.sample_well(generator, count, wide=wide)) for wide in (False, True)]
        odd = torch.arange(count) % chains % 2 == 1
        return torch.where(odd[:, None], wells[1], wells[0])

    def small(q: Tensor) -> Tensor:
        first, second = _heights(toy, q)
        return first > second

    mean_loss = (weight * loss(grid)).sum()[None]
    mean_place = (weight * grid[:, 0]).sum()[None]
    spread = (weight * (grid[:, 0] - mean_place) ** 2).sum().sqrt()[None]
    return Target(
        ByHand(loss, slope, n_beta=beta), start, lambda q: loss(q)[..., None],
        lambda q: q[..., :1], (mean_loss, mean_place, spread), lambda q: q, small, float(weight[small(grid)].sum()),
    )  # fmt: skip


def plane(toy: TwoBasins, beta: float) -> tuple[Tensor, Tensor]:
    """Midpoints of square cells, (cells, 2), and the share of e^(-βL) in each."""
    reach = toy.centre + 8 * toy.wide / math.sqrt(beta)
    line = (torch.arange(500, dtype=torch.float64) + 0.5) / 500 * 2 * reach - reach
    grid = torch.cartesian_prod(line, line)
    logs = beta * torch.logaddexp(*_heights(toy, grid))
    return grid, torch.softmax(logs, 0)


def _heights(toy: TwoBasins, q: Tensor) -> tuple[Tensor, Tensor]:
    first = -((q - toy.centre) ** 2).sum(-1) / (2 * toy.narrow**2)
    return first, -((q + toy.centre) ** 2).sum(-1) / (2 * toy.wide**2)


# ---------------------------------------------------------------------- regressions on forty points


def data() -> tuple[Tensor, Tensor]:
    """Inputs in two clusters with a gap, (40, 1), and sin 2x with noise."""
    generator = torch.Generator().manual_seed(5)
    half = POINTS // 2
    parts = [low + (high - low) * torch.rand(half, 1, generator=generator) for low, high in INSIDE]
    x = torch.cat(parts).double()
    return x, torch.sin(2 * x) + NOISE * torch.randn(POINTS, 1, generator=generator).double()


def places() -> tuple[Tensor, Tensor]:
    """Inputs at which outputs are looked at, among the data, and at which they are not: the gap, and beyond."""
    seen = torch.cat([torch.linspace(*ends, 8) for ends in INSIDE]).double()
    return seen, torch.tensor([-3.0, -2.5, -0.2, 0.0, 0.2, 2.5, 3.0]).double()


class Network(BasePotential):
    """The 1-5-1 tanh network on those data, with its gradient by hand; weights in the order of an nn.Sequential."""

    def __init__(self) -> None:
        self.x, self.y = data()
        self.num_params, self.num_examples = 3 * HIDDEN + 1, POINTS
        self.dtype, self.device = torch.float64, torch.device("cpu")
        self._settings(float(POINTS), 0.0, 1.0, torch.zeros(self.num_params), None)

    def outputs(self, w: Tensor, x: Tensor) -> Tensor:
        """Outputs at inputs (n,), shape (..., n)."""
        inner, shift, outer = (w[..., None, i * HIDDEN : (i + 1) * HIDDEN] for i in range(3))
        return (torch.tanh(inner * x[:, None] + shift) * outer).sum(-1) + w[..., -1:]

    def loss_and_gradient(self, positions: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean squared error over 2σ², and its gradient."""
        inner, shift, outer = (positions[:, None, i * HIDDEN : (i + 1) * HIDDEN] for i in range(3))
        h = torch.addcmul(shift, inner, self.x[None]).tanh_()
        miss = (h @ outer.transpose(1, 2))[..., 0] + positions[:, -1:] - self.y[:, 0]
        pull = miss / (NOISE**2 * POINTS)
        back = (1 - h * h).mul_(pull[..., None]).mul_(outer)
        gradient = torch.cat(
            [(back * self.x[None]).sum(1), back.sum(1), (pull[:, None] @ h)[:, 0], pull.sum(1, keepdim=True)],
            1,
        )
        return miss.square().mean(1) / (2 * NOISE**2), gradient

    def losses(self, positions: Tensor, rows: Tensor | None = None) -> Tensor:
        """Mean squared error over 2σ²."""
        return self.per_example_losses(positions).mean(1)

    def per_example_losses(self, positions: Tensor, rows: Tensor | None = None) -> Tensor:
        """Of each point."""
        return (self.outputs(positions, self.x[:, 0]) - self.y[:, 0]).square() / (2 * NOISE**2)

    def objective(self) -> Objective:
        """The same network as a module."""
        model = nn.Sequential(nn.Linear(1, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 1)).double()
        return Objective(model, _scaled, data())


def _scaled(out: Tensor, y: Tensor) -> Tensor:
    return (out - y).square().mean() / (2 * NOISE**2)


def network() -> Target:
    """The Bayesian network; its truth takes a long tempered run."""
    potential = Network()
    symmetries = find_symmetries(potential.objective())
    seen, unseen = places()
    return Target(
        potential, _from_prior(potential.num_params), lambda w: potential.outputs(w, seen),
        lambda w: potential.outputs(w, unseen), None, symmetries.canonical,
    )  # fmt: skip


def line() -> Target:
    """A straight line on the same data: convex, everything in closed form."""
    x, y = data()
    inputs = torch.cat([torch.ones_like(x), x], 1)
    mean, covariance = ConjugateRegression(inputs, y[:, 0], NOISE**2, 1.0).posterior()

    def loss(w: Tensor) -> Tensor:
        return (w @ inputs.T - y[:, 0]).square().sum(1) / (2 * NOISE**2)

    def slope(w: Tensor) -> Tensor:
        return (w @ inputs.T - y[:, 0]) @ inputs / NOISE**2

    def outputs(at: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda w: w[..., :1] + w[..., 1:] * at

    seen, unseen = (outputs(at) for at in places())
    far = torch.stack([torch.ones(len(places()[1]), dtype=torch.float64), places()[1]], 1)
    spread = (far @ covariance * far).sum(1).sqrt()
    return Target(
        ByHand(loss, slope, prior_precision=1.0), _from_prior(2), seen, unseen, (seen(mean), unseen(mean), spread),
        lambda w: w,
    )  # fmt: skip


def _from_prior(params: int) -> Callable[[torch.Generator, int, int, bool], Tensor]:
    def start(generator: torch.Generator, repeats: int, chains: int, exact: bool) -> Tensor:
        return torch.randn(repeats * chains, params, generator=generator, dtype=torch.float64)

    return start

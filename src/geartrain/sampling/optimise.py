"""Sample-then-optimise: perturb the targets and the prior's centre, minimise; each minimum is one independent draw.

Exact where the model is linear in its parameters and the noise Gaussian; elsewhere an approximation that is said so.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from geartrain.ensemble.engines._base import Batch
from geartrain.errors import InputError, UnsupportedError
from geartrain.records import Cost, State, Status, format_number
from geartrain.sampling.potential import Potential
from geartrain.sampling.sample import own_generator

_MEMORY = 10
"""Pairs of steps and gradient changes that L-BFGS remembers."""
_ARMIJO = 1e-4


@dataclass(frozen=True)
class Optimised:
    """Independent draws, each the minimum of a perturbed problem.

    Attributes:
        positions: Shape (draws, params); NaN where a minimisation did not arrive.
        starts: The draws from the prior that they started from, shape (draws, params).
        converged: Which of them arrived, shape (draws,).
        gradient_norm: What was left of each gradient, as a share of the first one; shape (draws,).
        exact: Whether the model is linear in its parameters, so that these are exact draws from the posterior.
        noise_variance: Of the targets, as n_beta and the loss imply.
        iterations: Of the slowest.
        status: Whether all arrived, in one sentence.
        cost: What it took.
    """

    positions: Tensor
    starts: Tensor
    converged: Tensor
    gradient_norm: Tensor
    exact: bool
    noise_variance: float
    iterations: int
    status: Status
    cost: Cost


def sample_then_optimise(
    potential: Potential,
    *,
    draws: int = 64,
    iterations: int = 500,
    tolerance: float | None = None,
    generator: torch.Generator | int | None = None,
) -> Optimised:
    """Draw from exp(-U) by minimising nβ·L(w; y + e) + (λ + γ)/2·|w - v|² for random e and v.

    e has the variance of the noise that nβ and the squared error imply, v comes from prior and localisation. Every
    minimum is an independent draw: no chains, no burn-in. All are found together by batched L-BFGS.

    **Cost** draws x about 20 to ``iterations`` gradients on all data. **Assumes** squared error. **Misleads** where
    the model is not linear in its parameters (``exact`` is then False): the law of the minima is not the posterior.

    Args:
        potential: Of an objective with squared error; prior_precision or localisation above 0; n_beta a float.
        draws: How many.
        iterations: At most so many steps.
        tolerance: Arrived when the gradient has shrunk to this share of its first norm; if omitted 1e-6, in
            float32 3e-4.
        generator: See `sample`.

    Returns:
        The draws.

    Raises:
        InputError: No prior, or a potential of several temperatures.
        UnsupportedError: The loss is not a squared error.

    References:
        Matthews et al. (2017), *Sample-then-optimize posterior sampling for Bayesian linear models*.
    """
    begun = time.perf_counter()
    if not isinstance(potential, Potential) or isinstance(potential.n_beta, Tensor):
        raise InputError("potential must be a Potential of an objective with one n_beta.")
    if draws < 1 or iterations < 1:
        raise InputError(f"draws is {draws} and iterations {iterations}; both must be at least 1.")
    precision = potential.prior_precision + potential.localisation
    if not precision:
        raise InputError(
            "Sample-then-optimise needs a prior; pass prior_precision= or localisation= above 0."
        )
    if tolerance is None:
        tolerance = 1e-6 if potential.dtype == torch.float64 else 3e-4
    problem = _Problem(potential, precision)
    own = own_generator(generator, potential.device)
    starts = problem.draw_priors(draws, own)
    problem.draw_noise(draws, own)
    found, share, used = _lbfgs(problem, starts, iterations, tolerance)
    converged = share <= tolerance
    found[~converged] = torch.nan
    missing = int((~converged).sum())
    told = f"all {draws} minimisations arrived." if not missing else (
        f"{missing} of {draws} minimisations did not arrive in {iterations} steps (gradients fell to "
        f"{format_number(float(share.max()))} of their first norm); raise iterations or tolerance."
    )  # fmt: skip
    exact = problem.linear(own)
    told += (
        "" if exact else " The model is not linear in its parameters: the draws approximate the posterior."
    )
    cost = Cost(gradients=problem.gradients, seconds=time.perf_counter() - begun)
    potential.objective.charge(gradients=problem.gradients)
    return Optimised(
        positions=found,
        starts=starts,
        converged=converged,
        gradient_norm=share,
        exact=exact,
        noise_variance=problem.noise_variance,
        iterations=used,
        status=Status(State.ESTIMATE if not missing else State.NOT_CONVERGED, told),
        cost=cost,
    )


class _Problem:
    """The perturbed potentials of all draws, as one batched function."""

    def __init__(self, potential: Potential, precision: float) -> None:
        self.potential, self.precision = potential, precision
        self.evaluator = potential._evaluator
        data = self.evaluator.data
        if not self.evaluator.supervised or data is None or not isinstance(data[1], Tensor):
            raise UnsupportedError(
                "Sample-then-optimise perturbs targets of a squared error; build the objective as "
                "Objective(model, loss_fn, (inputs, targets)) with one tensor of targets."
            )
        self.inputs, self.targets = data
        self.scale = self._scale()
        assert isinstance(potential.n_beta, float)
        self.n_beta = potential.n_beta
        self.noise_variance = self.targets.numel() / (2 * self.n_beta * self.scale)
        self.gradients = 0.0

    def _scale(self) -> float:
        """The factor c where the loss is c times the mean of squared differences.

        Raises:
            UnsupportedError: It is something else.
        """
        y, loss = self.targets, self.evaluator.loss_fn
        if not y.is_floating_point():
            raise UnsupportedError(
                "The targets are no real numbers, so their noise is not Gaussian; use 'hmc'."
            )
        noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(0)).to(y)
        found = []
        for u in (noise, 3 * noise.flip(0) + 1):
            found.append(float(loss(y + u, y)) / float(u.square().mean()))
        if not (found[0] > 0 and abs(found[0] - found[1]) < 1e-3 * abs(found[0])):
            raise UnsupportedError(
                "The loss is not a squared error, so its noise is not Gaussian; use 'hmc'."
            )
        return found[0]

    def draw_priors(self, draws: int, generator: torch.Generator) -> Tensor:
        """Draws from prior and localisation together, shape (draws, params)."""
        p = self.potential
        shape = (draws, p.num_params)
        noise = torch.randn(shape, generator=generator, dtype=p.dtype, device=generator.device)
        self.anchors = p.centre * (p.localisation / self.precision) + noise * self.precision**-0.5
        return self.anchors.clone()

    def draw_noise(self, draws: int, generator: torch.Generator) -> None:
        """Targets of every draw."""
        shape = (draws, *self.targets.shape)
        noise = torch.randn(shape, generator=generator, dtype=self.targets.dtype, device=generator.device)
        self.perturbed = self.targets + noise * self.noise_variance**0.5

    def __call__(self, positions: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Energies and gradients of these draws at these positions."""
        choice = self.evaluator.choose(positions, None)
        engine = self.evaluator._engines[choice.engine]
        values, gradient = positions.new_empty(len(positions)), torch.empty_like(positions)
        for start in range(0, len(positions), choice.chunk):
            part = slice(start, min(start + choice.chunk, len(positions)))
            batch = Batch(self.inputs, self.perturbed[index[part]], True, False)
            buffers = self.evaluator._buffers(part.stop - part.start)
            values[part], gradient[part] = engine.loss_and_gradient(positions[part], buffers, batch)
        away = positions - self.anchors[index]
        self.gradients += len(positions)
        return (
            self.n_beta * values + 0.5 * self.precision * away.square().sum(1),
            gradient.mul_(self.n_beta).add_(away, alpha=self.precision),
        )

    def linear(self, generator: torch.Generator) -> bool:
        """Whether outputs are linear (affine) in the parameters: f(a) + f(b) = f(0) + f(a + b), tried twice."""
        p = self.potential
        noise = torch.randn((2, p.num_params), generator=generator, dtype=p.dtype, device=generator.device)
        a, b = noise.to(p.device)
        some = self.inputs[:64] if isinstance(self.inputs, Tensor) else self.inputs
        f = p.outputs(torch.stack([a, b, torch.zeros_like(a), a + b]), some)
        if not isinstance(f, Tensor):
            return False
        gap, size = (f[0] + f[1] - f[2] - f[3]).norm(), f.norm()
        return bool(gap <= (1e-9 if p.dtype == torch.float64 else 1e-3) * size)


def _lbfgs(
    problem: _Problem, starts: Tensor, iterations: int, tolerance: float
) -> tuple[Tensor, Tensor, int]:
    """Minima of all draws together: L-BFGS with backtracking; those that arrived leave the batch.

    Returns:
        Positions (draws, params), remaining gradient norms relative to the first ones (draws,), iterations.
    """
    found, share = starts.clone(), starts.new_ones(len(starts))
    index = torch.arange(len(starts), device=starts.device)
    x = starts.clone()
    value, g = problem(x, index)
    first = g.norm(dim=1).clamp(min=torch.finfo(x.dtype).tiny)
    memory: list[tuple[Tensor, Tensor, Tensor]] = []
    used = 0
    while used < iterations:
        used += 1
        direction = -_inverse_hessian(g, memory)
        slope = (direction * g).sum(1)
        uphill = ~(slope < 0)
        direction[uphill], slope[uphill] = -g[uphill], -g[uphill].square().sum(1)
        t = x.new_ones(len(x))
        if not memory:
            t = (1 / first[index]).clamp(max=1.0)
        x_new, value_new, g_new = _backtracked(problem, index, x, value, direction, slope, t)
        s, y = x_new - x, g_new - g
        curvature = (s * y).sum(1)
        inverse = torch.where(curvature > 1e-12 * y.square().sum(1), 1 / curvature, 0.0)
        memory = [*memory[-_MEMORY + 1 :], (s, y, inverse)]
        x, value, g = x_new, value_new, g_new
        norms = g.norm(dim=1) / first[index]
        found[index], share[index] = x, norms
        going = ~((norms <= tolerance) | (s.abs().amax(1) == 0))
        if not bool(going.any()):
            break
        if not bool(going.all()):
            index, x, value, g = index[going], x[going], value[going], g[going]
            memory = [(s[going], y[going], inverse[going]) for s, y, inverse in memory]
    return found, share, used


def _backtracked(
    problem: _Problem, index: Tensor, x: Tensor, value: Tensor, direction: Tensor, slope: Tensor, t: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The first of x + t d, x + t/2 d, ... that lowers each value enough (or x where none of thirty does)."""
    x_new = x + t[:, None] * direction
    value_new, g_new = problem(x_new, index)
    slack = 1e-6 * value.abs() if x.dtype == torch.float32 else 1e-13 * value.abs()
    for _ in range(30):
        bad = ~(value_new <= value + _ARMIJO * t * slope + slack)
        if not bool(bad.any()):
            return x_new, value_new, g_new
        t = torch.where(bad, 0.5 * t, t)
        again = bad.nonzero()[:, 0]
        x_new[again] = x[again] + t[again, None] * direction[again]
        value_new[again], g_new[again] = problem(x_new[again], index[again])
    bad = ~(value_new <= value + _ARMIJO * t * slope + slack)
    x_new[bad], value_new[bad] = x[bad], value[bad]
    if bool(bad.any()):
        still = bad.nonzero()[:, 0]
        value_new[still], g_new[still] = problem(x[still], index[still])
    return x_new, value_new, g_new


def _inverse_hessian(g: Tensor, memory: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """The two-loop recursion for every row; pairs without positive curvature count for nothing."""
    q, weights = g.clone(), []
    for s, y, inverse in reversed(memory):
        a = inverse * (s * q).sum(1)
        q -= a[:, None] * y
        weights.append(a)
    if memory:
        s, y, inverse = memory[-1]
        scale = torch.where(inverse > 0, 1 / (inverse * y.square().sum(1)).clamp(min=1e-30), 1.0)
        q *= scale[:, None]
    for (s, y, inverse), a in zip(memory, reversed(weights), strict=True):
        b = inverse * (y * q).sum(1)
        q += (a - b)[:, None] * s
    return q

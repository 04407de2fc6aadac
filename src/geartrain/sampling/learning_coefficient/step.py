"""The step size of Langevin dynamics, found by itself, and the bias that it causes.

A step x' = x - ε/2 g + √ε ξ with a minibatch gradient g of U leaves |x|² unchanged on average only if

    E[x·∇U] = params + ε/4 E|g|²,

where exact sampling has E[x·∇U] = params. On a quadratic half of x·∇(nβL) is nβK, so that ε/8 E[g·g_L] (g_L the part
of g that comes from the loss) is what step size and minibatches add to the learning coefficient: exactly, at any ε.
It is measured along the chains themselves, without any assumption about the spectrum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from geartrain.budget import Budget
from geartrain.records import State
from geartrain.sampling.kernels._base import Stream
from geartrain.sampling.learning_coefficient import curvature
from geartrain.sampling.learning_coefficient.baseline import Excess
from geartrain.sampling.learning_coefficient.curvature import Local
from geartrain.sampling.sample import sample

ROUNDS = 5
PILOT = 40
"""Steps of a pilot's burn-in, and draws after it."""
_LARGEST_GROWTH = 5.0
_RAY_STEPS = 40
_STABLE = 1.0
"""Largest step size x (curvature + noise) of the stiffest direction: a quarter more variance there, a fourth of the
stability limit."""


@dataclass(frozen=True)
class Found:
    """A step size and how it was found.

    Attributes:
        size: ε.
        positions: Where the pilot chains ended, shape (chains, params): the chains go on from there.
        stiffness: Largest curvature + noise met.
        pilots: Pilot runs.
        gradients: Steps that the pilots took.
        stopped: Why it ended early, or ``None``.
    """

    size: float
    positions: Tensor
    stiffness: float
    pilots: int
    gradients: float
    stopped: State | None = None


def langevin_bias(step_size: float, virial: float) -> float:
    """What steps of that size add to the estimate: ε/8 E[∇U·∇(nβL)]."""
    return step_size / 8 * virial


def find(
    excess: Excess, local: Local, chains: int, target: float, stream: Stream, deadline: float | None
) -> Found:
    """A step size whose predicted bias is ``target`` of the value or less.

    First, 4 x target over the stiffest curvature plus noise: every direction is then within the target. At a singular
    point the curvature is no guide, so pilot chains walk, the stiffness is looked up where they got to, and once
    the loss no longer rises the step grows until the measured bias of the whole meets the target (the stiffest
    direction always staying well inside stability).
    """
    weakest = excess.localisation + excess.prior_precision
    stiffness = max(local.stiffness, _curvature_along_rays(excess, stream) + weakest)
    size = 4 * target / stiffness
    positions = excess.positions(None, chains)
    spent = 0.0
    for number in range(1, ROUNDS + 1):
        seed = int(torch.randint(2**62, (), generator=stream.generator, device=stream.generator.device))
        pilot = sample(
            excess, "sgld", chains=chains, draws=PILOT, burn_in=PILOT, step_size=size, start=positions,
            keep=PILOT, observe={"virial": excess.last_virial}, generator=seed, budget=Budget(deadline=deadline),
        )  # fmt: skip
        spent += pilot.cost.gradients
        if pilot.status.state in (State.OUT_OF_BUDGET, State.INTERRUPTED):
            return Found(size, positions, stiffness, number, spent, pilot.status.state)
        if pilot.num_alive < chains:
            stiffness, size, positions = 8 * stiffness, size / 8, excess.positions(None, chains)
            continue
        assert pilot.positions is not None
        ends = pilot.positions[:, -1]
        # Where the gradient is steepest the curvature is likely to be largest.
        steepest = ends[int(pilot.observed["virial"][:, -1].argmax())]
        met = curvature.look(excess.inner, steepest, stream, training=False)
        stiffness = max(stiffness, met.stiffness)
        wanted = _wanted(pilot.losses * excess.n_beta_mean, pilot.observed["virial"], size, stiffness, target)
        # Chains that were moved by too large steps are no start: they may have been thrown out of the basin.
        positions = excess.positions(None, chains) if wanted < size / 1.5 else ends
        settled = 0.8 < wanted / size < 1.5
        size = wanted
        if settled:
            return Found(size, positions, stiffness, number, spent)
    return Found(size, positions, stiffness, ROUNDS, spent)


def _wanted(values: Tensor, virial: Tensor, size: float, stiffness: float, target: float) -> float:
    """The next step size."""
    safe = 4 * target / stiffness
    half = values.shape[1] // 2
    early, late = float(values[:, :half].mean()), float(values[:, half:].mean())
    if not late > 0 or late - early > 0.2 * late:
        return safe  # still on its way: the bias has no value to be compared with
    share = langevin_bias(size, float(virial.mean())) / late
    grown = size * min(0.9 * target / max(share, 1e-12), _LARGEST_GROWTH)
    return min(max(grown, 0.0), _STABLE / stiffness)


def _curvature_along_rays(excess: Excess, stream: Stream) -> float:
    """Mean curvature of nβL at the scale of the posterior: 2 nβK/r² on random rays, where nβK reaches params/2.

    At a regular minimum that is the mean eigenvalue. At a singular or saturated one the Hessian vanishes at the point
    itself, and only this says how steep it gets.
    """
    noise = stream.normal()
    rays = noise / noise.norm(dim=1, keepdim=True)
    goal, beta = 0.5 * excess.num_params, excess.n_beta_mean
    rise, radius = rays.new_zeros(len(rays)), 1e-4 * (1.0 + float(excess.centre.norm()))
    weakest = excess.localisation + excess.prior_precision
    farthest = math.sqrt(excess.num_params / weakest) if weakest else math.inf
    for _ in range(_RAY_STEPS):
        rise = beta * excess.losses(excess.centre + radius * rays)
        if not bool(torch.isfinite(rise).all()) or float(rise.mean()) > goal or radius >= farthest:
            break
        radius = min(2 * radius, farthest)
    rise = rise.nan_to_num(nan=goal, posinf=goal)
    return max(float(rise.mean()), 0.0) * 2 / radius**2

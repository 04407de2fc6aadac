"""The runs of the claim valley-bundle: quadratics, digits networks and noisy regressions, with their measures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from geartrain import datasets, zoo
from geartrain.claims.landscape._stacked import Stack, top_eigenpairs
from geartrain.instruments.curvature.effective_condition_number import (
    effective_condition,
    effective_condition_number,
)
from geartrain.objective import Objective

MEASURES = ("condition", "back-and-forth", "CG gain", "slowness", "share of turns", "loss ratio of CG")
LOOKED, BRANCH, BATCH = 20, 50, 4
CONDITION, SHARE = (10.0, 1e5), (0.2, 0.95)
_SIZES = (64, 32, 10)
_PRODUCTS = 200
_FLOOR = 1e-300
_LEAST_FALL = 1e-4  # of the ln of the loss, in the 50 steps of a branch


def dials(seed: int, runs: int) -> tuple[np.ndarray, np.ndarray]:
    """Condition number, log-uniform, and share of the stable step, uniform; independent."""
    draw = np.random.default_rng([seed, 0])
    low, high = np.log(CONDITION)
    return np.exp(draw.uniform(low, high, runs)), draw.uniform(*SHARE, runs)


def _packed(measures: np.ndarray, dials: np.ndarray, seeds: int) -> dict[str, Any]:
    return {
        "measures": (
            ("seed", "run", "time", "measure"),
            measures.reshape(seeds, -1, 2, len(MEASURES)).astype(np.float32),
        ),
        "dials": (("seed", "run", "dial"), dials.reshape(seeds, -1, 2).astype(np.float32)),
    }


# ---------------------------------------------------------------------- quadratics


def quadratics(config: dict[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
    """Descent by its closed form, mode by mode; conjugate gradients in the eigenbasis."""
    drawn = [dials(seed, config["runs"]) for seed in seeds]
    kappa, share = (np.concatenate([d[i] for d in drawn]) for i in (0, 1))
    toys: list[Any] = [
        zoo.get(
            "quadratic", dimension=config["dimension"], condition=float(k), reflections=0, noise=0.0, seed=i
        )
        for i, k in enumerate(kappa, start=seeds[0] * config["runs"])
    ]
    values = np.stack([toy.eigenvalues for toy in toys])
    start = np.stack([toy.displacement for toy in toys])
    factor = 1 - 2 * share[:, None] * values / values[:, :1]
    measures = []
    for time in (config["early"], config["late"]):
        at = factor**time * start
        branch = conjugate_gradients(values[:, :, None], at, BRANCH)
        falls = [np.log(_gap(values, at) / _gap(values, after)) for after in (factor**BRANCH * at, branch)]
        turning = (
            -factor[:, 0],
            factor[:, 0] < 0,
        )  # each update along the top is that factor times the one before
        measures.append(_measured(values, at, turning, falls, _gap(values, at) / _gap(values, start)))
    needed = np.stack([descent_iterations(values, start, factor), cg_iterations(values, start)], 1)
    return {
        **_packed(np.stack(measures, 1), np.stack([np.log(kappa), share], 1), len(seeds)),
        "iterations": (("seed", "run", "method"), needed.reshape(len(seeds), -1, 2).astype(np.float32)),
    }


def _gap(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    return np.maximum(0.5 * (values * at**2).sum(1), _FLOOR)


def _measured(values: np.ndarray, at: np.ndarray, turning: Any, falls: Any, left: np.ndarray) -> np.ndarray:
    kappa = [effective_condition(v, v * a)[0] for v, a in zip(values, at, strict=True)]
    return _columns(np.array(kappa), turning, falls, left)


def _columns(kappa: np.ndarray, turning: Any, falls: Any, left: np.ndarray) -> np.ndarray:
    """The measures in their order, from condition, (factor, share), (fall by descent, by CG) and the loss left."""
    descent, conjugate = np.asarray(falls)
    gain = np.log(np.maximum(conjugate, _LEAST_FALL) / np.maximum(descent, _LEAST_FALL))
    return np.stack([np.log(kappa), turning[0], gain, np.log(left), turning[1], conjugate - descent], 1)


def turns(path: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of updates along the top, (updates, runs): minus the factor from one to the next, and the share of turns."""
    follow = (path[1:] * path[:-1]).sum(0) / np.maximum((path[:-1] ** 2).sum(0), _FLOOR)
    return -follow, (path[1:] * path[:-1] < 0).mean(0)


def conjugate_gradients(matrix: np.ndarray, error: np.ndarray, iterations: int) -> np.ndarray:
    """Errors after so many iterations, for each row; `matrix` (rows, n, n), or its diagonal as (rows, n, 1)."""

    def times(v: np.ndarray) -> np.ndarray:
        return matrix[:, :, 0] * v if matrix.shape[2] == 1 else np.einsum("rij,rj->ri", matrix, v)

    return _iterate(times, error, -times(error), iterations)


def _iterate(times: Any, error: np.ndarray, residual: np.ndarray, iterations: int) -> np.ndarray:
    direction, square = residual, (residual**2).sum(1)
    first = square.copy()
    for _ in range(iterations):
        image = times(direction)
        bend = (direction * image).sum(1)
        # Rows that are solved to rounding stay where they are.
        go = (square > 1e-28 * first) & (bend > 0)
        rate = np.where(go, square / np.where(go, bend, 1), 0)[:, None]
        error, residual = error + rate * direction, residual - rate * image
        before, square = square, np.where(go, (residual**2).sum(1), square)
        direction = np.where(
            go[:, None], residual + (square / np.maximum(before, _FLOOR))[:, None] * direction, direction
        )
    return error


def descent_iterations(values: np.ndarray, start: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Steps of descent until the error in the energy norm is 1e-6 of the first, by bisection of the closed form."""
    goal, low, high = 1e-12 * _gap(values, start), np.zeros(len(values)), np.full(len(values), 1e9)
    for _ in range(60):
        middle = (low + high) / 2
        short = _gap(values, np.abs(factor) ** middle[:, None] * start) > goal
        low, high = np.where(short, middle, low), np.where(short, high, middle)
    return np.ceil(high)


def cg_iterations(values: np.ndarray, start: np.ndarray, most: int = 4000) -> np.ndarray:
    """Iterations of conjugate gradients until the same."""
    goal, found, count = 1e-12 * _gap(values, start), np.full(len(values), float(most)), 0
    error, residual = start, -values * start
    direction, square = residual, (residual**2).sum(1)
    while count < most and (found == most).any():
        image = values * direction
        rate = (square / np.maximum((direction * image).sum(1), _FLOOR))[:, None]
        error, residual = error + rate * direction, residual - rate * image
        before, square, count = square, (residual**2).sum(1), count + 1
        direction = residual + (square / np.maximum(before, _FLOOR))[:, None] * direction
        found = np.where((found == most) & (_gap(values, error) <= goal), count, found)
    return found


# ---------------------------------------------------------------------- networks


def networks(config: dict[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
    """Digits networks, all at once; condition numbers by the instrument, one after the other."""
    drawn = [dials(seed, config["runs"]) for seed in seeds]
    dial = np.concatenate(
        [np.log(d[0] / CONDITION[0]) / math.log(CONDITION[1] / CONDITION[0]) for d in drawn]
    )
    share = np.concatenate([d[1] for d in drawn])
    inputs, targets = datasets.digits.load(config["examples"]).train
    stack = Stack(_SIZES, torch.stack([scaled(inputs.double(), float(a)) for a in dial]), targets)
    params = _starts([seed * 1000 + run for seed in seeds for run in range(config["runs"])])
    first, random = stack.losses(params), _random_like(params)
    top, _, _ = top_eigenpairs(stack.product(params), random, num_products=100, tolerance=1e-3)
    rate = (2 * torch.from_numpy(share) / top)[:, None]
    measures, resolved, taken = [], [], 0
    for time in (config["early"], config["late"]):
        while taken < time:
            params, taken = params - rate * stack.gradient(params), taken + 1
        kappa, known = condition_numbers(stack, params)
        turning, after = _back_and_forth(stack, params, rate)
        here, branch = stack.losses(params), stack.losses(conjugate_branch(stack, params, rate))
        falls = [(here / loss).log().numpy() for loss in (stack.losses(after), branch)]
        measures.append(
            np.nan_to_num(_columns(kappa, turning, falls, (here / first).numpy()), posinf=1e3, neginf=-1e3)
        )
        resolved.append(known)
    return {
        **_packed(np.stack(measures, 1), np.stack([dial, share], 1), len(seeds)),
        "resolved": (
            ("seed", "run", "time"),
            np.stack(resolved, 1).reshape(len(seeds), -1, 2).astype(np.int8),
        ),
    }


def scaled(inputs: Tensor, dial: float) -> Tensor:
    """From whitened inputs (0) over less and less whitened ones to ten times the raw ones (1)."""
    middle = inputs.mean(0)
    _, spread, axes = torch.linalg.svd((inputs - middle) / math.sqrt(len(inputs)), full_matrices=False)
    # Pixels that are always 0 have no variance to be whitened.
    power = torch.where(spread > 1e-6 * spread[0], spread.clamp(min=1e-30) ** (dial - 1), 0.0)
    return 10**dial * ((inputs - middle) @ axes.T * power @ axes + dial * middle)


def condition_numbers(stack: Stack, params: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Effective condition number of each member's Gauss-Newton matrix, and whether it is known to a quarter."""
    found, known = [], []
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10)).double()
    for row, inputs in zip(params.detach(), stack.inputs, strict=True):
        nn.utils.vector_to_parameters(row, model.parameters())
        objective = Objective(model, nn.functional.cross_entropy, (inputs, stack.targets))
        told = effective_condition_number(objective, operator="ggn", max_products=_PRODUCTS)
        found.append(float(told))
        known.append(float(told.standard_error) < float(told) / 4)
    return np.array(found), np.array(known)


def _back_and_forth(stack: Stack, params: Tensor, rate: Tensor) -> tuple[Any, Tensor]:
    """How the next updates turn along the top eigenvector; the parameters after the branch's steps."""
    _, top, _ = top_eigenpairs(stack.product(params), _random_like(params), num_products=100)
    parts = []
    for step in range(BRANCH):
        update = -rate * stack.gradient(params)
        params = params + update
        if step <= LOOKED:
            parts.append((update * top).sum(1))
    return turns(torch.stack(parts).numpy()), params


def conjugate_branch(stack: Stack, params: Tensor, rate: Tensor, equivalents: int = BRANCH) -> Tensor:
    """Nonlinear conjugate gradients (Polak, Ribière) with steps from one Hessian product each.

    An iteration costs a gradient, a product (two gradients) and up to three looks at the loss (one): four equivalents.
    Steps that would raise the loss are cut to a quarter, twice, then not taken, and the direction begins anew.
    """
    slope, loss = stack.gradient(params), stack.losses(params)
    direction = -slope
    for _ in range(equivalents // 4):
        image = stack.product(params)(direction)
        bend, fall = (direction * image).sum(1), -(direction * slope).sum(1)
        size = torch.where(bend > 0, fall / bend, rate[:, 0])
        best, taken = loss, torch.zeros_like(size)
        for _ in range(3):
            tried = stack.losses(params + size[:, None] * direction)
            lower = (tried < loss) & (taken == 0)
            best, taken = torch.where(lower, tried, best), torch.where(lower, size, taken)
            size = size / 4
        params, loss = params + taken[:, None] * direction, best
        new = stack.gradient(params)
        turn = ((new * (new - slope)).sum(1) / (slope**2).sum(1)).clamp(min=0)
        direction, slope = -new + torch.where(taken > 0, turn, 0.0)[:, None] * direction, new
        downhill = (direction * slope).sum(1) < 0
        direction = torch.where(downhill[:, None], direction, -slope)
    return params


def _starts(seeds: Sequence[int]) -> Tensor:
    rows = []
    with torch.random.fork_rng(devices=[]):
        for seed in seeds:
            torch.manual_seed(seed)
            model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
            rows.append(nn.utils.parameters_to_vector(model.parameters()).detach().double())
    return torch.stack(rows)


def _random_like(params: Tensor) -> Tensor:
    source = torch.Generator().manual_seed(0)
    return torch.randn(params.shape[1], generator=source, dtype=params.dtype).expand_as(params)


# ---------------------------------------------------------------------- limited by noise


def noisy(config: dict[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
    """Stochastic descent on linear regression; the loss gap is that of the population, in closed form."""
    measures, drawn = [], []
    for seed in seeds:
        kappa, share = dials(seed, config["runs"])
        toys: list[Any] = [
            zoo.get("noisy-linear-regression", decay=float(np.log(k) / np.log(20))) for k in kappa
        ]
        values, delta = np.stack([t.eigenvalues for t in toys]), np.stack([t.delta for t in toys])
        draw = np.random.default_rng([seed, 1])
        # Stable in the mean square: E[(xxᵀ)²] = 2 H² + tr(H) H for Gaussian x.
        rate = (2 * share / (values[:, 0] * (1 + 1 / BATCH) + values.sum(1) / BATCH))[:, None]
        first, taken, rows = _gap(values, delta), 0, []
        for time in (config["early"], config["late"]):
            for _ in range(taken, time):
                delta = delta - rate * _noisy_gradient(draw, values, delta)
            taken = time
            rows.append(_noisy_measures(draw, values, delta, rate, first))
        measures.append(np.stack(rows, 1))
        drawn.append(np.stack([np.log(kappa), share], 1))
    return _packed(np.concatenate(measures), np.concatenate(drawn), len(seeds))


def _sample(draw: np.random.Generator, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (runs, batch, d) and noise of the labels (runs, batch), of variance 1."""
    x = draw.normal(size=(len(values), BATCH, values.shape[1])) * np.sqrt(values)[:, None]
    return x, draw.normal(size=x.shape[:2])


def _noisy_gradient(draw: np.random.Generator, values: np.ndarray, delta: np.ndarray) -> np.ndarray:
    x, noise = _sample(draw, values)
    return np.einsum("rbi,rb->ri", x, np.einsum("rbi,ri->rb", x, delta) - noise) / BATCH


def _noisy_measures(
    draw: np.random.Generator, values: np.ndarray, delta: np.ndarray, rate: np.ndarray, first: np.ndarray
) -> np.ndarray:
    x, noise = _sample(draw, values)

    def times(v: np.ndarray) -> np.ndarray:
        return np.einsum("rbi,rb->ri", x, np.einsum("rbi,ri->rb", x, v)) / BATCH

    solved = _iterate(times, delta, np.einsum("rbi,rb->ri", x, noise) / BATCH - times(delta), BRANCH)
    here, along = delta, []
    for _ in range(BRANCH):
        update = -rate * _noisy_gradient(draw, values, here)
        along.append(update[:, 0])
        here = here + update
    falls = [np.log(_gap(values, delta) / _gap(values, after)) for after in (here, solved)]
    return _measured(values, delta, turns(np.array(along[: LOOKED + 1])), falls, _gap(values, delta) / first)

"""How an optimizer moves on a parabola: its preconditioner, its stability threshold, and the roots of its modes.

Near any point an update rule is linear in the gradient once its preconditioner D is held fixed. Along an eigenvector of
the preconditioned Hessian D^(-1/2) H D^(-1/2) with eigenvalue λ one step of size η is a 2 x 2 matrix in (parameter,
momentum buffer); the mode is stable if and only if both its roots lie inside the unit circle. With a = ηλ:

    heavy ball   z² - (1 + β - a) z + β = 0              stable for a < 2 + 2β
    Nesterov     z² - (1 + β - a(1 + β)) z + β(1 - a) = 0  stable for a < (2 + 2β)/(1 + 2β)
    Adam         heavy ball with a(1 - β₁)                stable for a < (2 + 2β₁)/(1 - β₁)

References: Cohen et al. (2021), arXiv:2103.00065; Cohen et al. (2022), arXiv:2207.14484, eq. (3).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geartrain._torch import flat, kernels
from geartrain.budget import Clock
from geartrain.instruments import _curvature
from geartrain.linalg import EigenResult, top_eigenpairs
from geartrain.objective import Objective
from geartrain.run import Run


@dataclass(frozen=True)
class Dynamics:
    """The linear part of the update rule.

    Attributes:
        scale: s with s² = step size / (preconditioner x threshold of a), per parameter, 0 for those that do not
            move, shape (params,). The largest eigenvalue of diag(s) H diag(s) exceeds 1 if and only if the
            optimizer diverges on the parabola (one group; with unequal groups of momentum approximately).
        decay: Coefficient of the L2 penalty that the optimizer adds to the gradient, per parameter.
        inverse: 1 / preconditioner, per parameter.
        limit: Threshold of a, of the first group.
        lr: Step size of the first group.
        momentum: β of the first group.
        nesterov: Whether it is Nesterov's.
        optimizer: Name of its class.
    """

    scale: Tensor
    decay: Tensor
    inverse: Tensor
    limit: float
    lr: float
    momentum: float
    nesterov: bool
    optimizer: str

    def matvec(self, objective: Objective) -> Callable[[Tensor], Tensor]:
        """Product with diag(s) (H + decay) diag(s)."""

        def product(v: Tensor) -> Tensor:
            moved = self.scale * v
            return self.scale * (objective.hvp(moved) + self.decay * moved)

        return product

    def alternation(self, value: float) -> float:
        """Share of successive updates along a mode that change sign, for eigenvalue over threshold = ``value``.

        The angle of the root that decays last, over π: 0 for a positive root, 1 for a negative one.
        """
        beta = self.momentum
        a = value * ((2 + 2 * beta) / (1 + 2 * beta) if self.nesterov else 2 + 2 * beta)
        trace = 1 + beta - a * (1 + beta) if self.nesterov else 1 + beta - a
        product = beta * (1 - a) if self.nesterov else beta
        roots = np.roots([1.0, -trace, product])
        return abs(float(np.angle(roots[int(np.argmax(np.abs(roots)))]))) / math.pi


def dynamics(run: Run) -> Dynamics | str:
    """The linear part of the run's update rule at its present state, or the sentence that says why there is none."""
    optimizer = run.optimizer
    rule = next((r for kind, r in _RULES.items() if isinstance(optimizer, kind)), None)
    name = type(optimizer).__name__
    if rule is None or any(g.get("maximize") for g in optimizer.param_groups):
        return f"The stability threshold of {name} is not known."
    if rule is not _sgd and not any(entry for entry in optimizer.state.values()):
        return f"{name} has not taken a step yet, so its preconditioner is empty."
    parameters = flat.select(run.model, None)
    layout = flat.layout_of(parameters)
    places = {id(p): s for p, s in zip(parameters.values(), layout.slices().values(), strict=True)}
    device = next(iter(parameters.values())).device
    inverse, decay, scale = (
        torch.zeros(layout.num_params, dtype=layout.dtype, device=device) for _ in range(3)
    )
    limits = []
    for group in optimizer.param_groups:
        limit = _limit(group, name)
        limits.append(limit)
        for parameter in group["params"]:
            if id(parameter) not in places:
                continue
            place = places[id(parameter)]
            factor = rule(group, optimizer.state.get(parameter, {}))
            if factor is None:
                continue  # the loss does not depend on it, so the optimizer never moved it
            inverse[place] = torch.as_tensor(factor, dtype=layout.dtype, device=device).reshape(-1)
            scale[place] = (float(group["lr"]) * inverse[place] / limit).sqrt()
            if not decoupled(optimizer, group):
                decay[place] = float(group.get("weight_decay", 0.0))
    first = optimizer.param_groups[0]
    return Dynamics(
        scale,
        decay,
        inverse,
        limits[0],
        float(first["lr"]),
        _momentum(first),
        bool(first.get("nesterov")),
        name,
    )


def top(
    objective: Objective,
    moves: Dynamics,
    *,
    tol: float,
    max_products: int,
    clock: Clock,
    generator: torch.Generator | None,
    vectors: bool = False,
) -> EigenResult:
    """The leading eigenpair of the preconditioned Hessian in units of its threshold."""
    limits = _curvature.limits_of(clock, max_products)
    return top_eigenpairs(
        moves.matvec(objective),
        objective.num_params,
        1,
        tol=tol,
        generator=generator,
        eigenvectors=vectors,
        **_curvature.place_of(objective),
        **limits,
    )


def training_objective(run: Run, probe: int | None) -> Objective:
    """The training loss as the steps see it: batch normalisation in training mode, dropout off.

    Batch statistics take part in every training step and change the curvature; dropout only adds noise to it.
    """
    with kernels.mode(run.model, run.training_mode):
        coupled = kernels.mixes_examples(run.model) and not kernels.draws_random_numbers(run.model)
    return run.objective("train", probe=probe, training=coupled)


def _momentum(group: dict[str, Any]) -> float:
    return float(group["betas"][0] if "betas" in group else group.get("momentum", 0.0))


def _limit(group: dict[str, Any], name: str) -> float:
    beta = _momentum(group)
    limit = (2 + 2 * beta) / (1 + 2 * beta) if group.get("nesterov") else 2 + 2 * beta
    return limit / (1 - beta) if "betas" in group else limit


def decoupled(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> bool:
    return bool(group.get("decoupled_weight_decay", isinstance(optimizer, torch.optim.AdamW)))


def _sgd(group: dict[str, Any], state: dict[str, Any]) -> Any:
    return 1.0 - float(group.get("dampening", 0.0)) * (group.get("momentum", 0.0) != 0)


def _adam(group: dict[str, Any], state: dict[str, Any]) -> Any:
    key = "max_exp_avg_sq" if group.get("amsgrad") else "exp_avg_sq"
    if key not in state or float(state["step"]) < 1:
        return None
    steps, (beta1, beta2) = float(state["step"]), group["betas"]
    root = (state[key] / (1 - beta2**steps)).sqrt() + group["eps"]
    return 1.0 / (root * (1 - beta1**steps))


def _rmsprop(group: dict[str, Any], state: dict[str, Any]) -> Any:
    if "square_avg" not in state:
        return None
    mean = state["square_avg"] - state["grad_avg"] ** 2 if group.get("centered") else state["square_avg"]
    return 1.0 / (mean.clamp(min=0).sqrt() + group["eps"])


def _adagrad(group: dict[str, Any], state: dict[str, Any]) -> Any:
    steps = float(state.get("step", 0.0))
    if steps < 1:
        return None
    decay = 1 + (steps - 1) * group.get("lr_decay", 0.0)
    return 1.0 / (decay * (state["sum"].sqrt() + group["eps"]))


_RULES: dict[type, Callable[[dict[str, Any], dict[str, Any]], Any]] = {
    torch.optim.SGD: _sgd,
    torch.optim.Adam: _adam,
    torch.optim.AdamW: _adam,
    torch.optim.RMSprop: _rmsprop,
    torch.optim.Adagrad: _adagrad,
}

"""Curvature along the updates that the optimizer really makes, on one fixed probe of the data.

Compared with the sharpness it tells whether the optimizer lives in the sharp directions or avoids them;
compared with the curvature along the gradient, what momentum and preconditioning did to the direction. Misleads
where the steps are so long that the parabola at their start says nothing about them (`step_length_gauge` looks
at both ends). Ledger: 0.21.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from geartrain.budget import Budget, Clock
from geartrain.errors import NonFiniteError, UnsupportedError
from geartrain.instruments import _curvature, _stability, _window
from geartrain.instruments._answers import answer, no_answer, ratio_and_error
from geartrain.instruments._base import instrument
from geartrain.objective import Objective
from geartrain.records import Cost, Measurement, State
from geartrain.run import Run

_NAME, _UNIT = "curvature_along_update", "ℓ/θ²"


def _price(
    run: Any, *, steps: int = _window.STEPS, probe: int = 512, window: Any = None, **options: Any
) -> Cost:
    taken = _window.price(run, steps=steps) if window is None else Cost()
    return taken + Cost(gradients=2, products=steps + 1)


@instrument(needs="run", unit=_UNIT, price=_price)
def curvature_along_update(
    run: Run,
    *,
    steps: int = _window.STEPS,
    probe: int = 512,
    operator: _curvature.Operator = "hessian",
    window: _window.Window | None = None,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Second derivative of the training loss along the next updates: Σ uᵀ H u / Σ uᵀ u.

    H is that of the present parameters on a fixed probe; only the directions come from the steps.

    **Cost** three gradients per step, two gradients and ``steps`` + 1 products on the probe.

    **Assumes** a twice differentiable loss that changes its curvature little over the steps.

    **Misleads** under shrinking step sizes: long steps count by the square of their length (``curvatures`` has each).
    Noise of small batches spreads the updates over all directions, sharp and flat, and hides what the mean update does.

    Args:
        run: The run; it is put back exactly.
        steps: Further steps to take.
        probe: Training examples on which the Hessian is taken; evaluation mode, but batch normalisation as in training.
        operator: ``"hessian"``, ``"ggn"``, ``"fisher"``, ``"fisher_mc"``, ``"empirical_fisher"`` or ``"covariance"``.
        window: Steps taken already.
        generator: Draws the targets of ``"fisher_mc"``.
        budget: Limit: products, ``"5s"`` or a `Budget`.

    Returns:
        The curvature, unit ℓ/θ² (ℓ²/θ² for the last two operators), with a jackknife standard error over the steps.
        ``details``: ``curvatures`` (of each update), ``along_gradient`` (on the same probe), ``ratio`` (value over it),
        ``products``, ``operator``.

    Raises:
        InputError: A setting is out of range.

    References:
        Schneider, Dangel, Hennig (2021), Cockpit, arXiv:2102.06604; Cohen et al. (2021), arXiv:2103.00065.
    """
    unit, clock = _curvature.UNITS.get(operator, ""), Budget.of(budget).start()
    if clock.exhausted():
        return no_answer(_NAME, "The budget allows no product.", unit=unit, state=State.OUT_OF_BUDGET)
    try:
        objective = _stability.training_objective(run, probe)
        matvec = _curvature.matvec_of(objective, operator, generator)
        taken = _window.of(run, steps, window, budget)
        if taken.failure:
            return no_answer(_NAME, taken.failure, unit=unit, state=State.NON_FINITE)
        bent, lengths = _along(matvec, taken.updates, clock)
        gradient = _along_gradient(objective, matvec) if not clock.exhausted(len(bent)) else float("nan")
    except UnsupportedError as error:
        return no_answer(_NAME, str(error), unit=unit)
    except NonFiniteError as error:
        return no_answer(_NAME, str(error), unit=unit, state=State.NON_FINITE)
    run.work = run.work + objective.work
    return _measurement(bent, lengths, gradient, taken, unit, operator)


def _along(matvec: Any, updates: Tensor, clock: Clock) -> tuple[np.ndarray, np.ndarray]:
    """uᵀ H u and uᵀ u of each update, as far as the budget goes; an update of zero has none."""
    bent, lengths = [], []
    for update in updates:
        if clock.exhausted(len(bent)):
            break
        size = float(torch.linalg.vector_norm(update.double()))
        if size == 0.0:
            continue
        # A unit vector: products of tiny updates would vanish in single precision.
        direction = (update.double() / size).to(update.dtype)
        bent.append(float(direction.double() @ matvec(direction).double()) * size**2)
        lengths.append(size**2)
    return np.array(bent), np.array(lengths)


def _along_gradient(objective: Objective, matvec: Any) -> float:
    gradient = objective.gradient()
    size = float(gradient.double().norm())
    if not size > 0:
        return float("nan")
    direction = (gradient.double() / size).to(gradient.dtype)
    return float(direction.double() @ matvec(direction).double())


def _measurement(
    bent: np.ndarray,
    lengths: np.ndarray,
    gradient: float,
    taken: _window.Window,
    unit: str,
    operator: str,
) -> Measurement:
    if not len(bent):
        if len(taken):
            return no_answer(_NAME, "None of the steps moved the parameters.", unit=unit)
        return no_answer(_NAME, "No step was affordable.", unit=unit, state=State.OUT_OF_BUDGET)
    value, error = ratio_and_error(bent, lengths)
    details = {
        "curvatures": bent / lengths,
        "along_gradient": gradient,
        "ratio": value / gradient if gradient else float("nan"),
        "products": len(bent) + int(np.isfinite(gradient)),
        "operator": operator,
    }
    state = State.ESTIMATE if len(bent) == len(taken) else State.OUT_OF_BUDGET
    sentence = f"From {_curvature.count(len(bent), 'update')} of {_curvature.count(len(taken), 'step')}."
    return answer(_NAME, value, sentence, unit=unit, error=error, state=state, details=details)

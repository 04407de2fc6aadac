"""Curvature along the gradient: how the loss bends where the steepest step would go.

Its inverse is the step that the parabola along the gradient asks for (Cauchy's). Misleads as sharpness: a gradient that
lies in flat directions sees little of the top eigenvalue. Reference: Nocedal and Wright (2006), §3.3. Ledger: 0.3.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from geartrain.budget import Budget
from geartrain.errors import NonFiniteError
from geartrain.instruments import _curvature
from geartrain.instruments._answers import exact, no_answer
from geartrain.instruments._base import instrument
from geartrain.records import Cost, Measurement, State

_NAME = "curvature_along_gradient"


def _price(objective: Any, **options: Any) -> Cost:
    return Cost(gradients=2, products=1, peak_bytes=_curvature.bytes_of(objective, 3))


@instrument(needs="objective", unit="ℓ/θ²", price=_price)
def curvature_along_gradient(
    objective: Any,
    *,
    operator: _curvature.Operator = "hessian",
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Second derivative of the loss along the unit gradient: gᵀ H g / gᵀ g.

    It lies between the smallest and the largest eigenvalue, the mean of all of them weighted by the gradient's share in
    each. A step η along -g ends at the minimum of its parabola for η = 1/value and gains nothing at 2/value.

    **Cost** two gradients and one product.

    **Assumes** that the loss is twice differentiable; the parabola also that a step stays where it holds.

    **Misleads** on a mini-batch: the gradient's noise points into sharp directions, and curvature and gradient of the
    same batch agree better with one another than with the rest of the data.

    Args:
        objective: What to measure; an `Objective`.
        operator: ``"hessian"``, ``"ggn"``, ``"fisher"``, ``"fisher_mc"``, ``"empirical_fisher"`` or ``"covariance"``.
        generator: Draws the targets of ``"fisher_mc"``.
        budget: Limit: products, ``"5s"`` or a `Budget`.

    Returns:
        The curvature, unit ℓ/θ² (ℓ²/θ² for the last two operators), exact for these data. ``details``:
        ``best_step`` (1/value, unit θ²/ℓ; infinite without positive curvature), ``best_gain`` (loss that it
        gains on the parabola, ℓ), ``gradient_norm`` (ℓ/θ), ``residual`` (‖H g - value g‖/‖g‖: an eigenvalue
        lies that near; 0 where the gradient is an eigenvector), ``alignment`` (cosine of H g and g),
        ``operator``.

    References:
        Nocedal and Wright (2006), *Numerical Optimization*, eq. (3.26).

    >>> import geartrain as gt
    >>> model = torch.nn.Linear(1, 1, bias=False).double()
    >>> data = torch.full((1, 1), 3.0).double(), torch.ones(1, 1).double()
    >>> objective = gt.Objective(model, lambda out, y: 0.5 * ((out - y) ** 2).mean(), data)
    >>> round(float(curvature_along_gradient(objective)), 9)
    9.0
    """
    unit = _curvature.UNITS.get(operator, "")
    matvec = _curvature.matvec_of(objective, operator, generator)
    if Budget.of(budget).start().exhausted():
        return no_answer(_NAME, "The budget allows no product.", unit=unit, state=State.OUT_OF_BUDGET)
    try:
        gradient = objective.gradient()
        size = float(torch.linalg.vector_norm(gradient.double()))
        if size == 0.0:
            return no_answer(_NAME, "The gradient is zero, so it has no direction.", unit=unit)
        # In double precision: the squares of a tiny gradient vanish in single.
        direction = (gradient.double() / size).to(gradient.dtype)
        bent = matvec(direction)
    except NonFiniteError as error:
        return no_answer(_NAME, str(error), unit=unit, state=State.NON_FINITE)
    value = float(direction.double() @ bent.double())
    length = float(torch.linalg.vector_norm(bent.double()))
    residual = float(torch.linalg.vector_norm((bent - value * direction).double()))
    step = 1.0 / value if value > 0 else math.inf
    details = {
        "best_step": step,
        "best_gain": 0.5 * size**2 * step,
        "gradient_norm": size,
        "residual": residual,
        "alignment": value / length if length > 0 else float("nan"),
        "operator": operator,
    }
    bends = "upwards" if value > 0 else "downwards" if value < 0 else "not at all"
    return exact(_NAME, value, f"Along the gradient the loss bends {bends}.", unit=unit, details=details)

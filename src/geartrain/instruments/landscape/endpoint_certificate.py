"""Is this point a minimum? Gradient, most negative curvature, and what a Newton step would still gain.

A small gradient alone proves nothing: along a flat direction it hides a large gain. Misleads on noisy probes (the
gain on 512 examples includes overfitting them) and far from the parabola, where the predicted gain is not what the
loss does (compare ``actual_gain``).
References: Nocedal and Wright (2006), §7.1 (Newton-CG); Martens (2010). Ledger: 1.26.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from geartrain.budget import Budget, Clock
from geartrain.errors import NonFiniteError, UnsupportedError
from geartrain.instruments import _curvature
from geartrain.instruments._answers import answer, no_answer
from geartrain.instruments._base import instrument
from geartrain.linalg import CgResult, EigenResult, Stop, conjugate_gradient, top_eigenpairs
from geartrain.objective import Objective
from geartrain.records import Cost, Measurement, State
from geartrain.run import Run

_PRODUCTS = 60


def _price(objective: Any, *, max_products: int = _PRODUCTS, **options: Any) -> Cost:
    return Cost(forwards=6, gradients=3, products=max_products)


@instrument(needs="objective", unit="1", price=_price)
def endpoint_certificate(
    objective: Objective | Run,
    *,
    damping: float = 1e-4,
    tol: float = 1e-3,
    gain_limit: float = 0.01,
    max_products: int = _PRODUCTS,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the share of the loss that a Newton-CG step would still gain: ½ gᵀ(H + δ)⁻¹g / L.

    Half of the products find both ends of the spectrum by Lanczos, the rest run conjugate gradients with δ =
    ``damping`` times the largest |curvature|. At a direction of negative curvature they end; along it the size of the
    curvature is used (Dauphin et al. 2014, arXiv:1406.2572), since the parabola has no minimum there. The gain may
    exceed the loss where the parabola does not hold: ``actual_gain`` then tells.

    **Cost** at most ``max_products`` Hessian products, six forward passes, a pass of per-example gradients.

    **Assumes** a positive loss that is nearly a parabola over the length of the step.

    **Misleads** on small probes, where a step that gains overfits them, and far from the parabola, where the promise is
    not what the loss does: compare ``actual_gain``. Short of convergence the gain is a lower bound.

    Args:
        objective: What to certify; of a `Run`, the training loss.
        damping: δ relative to the largest |curvature|: directions flatter than that do not count in full.
        tol: Relative residual at which conjugate gradients end.
        gain_limit: Share of the loss below which the gain is called nothing.
        max_products: Limit on products where the budget sets none.
        generator: Source of the starting vector of Lanczos; a fixed seed if ``None``.
        budget: Limit: products, ``"5s"`` or a `Budget`.

    Returns:
        The relative gain, a pure number (0 at a minimum). The standard error is 0 once conjugate gradients have
        converged, else NaN: they then bound the gain from below. ``details``: ``loss``, ``gain`` (unit ℓ),
        ``actual_gain`` (share of the loss that the best of 1, 1/2, ..., 1/16 of the step really gains),
        ``gradient_norm``, ``gradient_norm_relative`` (over the root mean square of per-example gradient norms),
        ``most_negative``, ``largest`` (curvatures), ``negative_ratio`` (the former over the latter),
        ``negative_curvature`` (whether conjugate gradients met some), ``is_minimum``, ``verdict`` (a sentence),
        ``newton_length``, ``products``.
    """
    if isinstance(objective, Run):
        objective = objective.objective()
    clock = Budget.of(budget).start()
    try:
        loss, gradient = float(objective.value()), objective.gradient()
        ends, newton = _curvatures(objective, gradient, clock, damping, tol, max_products, generator)
    except NonFiniteError as error:
        return no_answer("endpoint_certificate", str(error), state=State.NON_FINITE)
    if not len(ends.eigenvalues):
        return no_answer("endpoint_certificate", "The budget allows no product.", state=State.OUT_OF_BUDGET)
    return _measurement(objective, loss, gradient, ends, newton, damping, gain_limit)


def _curvatures(
    objective: Objective,
    gradient: Tensor,
    clock: Clock,
    damping: float,
    tol: float,
    max_products: int,
    generator: torch.Generator | None,
) -> tuple[EigenResult, CgResult]:
    """Both ends of the spectrum, and the damped Newton step."""
    total = clock.products if clock.products is not None else max_products
    ends = top_eigenpairs(
        objective.hvp,
        objective.num_params,
        1,
        num_smallest=1,
        which="magnitude",
        tol=1e-2,
        max_products=total // 2,
        generator=generator,
        should_stop=clock.exhausted,
        **_curvature.place_of(objective),
    )
    scale = float(abs(ends.eigenvalues[0])) if len(ends.eigenvalues) else 0.0
    newton = conjugate_gradient(
        objective.hvp,
        -gradient,
        tol=tol,
        damping=damping * scale,
        max_products=total - ends.num_products,
        should_stop=clock.exhausted,
    )
    return ends, newton


def _measurement(
    objective: Objective,
    loss: float,
    gradient: Tensor,
    ends: EigenResult,
    newton: CgResult,
    damping: float,
    limit: float,
) -> Measurement:
    largest, lowest = abs(float(ends.eigenvalues[0])), _most_negative(ends, newton, damping)
    gain, step = _beyond(gradient, newton, damping * largest)
    size = float(gradient.double().norm())
    negative = newton.stop is Stop.NEGATIVE_CURVATURE and size > 0
    relative = gain / abs(loss) if loss else (0.0 if gain == 0 else math.inf)
    # Negative curvature below a thousandth of the largest is the rule at trained networks, and rounding.
    curved = lowest < -1e-3 * largest
    verdict = _verdict(relative, curved, limit)
    details = {
        "loss": loss,
        "gain": gain,
        "actual_gain": _actual_gain(objective, loss, step),
        "gradient_norm": size,
        "gradient_norm_relative": _relative_norm(objective, size),
        "most_negative": lowest,
        "largest": largest,
        "negative_ratio": lowest / largest if largest > 0 else float("nan"),
        "negative_curvature": negative,
        "is_minimum": relative < limit and not curved,
        "verdict": verdict,
        "newton_length": float(step.double().norm()),
        "products": ends.num_products + newton.num_products,
    }
    complete = newton.stop in {Stop.CONVERGED, Stop.COMPLETE}
    state = State.CONVERGED if complete else State.NOT_CONVERGED
    error = 0.0 if complete else float("nan")
    return answer("endpoint_certificate", relative, verdict, error=error, state=state, details=details)


def _verdict(relative: float, curved: bool, limit: float) -> str:
    gain = f"a Newton-CG step would gain {100 * relative:.2g} % of the loss"
    if relative >= limit:
        return f"Not at a stationary point: {gain}" + (
            ", and there is negative curvature." if curved else "."
        )
    if curved:
        return f"Stationary but not a minimum: there is negative curvature, although {gain}."
    return f"A minimum to second order: {gain} and no curvature is clearly negative."


def _beyond(gradient: Tensor, newton: CgResult, damping: float) -> tuple[float, Tensor]:
    """Gain and step, with the step along a direction p of negative curvature if one was met.

    The parabola has no minimum along p; its curvature is taken by its size, and never below the damping. Conjugacy
    makes the slope along p at the last iterate that of the gradient.
    """
    gain, direction = float(newton.decreases[-1]), newton.negative_direction
    slope = 0.0 if direction is None else float(gradient @ direction)
    if direction is None or slope == 0.0:
        return gain, newton.solution
    curvature = max(abs(float(newton.curvatures[-1]) - damping), damping)
    if curvature == 0.0:
        return math.inf, newton.solution
    return gain + slope**2 / (2.0 * curvature), newton.solution - (slope / curvature) * direction


def _most_negative(ends: EigenResult, newton: CgResult, damping: float) -> float:
    """The lowest curvature that either iteration saw (conjugate gradients see it damped)."""
    met = (
        float(newton.curvatures[-1]) - damping * abs(float(ends.eigenvalues[0]))
        if len(newton.curvatures)
        else 0.0
    )
    lowest = float(ends.smallest_eigenvalues[0])
    return min(lowest, met) if newton.stop is Stop.NEGATIVE_CURVATURE else lowest


def _actual_gain(objective: Objective, loss: float, step: Tensor) -> float:
    """Share of the loss that the step really gains, the best of 1, 1/2, ..., 1/16 of it."""
    here, best = objective.parameters(), loss
    for halvings in range(5):
        try:
            best = min(best, float(objective.value(here + step / 2**halvings)))
        except NonFiniteError:
            continue
    return (loss - best) / abs(loss) if loss else 0.0


def _relative_norm(objective: Objective, size: float) -> float:
    try:
        norms = objective.per_example_gradient_norms()
    except (UnsupportedError, NonFiniteError):
        return float("nan")
    mean_square = float((norms.double() ** 2).mean())
    return size / mean_square**0.5 if mean_square > 0 else float("nan")

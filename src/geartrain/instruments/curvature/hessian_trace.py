"""Trace of the Hessian (or another curvature matrix): total curvature, the sum of all eigenvalues.

Misleads when read as sharpness: positive and negative curvature cancel in it. Estimator XTrace by default
(Epperly, Tropp, Webber 2024, arXiv:2301.07825), ten times more accurate than Hutchinson's on network
Hessians.
"""

from __future__ import annotations

from typing import Any

import torch

from geartrain.errors import NonFiniteError
from geartrain.instruments import _curvature
from geartrain.instruments._base import Budget, Clock, instrument
from geartrain.linalg import TraceResult, trace
from geartrain.linalg.trace import Estimator
from geartrain.records import Cost, Measurement, State, Status


def _price(objective: Any, num_products: int = 100, *, budget: Any = None, **options: Any) -> Cost:
    limit = Budget.of(budget).products
    products = min(num_products, objective.num_params, num_products if limit is None else limit)
    return Cost(gradients=1, products=products, peak_bytes=_curvature.bytes_of(objective, 2 * products))


@instrument(needs="objective", unit="ℓ/θ²", price=_price)
def hessian_trace(
    objective: Any,
    num_products: int = 100,
    *,
    estimator: Estimator = "xtrace",
    operator: _curvature.Operator = "hessian",
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Trace of the Hessian, the sum of its eigenvalues, with a standard error.

    tr H = E[zᵀ H z] over random z; XTrace sketches the range with the very vectors that test it, each left
    out in
    turn: tr H = mean over i of tr(Q_iᵀ H Q_i) + (rest of z_i). A fixed number of samples; the error is their
        spread.

    **Cost** ``num_products`` products, and n where that is fewer (exact). About ``2·num_products`` vectors
    in memory (Hutchinson: 2).

    **Assumes** that the loss is twice differentiable and the same at every evaluation.

    **Misleads** as a measure of sharpness where curvature is negative somewhere: signs cancel. For n far
    above ``num_products`` and a flat spectrum no estimator beats Hutchinson's √(2/(n m)).

    Args:
        objective: What to measure; an `Objective`.
        num_products: Products to spend.
        estimator: ``"xtrace"``, ``"hutchpp"`` or ``"hutchinson"``.
        operator: ``"hessian"``, ``"ggn"`` or ``"covariance"``.
        generator: Source of the test vectors; a fixed seed if ``None``.
        budget: Limit: products, ``"5s"`` or a `Budget`.

    Returns:
        The trace, unit ℓ/θ² (ℓ²/θ² for the covariance). ``details``: ``estimator`` (what was used in the
        end), ``samples``, ``mean_eigenvalue``, ``products``, ``operator``.

    Raises:
        InputError: A setting is out of range.

    References:
        Hutchinson (1990); Meyer et al. (2021), arXiv:2010.09649; Epperly et al. (2024), arXiv:2301.07825.

    >>> import geartrain as gt
    >>> model = torch.nn.Linear(2, 1, bias=False).double()
    >>> data = torch.tensor([[2.0, 0.0], [0.0, 1.0]]).double(), torch.zeros(2, 1).double()
    >>> float(hessian_trace(gt.Objective(model, lambda out, y: ((out - y) ** 2).mean(), data)))
    5.0
    """
    unit = _curvature.UNITS.get(operator, "")
    matvec = _curvature.matvec_of(objective, operator)
    clock = Budget.of(budget).start()
    allowed, estimator = _within(clock, num_products, objective.num_params, estimator)
    if allowed < 1:
        status = Status(State.OUT_OF_BUDGET, "The budget allows no product.")
        return _curvature.nothing("hessian_trace", unit, status)
    try:
        result = trace(
            matvec,
            objective.num_params,
            allowed,
            estimator=estimator,
            should_stop=clock.exhausted,
            generator=generator,
            **_curvature.place_of(objective),
        )
    except NonFiniteError as error:
        return _curvature.nothing("hessian_trace", unit, Status(State.NON_FINITE, str(error)))
    return Measurement(
        "hessian_trace",
        result.value,
        unit,
        _status(result, allowed, num_products, objective.num_params),
        standard_error=result.standard_error,
        cost=Cost(peak_bytes=result.peak_bytes),
        details={
            "estimator": result.estimator,
            "samples": result.samples,
            "mean_eigenvalue": result.value / objective.num_params,
            "products": result.num_products,
            "operator": operator,
        },
    )


def _within(clock: Clock, wanted: int, n: int, estimator: Estimator) -> tuple[int, Estimator]:
    """Products that the budget allows; too few for a sketch leave Hutchinson."""
    allowed = wanted if clock.products is None else min(wanted, clock.products)
    if allowed < wanted and allowed < min(6, n):
        return allowed, "hutchinson"
    return allowed, estimator


def _status(result: TraceResult, allowed: int, wanted: int, n: int) -> Status:
    products = _curvature.count(result.num_products, "product")
    if result.estimator == "exact" and result.num_products == n:
        return Status(State.EXACT, f"Exact: the whole diagonal was read off in {products}.")
    if result.num_products < min(wanted, n) and (allowed < wanted or result.num_products < allowed - 2):
        return Status(
            State.OUT_OF_BUDGET,
            f"The budget allowed {products} of {wanted}; the error says how good the value is.",
        )
    return Status(
        State.ESTIMATE,
        f"{result.estimator} with a fixed number of {products}; the error is the spread of its samples.",
    )

"""Diagonal of the Hessian (or another curvature matrix): the curvature along every single parameter.

What diagonal preconditioners stand in for, and what pruning scores (Optimal Brain Damage) weigh with. Misleads as a
picture of the curvature: the sharp directions are mixtures of many parameters. Estimator XDiag by default (Epperly,
Tropp, Webber 2024, arXiv:2301.07825, §5), with both sides of a symmetric matrix used. Ledger: 0.2.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from geartrain.budget import Budget, Clock
from geartrain.errors import NonFiniteError
from geartrain.instruments import _curvature
from geartrain.instruments._base import instrument
from geartrain.linalg.diagonal import DiagonalEstimator, DiagonalResult, diagonal
from geartrain.records import Cost, Measurement, State, Status

_LEAST_OF_A_SKETCH = 8


def _price(
    objective: Any,
    num_products: int = 100,
    *,
    estimator: str = "xdiag",
    operator: str = "hessian",
    budget: Any = None,
    **options: Any,
) -> Cost:
    limit = Budget.of(budget).products
    products = min(num_products, objective.num_params, num_products if limit is None else limit)
    vectors = 3 * products if estimator == "xdiag" and products < objective.num_params else 4
    held = _curvature.bytes_of(objective, vectors) + _curvature.bytes_of_operator(objective, operator)
    return Cost(gradients=1, products=products, peak_bytes=held)


@instrument(needs="objective", unit="ℓ/θ²", price=_price)
def hessian_diagonal(
    objective: Any,
    num_products: int = 100,
    *,
    estimator: DiagonalEstimator = "xdiag",
    operator: _curvature.Operator = "hessian",
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Diagonal of the Hessian: the second derivative along each parameter, every one with its standard error.

    H_ii = E[z_i (H z)_i] over random signs z; XDiag sketches the range of H with the very vectors that test it, each
    left out in turn: diag H = mean over i of diag(P_i H + H P_i - P_i H P_i) + z_i ⊙ (I - P_i) H (I - P_i) z_i.

    **Cost** ``num_products`` products, and n where that is fewer (exact). About ``3·num_products`` vectors in memory
    (Hutchinson: 4).

    **Assumes** that the loss is twice differentiable and the same at every evaluation.

    **Misleads** entry by entry where the error is as large as the entry: most parameters of a network lie
    there, and the sum over a layer is known far better than its members (``details``). A small entry does not
    mean that a parameter does not matter: it may matter together with others.

    Args:
        objective: What to measure; an `Objective`.
        num_products: Products to spend.
        estimator: ``"xdiag"`` or ``"hutchinson"``.
        operator: ``"hessian"``, ``"ggn"``, ``"fisher"``, ``"fisher_mc"``, ``"empirical_fisher"`` or ``"covariance"``.
        generator: Source of the test vectors; a fixed seed if ``None``.
        budget: Limit: products, ``"5s"`` or a `Budget`.

    Returns:
        The diagonal, shape (params,), dims ``("param",)``, unit ℓ/θ² (ℓ²/θ² for the last two operators), in the
        order of ``model.parameters()``; NaN where not reached. ``details``: ``trace`` and ``trace_error``,
        ``layers`` (mean diagonal of each module), ``num_negative`` (entries more than two standard errors below
        zero), ``largest``, ``estimator`` (what was used in the end), ``products``, ``operator``.

    Raises:
        InputError: A setting is out of range.

    References:
        Bekas et al. (2007); Epperly et al. (2024), arXiv:2301.07825, §5.

    >>> import geartrain as gt
    >>> model = torch.nn.Linear(2, 1, bias=False).double()
    >>> data = torch.tensor([[2.0, 0.0], [0.0, 1.0]]).double(), torch.zeros(2, 1).double()
    >>> hessian_diagonal(gt.Objective(model, lambda out, y: ((out - y) ** 2).mean(), data)).value.tolist()
    [4.0, 1.0]
    """
    unit, size = _curvature.UNITS.get(operator, ""), objective.num_params
    matvec = _curvature.matvec_of(objective, operator, generator)
    clock = Budget.of(budget).start()
    allowed, estimator = _within(clock, num_products, size, estimator)
    if allowed < 1:
        status = Status(State.OUT_OF_BUDGET, "The budget allows no product.")
        return _curvature.nothing("hessian_diagonal", unit, status, (size,), ("param",))
    try:
        result = diagonal(
            matvec,
            size,
            allowed,
            estimator=estimator,
            should_stop=clock.exhausted,
            generator=generator,
            **_curvature.place_of(objective),
        )
    except NonFiniteError as error:
        status = Status(State.NON_FINITE, str(error))
        return _curvature.nothing("hessian_diagonal", unit, status, (size,), ("param",))
    values, errors = (t.double().cpu().numpy() for t in (result.values, result.standard_errors))
    held = result.peak_bytes + _curvature.bytes_of_operator(objective, operator)
    return Measurement(
        "hessian_diagonal",
        values,
        unit,
        _status(result, allowed, num_products, size),
        standard_error=errors,
        dims=("param",),
        coords={"param": np.arange(size)},
        cost=Cost(peak_bytes=held),
        details={**_details(objective, values, errors), **_ending(result), "operator": operator},
    )


def _within(clock: Clock, wanted: int, n: int, estimator: DiagonalEstimator) -> tuple[int, DiagonalEstimator]:
    """Products that the budget allows; too few for a sketch, or for all unit vectors, leave Hutchinson."""
    allowed = wanted if clock.products is None else min(wanted, clock.products)
    if allowed < wanted and allowed < min(_LEAST_OF_A_SKETCH, n):
        return allowed, "hutchinson"
    return allowed, estimator


def _status(result: DiagonalResult, allowed: int, wanted: int, n: int) -> Status:
    products = _curvature.count(result.num_products, "product")
    if result.estimator == "exact" and result.num_products == n:
        return Status(State.EXACT, f"Exact: every entry was read off, in {products}.")
    if result.num_products < min(wanted, n) - 1:
        known = (
            f"{result.num_products} entries are known" if result.estimator == "exact" else "see the errors"
        )
        return Status(State.OUT_OF_BUDGET, f"The budget allowed {products} of {min(wanted, n)}; {known}.")
    return Status(
        State.ESTIMATE,
        f"{result.estimator} with a fixed number of {products}; the errors are the spread of its samples.",
    )


def _details(objective: Any, values: np.ndarray, errors: np.ndarray) -> dict[str, Any]:
    layers, slices = {}, objective.layout.slices()
    for layer, names in objective.layers().items():
        entries = np.concatenate([values[slices[name]] for name in names])
        layers[layer] = float(entries.mean())
    finite = np.isfinite(values)
    return {
        "layers": layers,
        "num_negative": int((values < -2 * errors).sum()),
        "largest": float(values[finite].max()) if finite.any() else float("nan"),
    }


def _ending(result: DiagonalResult) -> dict[str, Any]:
    return {
        "trace": result.total,
        "trace_error": result.total_error,
        "estimator": result.estimator,
        "products": result.num_products,
    }

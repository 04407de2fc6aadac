"""Largest and most negative eigenvalues of the Hessian (or another curvature matrix), each with its residual.

Misleads where eigenvalues lie closer together than the tolerance: a residual says that an eigenvalue is near,
never that none was missed. Lanczos with full reorthogonalisation, so no ghosts: equal values are
multiplicities. Reference: Parlett (1998), *The Symmetric Eigenvalue Problem*, ch. 13.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from geartrain.budget import Budget
from geartrain.errors import NonFiniteError
from geartrain.instruments import _curvature
from geartrain.instruments._base import instrument
from geartrain.linalg import EigenResult, Stop, top_eigenpairs
from geartrain.records import Cost, Measurement, State, Status, format_number


def _limit(k: int, num_smallest: int) -> int:
    return 20 * (k + num_smallest) + 100


def _price(
    objective: Any,
    k: int = 10,
    *,
    num_smallest: int = 3,
    operator: str = "hessian",
    budget: Any = None,
    **options: Any,
) -> Cost:
    expected = min(3 * (k + num_smallest) + 10, objective.num_params)
    products = Budget.of(budget).products
    expected = expected if products is None else min(expected, products)
    held = _curvature.bytes_of(objective, expected) + _curvature.bytes_of_operator(objective, operator)
    return Cost(gradients=1, products=expected, peak_bytes=held)


@instrument(needs="objective", unit="ℓ/θ²", price=_price)
def hessian_spectrum(
    objective: Any,
    k: int = 10,
    *,
    num_smallest: int = 3,
    tol: float = 1e-3,
    operator: _curvature.Operator = "hessian",
    eigenvectors: bool = False,
    confirm: bool = False,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """The k largest eigenvalues of the Hessian, the most negative ones, and bounds on their errors.

    Lanczos: H q_m = β_{m-1} q_{m-1} + α_m q_m + β_m q_{m+1}; eigenvalues θ of the tridiagonal matrix with
        residuals
    ‖H y - θ y‖ = β_m |s_m|. Ends when every residual asked for is at most ``tol``·|λ|max.

    **Cost** m products, m set by the residuals: about 2 to 4 times (k + num_smallest); m vectors in memory.
    Without a budget at most 20·(k + num_smallest) + 100.

    **Assumes** that the loss is twice differentiable and the same at every evaluation (symmetry is checked).

    **Misleads** where eigenvalues are closer together than the tolerance; then lower ``tol`` or set
    ``confirm``. A negative eigenvalue smaller in size than ``tol``·|λ|max comes with an error as large as
    itself.

    Args:
        objective: What to measure; an `Objective`.
        k: Number of largest eigenvalues.
        num_smallest: Number of algebraically smallest ones.
        tol: Allowed residual as a fraction of the largest |eigenvalue|.
        operator: ``"hessian"``, ``"ggn"`` (generalised Gauss-Newton), ``"fisher"`` (exact), ``"fisher_mc"``
            (sampled targets), ``"empirical_fisher"`` or ``"covariance"`` (of per-example gradients).
        eigenvectors: Also return the vectors, in ``details``.
        confirm: Search again with everything found taken out, until nothing new turns up (about twice the
            cost).
        generator: Source of the starting vector; a fixed seed if ``None``.
        budget: Limit: products, ``"5s"`` or a `Budget`.

    Returns:
        Eigenvalues, largest first, shape (min(k, params),), dims ``("eig",)``, NaN where not reached. The
        error given is the residual, a strict bound on the distance to *an* eigenvalue. ``details``:
        ``residuals``, ``smallest``, ``smallest_residuals``, ``num_negative_at_least`` (negative Ritz values:
        by interlacing the matrix has no fewer negative eigenvalues), ``eigenvectors`` and
        ``smallest_eigenvectors`` (rows; ``None`` unless asked for), ``ritz_values``, ``ritz_residuals``,
        ``ritz_weights``, ``products``, ``asymmetry``, ``operator``.

    Raises:
        InputError: A setting is out of range.

    References:
        Parlett (1998), theorem 13.2.1. Ledger: 0.2.

    >>> import geartrain as gt
    >>> model = torch.nn.Linear(2, 1, bias=False).double()
    >>> data = torch.tensor([[2.0, 0.0], [0.0, 1.0]]).double(), torch.zeros(2, 1).double()
    >>> objective = gt.Objective(model, lambda out, y: ((out - y) ** 2).mean(), data)
    >>> hessian_spectrum(objective, k=2, num_smallest=0).value.round(9).tolist()
    [4.0, 1.0]
    """
    unit, size = _curvature.UNITS.get(operator, ""), min(k, objective.num_params)
    matvec = _curvature.matvec_of(objective, operator, generator)
    clock = Budget.of(budget).start()
    try:
        result = top_eigenpairs(
            matvec,
            objective.num_params,
            k,
            num_smallest=num_smallest,
            tol=tol,
            generator=generator,
            eigenvectors=eigenvectors,
            confirm=confirm,
            **_curvature.limits_of(clock, _limit(k, num_smallest)),
            **_curvature.place_of(objective),
        )
    except NonFiniteError as error:
        return _curvature.nothing(
            "hessian_spectrum", unit, Status(State.NON_FINITE, str(error)), (size,), ("eig",)
        )
    return Measurement(
        "hessian_spectrum",
        _curvature.padded(result.eigenvalues, size),
        unit,
        _status(result, tol),
        standard_error=_curvature.padded(result.residuals, size),
        dims=("eig",),
        coords={"eig": np.arange(size)},
        cost=Cost(peak_bytes=result.peak_bytes),
        details=_details(result, operator),
    )


def _status(result: EigenResult, tol: float) -> Status:
    products = _curvature.count(result.num_products, "product")
    if not result.symmetric:
        return _curvature.not_symmetric(result.asymmetry)
    if not result.converged:
        reached = int((result.residuals <= tol * _largest(result)).sum())
        return _curvature.unfinished(
            result.stop, f"{reached} of the largest eigenvalues had converged after {products}."
        )
    bound = "The error of each is its residual: an eigenvalue lies that close."
    if result.stop is Stop.COMPLETE:
        return Status(
            State.EXACT, f"All eigenvalues were found, exact up to rounding, in {products}. {bound}"
        )
    worst = float(np.concatenate([result.residuals, result.smallest_residuals]).max()) / max(
        _largest(result), 1e-300
    )
    return Status(
        State.CONVERGED,
        f"Residuals are at most {format_number(worst, 2)} of the largest eigenvalue after {products}. "
        + bound,
    )


def _largest(result: EigenResult) -> float:
    return float(np.abs(result.ritz.values).max(initial=0.0))


def _details(result: EigenResult, operator: str) -> dict[str, Any]:
    floor = result.ritz.residuals.min(initial=0.0)
    return {
        "residuals": result.residuals,
        "smallest": result.smallest_eigenvalues,
        "smallest_residuals": result.smallest_residuals,
        "num_negative_at_least": int((result.ritz.values < -floor).sum()),
        "eigenvectors": _array(result.eigenvectors),
        "smallest_eigenvectors": _array(result.smallest_eigenvectors),
        "ritz_values": result.ritz.values,
        "ritz_residuals": result.ritz.residuals,
        "ritz_weights": result.ritz.weights,
        "products": result.num_products,
        "asymmetry": result.asymmetry,
        "operator": operator,
    }


def _array(vectors: torch.Tensor | None) -> np.ndarray | None:
    return None if vectors is None else vectors.cpu().numpy()

"""Density of the Hessian's eigenvalues, and the share of negative ones, by stochastic Lanczos quadrature.

Misleads inside the bulk: what lies closer to zero than the Lanczos steps resolve has no certain sign, so a
share of negative eigenvalues only means something below a stated threshold, and is given with the bracket
that the quadrature proves. References: Lin, Saad, Yang (2016), arXiv:1308.5467; Ghorbani et al. (2019),
arXiv:1901.10159.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from geartrain.budget import Budget
from geartrain.errors import InputError, NonFiniteError
from geartrain.instruments import _curvature
from geartrain.instruments._base import instrument
from geartrain.linalg import MassEstimate, SpectralMeasure, Stop, slq
from geartrain.records import Cost, Measurement, State, Status, format_number

_DEFAULT_GRID = 256
_KERNEL_SHARE = 0.01


def _price(
    objective: Any,
    *,
    num_probes: int = 4,
    num_steps: int = 100,
    num_deflated: int = 20,
    operator: str = "hessian",
    budget: Any = None,
    **options: Any,
) -> Cost:
    planned = num_steps * (num_probes + (num_deflated > 0))
    limit = Budget.of(budget).products
    products = min(objective.num_params, planned, planned if limit is None else limit)
    vectors = min(num_steps + num_deflated, products)
    held = _curvature.bytes_of(objective, vectors) + _curvature.bytes_of_operator(objective, operator)
    return Cost(gradients=1, products=products, peak_bytes=held)


@instrument(needs="objective", unit="θ²/ℓ", price=_price)
def hessian_density(
    objective: Any,
    *,
    num_probes: int = 4,
    num_steps: int = 100,
    num_deflated: int = 20,
    grid: np.ndarray | int = _DEFAULT_GRID,
    kernel_width: float | None = None,
    negative_tol: float = 1e-4,
    operator: _curvature.Operator = "hessian",
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Density of the Hessian's eigenvalues with an error band, and the share of negative ones with a bracket.

    p(λ) = (1/n) Σ_i N(λ; λ_i, w²): eigenvalues that converged in a first run count one by one; the rest
    through Gauss quadratures of random starts orthogonal to them. The band is the exact sampling variance of
    such a quadrature. The share of eigenvalues below -negative_tol·|λ|max comes from Gauss-Radau rules with a
    node at that threshold, which bracket it from both sides.

    **Cost** at most ``num_steps·(num_probes + 1)`` products; n products, and an exact answer, where that is
    fewer.

    **Assumes** that the loss is twice differentiable and the same at every evaluation.

    **Misleads** below the kernel width (nothing narrower is visible) and where the bracket of the negative
    share is wide: read ``negative_mass_bracket``; more ``num_steps`` narrow it, more probes do not.

    Args:
        objective: What to measure; an `Objective`.
        num_probes: Random starts.
        num_steps: Lanczos steps from each.
        num_deflated: At most this many converged extreme eigenvalues are counted one by one.
        grid: Eigenvalues at which to give the density, ascending, or how many.
        kernel_width: Standard deviation w of the kernel; 1 % of the range of eigenvalues if ``None``.
        negative_tol: What counts as negative, as a fraction of the largest |eigenvalue|.
        operator: ``"hessian"``, ``"ggn"``, ``"fisher"``, ``"fisher_mc"``, ``"empirical_fisher"`` or ``"covariance"``.
        generator: Source of the starts; a fixed seed if ``None``.
        budget: Limit: products, ``"5s"`` or a `Budget`.

    Returns:
        Density on the grid, dims ``("eigenvalue",)``, unit θ²/ℓ, integrating to 1; standard error over
        starts. ``details``: ``eigenvalues`` (leading Ritz values of the first run), ``residuals``,
        ``smallest``, ``smallest_residual``, ``negative_mass``, ``negative_mass_error`` (± 2 of it covers
        bracket and sampling), ``negative_mass_bracket``, ``negative_threshold``, ``positive_mass``,
        ``near_zero_mass``, ``kernel_width``, ``num_counted``, ``nodes``, ``weights``, ``products``,
        ``operator``.

    Raises:
        InputError: A setting is out of range.

    References:
        Golub and Meurant (2010), *Matrices, Moments and Quadrature*, §6.2; Ghorbani et al. (2019). Ledger:
        0.2.

    >>> import geartrain as gt
    >>> model = torch.nn.Linear(2, 1, bias=False).double()
    >>> data = torch.tensor([[2.0, 0.0], [0.0, 1.0]]).double(), torch.zeros(2, 1).double()
    >>> objective = gt.Objective(model, lambda out, y: ((out - y) ** 2).mean(), data)
    >>> hessian_density(objective).details["negative_mass"]
    0.0
    """
    _check(grid, kernel_width, negative_tol)
    length = grid if isinstance(grid, int) else len(grid)
    matvec = _curvature.matvec_of(objective, operator, generator)
    clock = Budget.of(budget).start()
    try:
        measure = slq(
            matvec,
            objective.num_params,
            num_probes=num_probes,
            num_steps=num_steps,
            num_deflated=num_deflated,
            generator=generator,
            **_curvature.limits_of(clock, None),
            **_curvature.place_of(objective),
        )
    except NonFiniteError as error:
        return _nothing(operator, length, Status(State.NON_FINITE, str(error)))
    if not measure.probes and not measure.exact:
        return _nothing(operator, length, Status(State.OUT_OF_BUDGET, "The budget allows no product."))
    return _measurement(measure, grid, kernel_width, negative_tol, operator)


def _check(grid: np.ndarray | int, kernel_width: float | None, negative_tol: float) -> None:
    if isinstance(grid, int) and grid < 2:
        raise InputError(f"grid is {grid}; allowed: at least 2 points, or an array of eigenvalues.")
    if kernel_width is not None and not kernel_width > 0:
        raise InputError(f"kernel_width is {kernel_width}; allowed: a positive number, or None.")
    if not 0 <= negative_tol < 1:
        raise InputError(f"negative_tol is {negative_tol}; allowed: 0 or more and below 1.")


def _nothing(operator: str, length: int, status: Status) -> Measurement:
    return _curvature.nothing("hessian_density", _unit(operator), status, (length,), ("eigenvalue",))


def _unit(operator: str) -> str:
    return "θ²/ℓ" if operator in _curvature.CURVATURES else "θ²/ℓ²"


def _measurement(
    measure: SpectralMeasure, grid: np.ndarray | int, width: float | None, negative_tol: float, operator: str
) -> Measurement:
    low, high = measure.extent
    # A spectrum of one point still needs a width to be drawn.
    width = width or max(_KERNEL_SHARE * (high - low), 1e-3 * measure.scale, 1e-300)
    points = (
        np.linspace(low - 4 * width, high + 4 * width, grid) if isinstance(grid, int) else np.asarray(grid)
    )
    density, error = measure.density(points, width)
    threshold = negative_tol * measure.scale
    negative, below = measure.mass_below(-threshold), measure.mass_below(threshold)
    return Measurement(
        "hessian_density",
        density,
        _unit(operator),
        _status(measure, negative, width),
        standard_error=error,
        dims=("eigenvalue",),
        coords={"eigenvalue": points},
        cost=Cost(peak_bytes=measure.peak_bytes),
        details=_details(measure, negative, below, width, operator),
    )


def _status(measure: SpectralMeasure, negative: MassEstimate, width: float) -> Status:
    products = _curvature.count(measure.num_products, "product")
    if measure.exact:
        return Status(
            State.EXACT,
            f"Every eigenvalue was found in {products}; the kernel is {format_number(width, 2)} wide.",
        )
    low, high = f"{100 * negative.lower:.1f}", f"{100 * negative.upper:.1f}"
    share = (
        f"{low if low == high else f'between {low} and {high}'} % of the eigenvalues lie below "
        f"{format_number(negative.threshold, 2)} (± {100 * negative.sampling_error:.1f} % from sampling)"
    )
    if measure.stop is not Stop.STEPS_DONE:
        return _curvature.unfinished(
            measure.stop, f"{_curvature.count(len(measure.probes), 'probe')} in {products}: {share}."
        )
    return Status(
        State.ESTIMATE,
        f"Quadrature from {_curvature.count(len(measure.probes), 'random start')}, {products} in all, kernel "
        f"{format_number(width, 2)} wide: {share}.",
    )


def _details(
    measure: SpectralMeasure, negative: MassEstimate, below: MassEstimate, width: float, operator: str
) -> dict[str, Any]:
    order = np.argsort(-measure.ritz.values, kind="stable")[:10]
    share = measure.num_unknown / measure.n / max(len(measure.probes), 1)
    each = np.full(len(measure.known), 1 / measure.n)
    return {
        "eigenvalues": measure.ritz.values[order],
        "residuals": measure.ritz.residuals[order],
        "smallest": float(measure.ritz.values[0]) if len(measure.ritz.values) else float("nan"),
        "smallest_residual": float(measure.ritz.residuals[0]) if len(measure.ritz.values) else float("nan"),
        "negative_mass": negative.value,
        "negative_mass_error": negative.standard_error,
        "negative_mass_bracket": (negative.lower, negative.upper),
        "negative_threshold": negative.threshold,
        "positive_mass": 1 - below.value,
        "near_zero_mass": below.value - negative.value,
        "kernel_width": width,
        "num_counted": len(measure.known),
        "nodes": np.concatenate([measure.known, *(p.nodes for p in measure.probes)]),
        "weights": np.concatenate([each, *(share * p.weights for p in measure.probes)]),
        "products": measure.num_products,
        "operator": operator,
    }

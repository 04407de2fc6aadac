"""Effective condition number: how thin the valley is, counting only directions that still hold loss to gain.

The plain ratio λmax/λmin of a network's Hessian is infinite (zero modes) or meaningless (negative
curvature). Here only directions count along which Newton's step predicts a decrease worth having. Misleads
where the loss is not close to its second-order expansion, and on indefinite Hessians with a dense bulk
around zero: there ``operator="ggn"`` is the steadier reading. References: Nocedal and Wright (2006), §3.3
and §5.1; Golub and Meurant (2010), ch. 7.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from geartrain.budget import Budget
from geartrain.errors import InputError, NonFiniteError
from geartrain.instruments import _curvature
from geartrain.instruments._base import instrument
from geartrain.linalg import LanczosState, Meter, Stop, lanczos_init, lanczos_ritz, lanczos_run
from geartrain.records import Cost, Measurement, State, Status, format_number

_MAX_PRODUCTS = 400
# A quantile inside a continuum is known to the spacing of Ritz values, an edge of the spectrum far better.
_TOL, _TOL_EDGE = 0.1, 0.03
# A Ritz pair with a smaller relative residual is one eigenvalue; above it, one of a continuum.
_RESOLVED = 0.1


def _price(objective: Any, *, max_products: int = _MAX_PRODUCTS, budget: Any = None, **options: Any) -> Cost:
    limit = Budget.of(budget).products
    products = min(objective.num_params, 100, max_products if limit is None else limit)
    return Cost(gradients=2, products=products, peak_bytes=_curvature.bytes_of(objective, products))


@instrument(needs="objective", unit="1", price=_price)
def effective_condition_number(
    objective: Any,
    *,
    fraction: float = 1e-2,
    tol: float | None = None,
    zero_tol: float = 1e-9,
    max_products: int = _MAX_PRODUCTS,
    operator: _curvature.Operator = "hessian",
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Largest curvature over the smallest one below which less than ``fraction`` of the predicted gain lies.

    With eigenpairs λ_i, u_i and gradient components g_i = u_iᵀ g, the Newton step predicts the gain G = Σ
    g_i²/(2 λ_i) over λ_i > 0. Let λ_eff be the smallest eigenvalue such that all λ <= λ_eff together carry
    at least ``fraction`` of G; then κ = λmax/λ_eff. On a quadratic G is the loss gap itself. Lanczos starts
    from the gradient, so its Ritz values and first components are the Gauss quadrature of exactly this
    measure.

    **Excluded**, and counted in ``details``: the lowest ``fraction`` of the gain; zero modes (|λ| <=
    ``zero_tol``·λmax); negative curvature; and, where there is negative curvature, positive curvature no
    larger than the most
    negative: at that scale the loss is a saddle and Newton's gain means nothing (``floor``).

    **Cost** two gradients and m products: about √κ·ln(2/fraction) of them, at most ``max_products``,
    whatever the number of parameters; m vectors in memory.

    **Assumes** that the loss is near its second-order expansion and the same at every evaluation.

    **Misleads** on directions that the gradient does not see: at a saddle, or when a flat mode with a tiny
    gradient hides loss beyond reach of m products. Where λ_eff lies in a continuum of eigenvalues it is
    interpolated.

    Args:
        objective: What to measure; an `Objective`.
        fraction: Share of the predicted gain that may be given up, at the flat end; 0 for the plain κ over
            everything that the gradient reaches.
        tol: Relative error of κ at which to stop; ``None`` for 0.1, or 0.03 where ``fraction`` is 0.
        zero_tol: What counts as zero, as a fraction of the largest curvature (never below rounding).
        max_products: Limit on products where the budget sets none.
        operator: ``"hessian"``, ``"ggn"``, ``"fisher"`` or ``"fisher_mc"`` (the latter three without negative
            curvature).
        generator: Draws the targets of ``"fisher_mc"``; nothing else is random here.
        budget: Limit: products, ``"5s"`` or a `Budget`.

    Returns:
        κ >= 1, a pure number. The standard error has the residual or spacing of the Ritz values at
        λ_eff and the gain not yet found. ``details``: ``largest``, ``smallest_effective``,
        ``condition_number`` (over all resolved positive Ritz values, those larger than their residual: a
        lower bound), ``predicted_gain``, ``missing_gain`` (estimate), ``num_negative``, ``num_zero``,
        ``num_below_floor``, ``floor``, ``num_excluded_small``, ``gd_rate`` = (κ-1)/(κ+1), ``cg_rate`` =
        (√κ-1)/(√κ+1), ``gd_steps_per_decade`` and ``cg_steps_per_decade`` (of the error), ``ritz_values``,
        ``residuals``, ``gains``, ``gradient_norm``, ``fraction``, ``products``, ``operator``.

    Raises:
        InputError: A setting is out of range.

    References:
        Nocedal and Wright (2006), theorem 3.3 and eq. (5.36). Ledger: 0.2, 0.3.

    >>> import geartrain as gt
    >>> model = torch.nn.Linear(2, 1, bias=False).double()
    >>> data = torch.tensor([[10.0, 0.0], [0.0, 1.0]]).double(), torch.ones(2, 1).double()
    >>> objective = gt.Objective(model, lambda out, y: ((out - y) ** 2).mean(), data)
    >>> round(float(effective_condition_number(objective, fraction=0.0)), 6)
    100.0
    """
    tol = (_TOL if fraction > 0 else _TOL_EDGE) if tol is None else tol
    _check(objective, fraction, tol, zero_tol, operator)
    clock = Budget.of(budget).start()
    try:
        gradient = objective.gradient()
        if not float(gradient.norm()) > 0:
            return _nothing(
                State.NOT_APPLICABLE, "The gradient is zero: there is no loss to gain, to second order."
            )
        meter = Meter(
            _curvature.matvec_of(objective, operator, generator),
            objective.num_params,
            **_curvature.limits_of(clock, max_products),
            **_curvature.place_of(objective),
        )
        state = lanczos_init(meter, gradient)
        rule = _StopRule(fraction, tol, zero_tol)
        stop = lanczos_run(meter, state, rule, restart=False)
    except NonFiniteError as error:
        return _nothing(State.NON_FINITE, str(error))
    if not state.alpha:
        return _nothing(State.OUT_OF_BUDGET, "The budget allows no product.")
    return _measurement(
        _Reading.of(state, fraction, zero_tol), state, stop, {"operator": operator, "fraction": fraction}
    )


def effective_condition(
    eigenvalues: np.ndarray, gradient_components: np.ndarray, fraction: float = 1e-2, zero_tol: float = 1e-9
) -> tuple[float, float]:
    """The dense definition: κ and λ_eff from all eigenvalues and the gradient's components along them.

    Args:
        eigenvalues: Shape (n,), any order.
        gradient_components: Shape (n,).
        fraction: As in `effective_condition_number`.
        zero_tol: Likewise.

    Returns:
        κ and λ_eff.

    >>> effective_condition(np.array([1.0, 4.0, 100.0]), np.array([1.0, 2.0, 10.0]), fraction=0.4)
    (25.0, 4.0)
    """
    order = np.argsort(eigenvalues)
    values, components = np.asarray(eigenvalues)[order], np.asarray(gradient_components)[order]
    kept = (values > max(zero_tol * values[-1], -values[0])) & (components != 0)
    values, gains = values[kept], components[kept] ** 2 / (2 * values[kept])
    at = int(np.searchsorted(np.cumsum(gains), fraction * gains.sum()))
    return float(values[-1] / values[at]), float(values[at])


def _check(objective: Any, fraction: float, tol: float, zero_tol: float, operator: str) -> None:
    if operator not in _curvature.CURVATURES:
        allowed = ", ".join(map(repr, _curvature.CURVATURES))
        raise InputError(f"operator is {operator!r}; allowed: {allowed}, which have a Newton step.")
    if not 0 <= fraction < 1:
        raise InputError(
            f"fraction is {fraction}; allowed: 0 or more and below 1, a share of the predicted gain."
        )
    if not 0 < tol < 1 or not 0 <= zero_tol < 1:
        raise InputError(f"tol is {tol} and zero_tol {zero_tol}; allowed: between 0 and 1.")


def _nothing(state: State, sentence: str) -> Measurement:
    return _curvature.nothing("effective_condition_number", "1", Status(state, sentence))


@dataclass(frozen=True)
class _Reading:
    """κ with its parts, as far as the Krylov space knows them.

    Attributes:
        kappa: Largest over smallest effective curvature; NaN if there is no positive curvature.
        error: Its standard error.
        values: Ritz values, ascending.
        residuals: Their residuals.
        gains: Predicted gain along each; 0 for those excluded.
        counted: Which Ritz values count.
        missing: Estimate of the gain that the space does not hold yet.
        smallest: λ_eff.
        zero: Size below which a value counts as zero.
        floor: Size that a value must exceed to count; above ``zero`` where there is negative curvature.
    """

    kappa: float
    error: float
    values: np.ndarray
    residuals: np.ndarray
    gains: np.ndarray
    counted: np.ndarray
    missing: float
    smallest: float
    zero: float
    floor: float

    @staticmethod
    def of(state: LanczosState, fraction: float, zero_tol: float) -> _Reading:
        ritz = lanczos_ritz(state)
        values, residuals = ritz.values, ritz.residuals
        zero = max(zero_tol * float(np.abs(values).max()), state.rounding)
        # Where curvature of -c is met, a valley with curvature below c is no valley.
        floor = max(zero, -float(values[0]))
        counted = values > floor
        if not counted.any():
            nan = float("nan")
            return _Reading(
                nan, nan, values, residuals, np.zeros_like(values), counted, nan, nan, zero, floor
            )
        safe = np.where(counted, values, 1.0)
        gains = np.where(counted, state.start_norm**2 * ritz.weights / (2 * safe), 0.0)
        # The Newton system's residual is β_m (T⁻¹ e₁)_m ‖g‖ along the next Lanczos vector.
        last = (
            state.beta[-1]
            * state.start_norm
            * float(np.where(counted, ritz.vectors[-1] * ritz.vectors[0] / safe, 0.0).sum())
        )
        missing = last**2 / (2 * float(values[counted].min()))
        kappa, error, smallest = _quantile(
            values[counted], residuals[counted], gains[counted], fraction, missing
        )
        return _Reading(kappa, error, values, residuals, gains, counted, missing, smallest, zero, floor)


def _quantile(
    values: np.ndarray, residuals: np.ndarray, gains: np.ndarray, fraction: float, missing: float
) -> tuple[float, float, float]:
    """κ, its standard error and λ_eff from positive Ritz values, ascending."""
    total, cumulative = gains.sum(), np.cumsum(gains)
    at = min(int(np.searchsorted(cumulative, fraction * total)), len(values) - 1)
    smallest, spread = float(values[at]), float(residuals[at] / values[at])
    if 0 < at < len(values) - 1:
        # ± 2 standard errors span both neighbours: the quantile lies between the nodes around it.
        spread = min(spread, math.log(values[at + 1] / values[at - 1]) / 4)
    if spread > _RESOLVED / 2 and at > 0:
        middles = (cumulative - gains / 2) / total
        smallest = float(np.exp(np.interp(fraction, middles, np.log(values))))
        # Between two nodes nothing is known better than to the half of what was interpolated.
        spread = max(spread, abs(math.log(float(values[at]) / smallest)) / 2)
    kappa = float(values[-1]) / smallest
    # Gain that is still missing lies below everything seen: the quantile moves down by as much.
    lower = min(int(np.searchsorted(cumulative, fraction * (total + missing) - missing)), at)
    moved = abs(float(np.log(values[at] / values[lower]))) / 2 if fraction > 0 else 0.0
    error = kappa * math.hypot(spread, moved, float(residuals[-1] / values[-1]))
    return kappa, error, smallest


@dataclass
class _StopRule:
    """Ends the run when κ is known to ``tol`` and the gain still missing is small beside ``fraction``."""

    fraction: float
    tol: float
    zero_tol: float
    next_check: int = 2

    def __call__(self, state: LanczosState) -> bool:
        if state.num_steps < self.next_check or state.closed:
            return False
        self.next_check = state.num_steps + max(1, state.num_steps // 25)
        reading = _Reading.of(state, self.fraction, self.zero_tol)
        gained = reading.missing <= self.fraction / 4 * reading.gains.sum() or self.fraction == 0
        # The floor is a Ritz value too, and must have settled.
        settled = reading.floor == reading.zero or reading.residuals[0] <= 2 * self.tol * reading.floor
        return bool(reading.error <= self.tol * reading.kappa and gained and settled)


def _measurement(reading: _Reading, state: LanczosState, stop: Stop, chosen: dict[str, Any]) -> Measurement:
    asymmetry = state.asymmetry / max(state.scale, 1e-300)
    status = _status(reading, state, stop)
    if asymmetry > 10 * torch.finfo(state.basis.dtype).eps ** 0.5:
        status = _curvature.not_symmetric(asymmetry)
    return Measurement(
        "effective_condition_number",
        reading.kappa,
        "1",
        status,
        standard_error=reading.error,
        cost=Cost(peak_bytes=state.basis.bytes),
        details={**_details(reading, state), **chosen},
    )


def _status(reading: _Reading, state: LanczosState, stop: Stop) -> Status:
    products = _curvature.count(state.num_steps, "product")
    if math.isnan(reading.kappa):
        return Status(
            State.NOT_APPLICABLE, f"No positive curvature along anything the gradient reaches in {products}."
        )
    left_out = _excluded(reading)
    if stop is Stop.COMPLETE:
        return Status(State.EXACT, f"The gradient's whole Krylov space was spanned in {products}{left_out}.")
    if stop is Stop.CONVERGED:
        return Status(
            State.CONVERGED,
            f"Known to {format_number(reading.error / reading.kappa, 2)} after {products}{left_out}.",
        )
    return _curvature.unfinished(
        stop,
        f"after {products} the flat end is not resolved: read the value as a lower bound{left_out}.",
    )


def _excluded(reading: _Reading) -> str:
    negative, below = int((reading.values < -reading.zero).sum()), _num_below_floor(reading)
    if not negative:
        return ""
    parts = f"{negative} negative" + (f" and {below} positive but smaller" if below else "")
    return f"; left out: {parts} Ritz values (curvature counts above {format_number(reading.floor)})"


def _num_below_floor(reading: _Reading) -> int:
    return int(((reading.values > reading.zero) & ~reading.counted).sum())


def _details(reading: _Reading, state: LanczosState) -> dict[str, Any]:
    values, counted, kappa = reading.values, reading.counted, reading.kappa
    resolved = values[counted & (reading.residuals < values)]
    gd, cg = (kappa - 1) / (kappa + 1), (math.sqrt(kappa) - 1) / (math.sqrt(kappa) + 1)
    return {
        "largest": float(values[-1]),
        "smallest_effective": reading.smallest,
        "condition_number": float(resolved[-1] / resolved[0]) if len(resolved) else float("nan"),
        "predicted_gain": float(reading.gains.sum()),
        "missing_gain": reading.missing,
        "num_negative": int((values < -reading.zero).sum()),
        "num_zero": int((np.abs(values) <= reading.zero).sum()),
        "num_below_floor": _num_below_floor(reading),
        "floor": reading.floor,
        "num_excluded_small": int((counted & (values < reading.smallest)).sum()),
        "gd_rate": gd,
        "cg_rate": cg,
        "gd_steps_per_decade": _steps_per_decade(gd),
        "cg_steps_per_decade": _steps_per_decade(cg),
        "ritz_values": values,
        "residuals": reading.residuals,
        "gains": reading.gains,
        "gradient_norm": state.start_norm,
        "products": state.num_steps,
    }


def _steps_per_decade(rate: float) -> float:
    """Steps that divide the error by ten at that linear rate.

    >>> round(_steps_per_decade(0.1), 9), _steps_per_decade(0.0)
    (1.0, 0.0)
    """
    if not rate > 0:
        return 0.0 if rate == 0 else float("nan")
    return math.log(10) / -math.log(rate) if rate < 1 else math.inf

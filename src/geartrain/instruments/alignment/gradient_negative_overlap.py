"""Share of the gradient that lies in directions of negative curvature.

Zero in a convex valley; where it is not, the parabola of the loss has no minimum along part of the gradient and
Newton's step is not defined there. Misleads inside the bulk: what lies closer to zero than the Krylov space
resolves has no certain sign, so a share only means something below a stated threshold and comes with the
bracket that the quadrature proves. References: Golub and Meurant (2010), §6.2; Alain et al. (2019),
arXiv:1902.02366. Ledger: 0.2.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from geartrain.budget import Budget
from geartrain.errors import InputError, NonFiniteError
from geartrain.instruments import _curvature
from geartrain.instruments._answers import answer, no_answer, not_applicable
from geartrain.instruments._base import instrument
from geartrain.linalg import LanczosState, Meter, Stop, lanczos_init, lanczos_run
from geartrain.linalg.slq import Quadrature
from geartrain.records import Cost, Measurement, State, format_number

_NAME = "gradient_negative_overlap"
_STEPS = 60


def _price(objective: Any, *, num_products: int = _STEPS, budget: Any = None, **options: Any) -> Cost:
    limit = Budget.of(budget).products
    products = min(num_products, objective.num_params, num_products if limit is None else limit)
    return Cost(gradients=2, products=products, peak_bytes=_curvature.bytes_of(objective, products))


@instrument(needs="objective", unit="1", price=_price)
def gradient_negative_overlap(
    objective: Any,
    *,
    num_products: int = _STEPS,
    negative_tol: float = 1e-3,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Share of |g|² along eigenvectors of the Hessian with eigenvalue below -negative_tol·|λ|max.

    Lanczos from the gradient gives the Gauss quadrature of exactly this measure, Σ (uᵢᵀg)²/|g|² at λᵢ; the Gauss-Radau
    rule with a node at the threshold brackets the mass below it from both sides.

    **Cost** two gradients and ``num_products`` products, and as many vectors.

    **Assumes** that the loss is twice differentiable and the same at every evaluation.

    **Misleads** where the bracket is wide (then raise ``num_products``), and as a reason for slowness: along
    negative curvature gradient descent speeds up by itself. Components of exactly zero share, as at a saddle
    approached along its valley, are not seen although the curvature is there (`negative_curvature` sees it).

    Args:
        objective: What to measure; an `Objective`.
        num_products: Lanczos steps from the gradient.
        negative_tol: What counts as negative, as a fraction of the largest |eigenvalue| that the gradient sees.
        generator: Not used: nothing is random here.
        budget: Limit: products, ``"5s"`` or a `Budget`.

    Returns:
        The share, a pure number between 0 and 1: the middle of the bracket, with a standard error such that ± 2
        covers it. ``details``: ``bracket``, ``threshold`` (ℓ/θ²), ``most_negative`` and ``largest`` (Ritz
        values, ℓ/θ²), ``positive_share`` (above the threshold's mirror image), ``products``. Not applicable
        where the gradient is zero.

    Raises:
        InputError: A setting is out of range.

    References:
        Golub and Meurant (2010), *Matrices, Moments and Quadrature*, §6.2; Alain et al. (2019), arXiv:1902.02366.

    >>> import geartrain as gt
    >>> saddle = lambda model, batch: (batch @ model.weight.T ** 2).mean()
    >>> model = torch.nn.Linear(2, 1, bias=False).double()
    >>> _ = torch.nn.init.ones_(model.weight)
    >>> objective = gt.Objective(model, data=torch.tensor([[2.0, -1.0]]).double(), batch_loss=saddle)
    >>> round(float(gradient_negative_overlap(objective)), 9)
    0.2
    """
    if num_products < 1 or not 0 <= negative_tol < 1:
        raise InputError(
            f"num_products is {num_products} and negative_tol {negative_tol}; allowed: at least 1, and 0 or more and "
            "below 1."
        )
    clock = Budget.of(budget).start()
    if clock.exhausted():
        return no_answer(_NAME, "The budget allows no product.", state=State.OUT_OF_BUDGET)
    try:
        gradient = objective.gradient()
        if not float(gradient.double().norm()) > 0:
            return not_applicable(_NAME, "The gradient is zero, so it has no direction.")
        meter = Meter(
            objective.hvp,
            objective.num_params,
            **_curvature.limits_of(clock, None),
            **_curvature.place_of(objective),
        )
        state = lanczos_init(meter, gradient.double() / gradient.double().norm())
        stop = lanczos_run(meter, state, lambda s: s.num_steps >= num_products, restart=False)
    except NonFiniteError as error:
        return no_answer(_NAME, str(error), state=State.NON_FINITE)
    if not state.alpha:
        return no_answer(_NAME, "The budget allows no product.", state=State.OUT_OF_BUDGET)
    return _measurement(state, stop, negative_tol, num_products)


def _measurement(state: LanczosState, stop: Stop, negative_tol: float, wanted: int) -> Measurement:
    measure = Quadrature.of(state)
    nodes, scale = measure.nodes, float(np.abs(measure.nodes).max())
    # Without a tolerance rounding would decide the sign of zero modes.
    threshold = max(negative_tol * scale, state.rounding)
    low, high = measure.bracket(-threshold)
    _, below = measure.bracket(threshold)
    value = (low + high) / 2
    details = {
        "bracket": (low, high),
        "threshold": -threshold,
        "most_negative": float(nodes[0]),
        "largest": float(nodes[-1]),
        "positive_share": 1 - below,
        "products": state.num_steps,
    }
    products = _curvature.count(state.num_steps, "product")
    share = f"{100 * low:.3g} to {100 * high:.3g} % of |gradient|²"
    said = f"{share} lies below a curvature of {format_number(-threshold, 2)}"
    if state.closed or stop is Stop.COMPLETE:
        return answer(
            _NAME,
            value,
            f"{said}: all that the gradient sees ({products}).",
            state=State.EXACT,
            details=details,
        )
    cut = state.num_steps < wanted
    ended = State.OUT_OF_BUDGET if cut else State.ESTIMATE
    return answer(_NAME, value, f"{said} ({products}).", error=(high - low) / 4, state=ended, details=details)

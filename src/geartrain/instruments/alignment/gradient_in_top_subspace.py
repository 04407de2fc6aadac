"""Share of the gradient that lies in the few sharpest directions.

In classifiers it is large after a short while: the gradient lives where the curvature is, although the loss there is
soon gained and training goes on elsewhere. Misleads when read as where progress is made: those components oscillate.
Reference: Gur-Ari, Roberts, Dyer (2018), *Gradient descent happens in a tiny subspace*, arXiv:1812.04754. Ledger: 4.11.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from geartrain.budget import Budget
from geartrain.errors import NonFiniteError, UnsupportedError
from geartrain.instruments import _curvature
from geartrain.instruments._answers import answer, no_answer, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments.alignment import _subspace
from geartrain.instruments.alignment._subspace import Subspace
from geartrain.records import Cost, Measurement, State, format_number

_NAME = "gradient_in_top_subspace"


def _price(objective: Any, k: int = 10, *, budget: Any = None, **options: Any) -> Cost:
    limit, expected = Budget.of(budget).products, _subspace.expected_products(objective, k)
    products = expected if limit is None else min(expected, limit)
    return Cost(gradients=2, products=products, peak_bytes=_curvature.bytes_of(objective, products))


@instrument(needs="objective", unit="1", price=_price)
def gradient_in_top_subspace(
    objective: Any,
    k: int = 10,
    *,
    operator: _curvature.Operator = "hessian",
    tol: float = 1e-4,
    confirm: bool = False,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Share of |g|² in the span of the k leading eigenvectors of the Hessian: ‖U g‖²/‖g‖².

    A direction drawn at random has k/n of itself there in the mean (``chance``), distributed as Beta(k/2, (n-k)/2).

    **Cost** two gradients and one Krylov run: about 2 to 5 (k + 1) products and as many vectors.

    **Assumes** that the loss is twice differentiable and the same at every evaluation, and that no eigenvalue
    was missed.

    **Misleads** on a small sample of the data, whose gradient is mostly noise, and noise lies in the sharp
    directions of its own Hessian. Where eigenvalues k and k + 1 are close the space is arbitrary; the error
    says so. Of an eigenvalue that occurs several times copies may be missed; ``confirm`` looks for them. The usual k
    is the number of classes.

    Args:
        objective: What to measure; an `Objective`.
        k: Dimension of the space; at most half of the parameters are used.
        operator: ``"hessian"``, ``"ggn"``, ``"fisher"``, ``"fisher_mc"``, ``"empirical_fisher"`` or ``"covariance"``.
        tol: Residual at which an eigenpair has converged, as a fraction of the largest |eigenvalue|.
        confirm: Search again with everything found taken out (about twice the cost).
        generator: Source of the start; a fixed seed if ``None``.
        budget: Limit: products, ``"5s"`` or a `Budget`.

    Returns:
        The share, a pure number between 0 and 1. The error given is that of the Davis-Kahan bound (residual over gap),
        NaN where it exceeds 1. ``details``: ``chance``, ``chance_spread``, ``z``, ``shares`` (of each
        eigenvector), ``eigenvalues``, ``gap``, ``davis_kahan`` (bound on the tilt), ``k``
        (dimension used), ``gradient_norm``, ``products``,
        ``operator``. Not applicable where the gradient is zero or the matrix has no positive eigenvalue.

    Raises:
        InputError: A setting is out of range.

    References:
        Gur-Ari et al. (2018), arXiv:1812.04754, eq. (2); Davis and Kahan (1970).

    >>> import geartrain as gt
    >>> model = torch.nn.Linear(4, 1, bias=False).double()
    >>> _ = torch.nn.init.ones_(model.weight)
    >>> data = torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0])).double(), torch.zeros(4, 1).double()
    >>> objective = gt.Objective(model, lambda out, y: ((out - y) ** 2).mean(), data)
    >>> round(float(gradient_in_top_subspace(objective, 1)), 6) == round(4**4 / (4**4 + 3**4 + 2**4 + 1), 6)
    True
    """
    _subspace.check(k, tol)
    clock = Budget.of(budget).start()
    size = _subspace.dimension(k, objective.num_params)
    if size < 1:
        return not_applicable(_NAME, "There is only one parameter, so the gradient has one direction.")
    if clock.exhausted():
        return no_answer(_NAME, "The budget allows no product.", state=State.OUT_OF_BUDGET)
    try:
        gradient = objective.gradient()
        if not float(gradient.double().norm()) > 0:
            return not_applicable(_NAME, "The gradient is zero, so it has no direction.")
        limit = _subspace.limit_of(size) if clock.products is None else clock.products
        space = _subspace.top_subspace(
            _curvature.matvec_of(objective, operator, generator),
            objective,
            size,
            tol=tol,
            max_products=limit,
            should_stop=clock.exhausted,
            generator=generator,
            confirm=confirm,
        )
    except UnsupportedError as error:
        return not_applicable(_NAME, str(error))
    except NonFiniteError as error:
        return no_answer(_NAME, str(error), state=State.NON_FINITE)
    if not len(space):
        return _no_space(space, operator)
    return _measurement(space, gradient, objective.num_params, operator)


def _no_space(space: Subspace, operator: str) -> Measurement:
    if space.complete:
        return not_applicable(_NAME, f"The matrix {operator!r} has no positive eigenvalue.")
    return no_answer(_NAME, "No eigenvalue was found within the budget.", state=State.OUT_OF_BUDGET)


def _measurement(space: Subspace, gradient: torch.Tensor, n: int, operator: str) -> Measurement:
    # Scaled first: the squares of a tiny gradient would vanish in single precision.
    direction = gradient.double() / gradient.double().norm()
    shares = ((space.vectors.double() @ direction) ** 2).cpu().numpy()
    value, k = min(float(shares.sum()), 1.0), len(space)
    chance, spread = k / n, _subspace.share_spread(k, n)
    details = {
        "chance": chance,
        "chance_spread": spread,
        "z": _subspace.standardised(value, chance, spread),
        "shares": shares,
        "eigenvalues": space.values,
        "gap": space.gap,
        "davis_kahan": space.tilt,
        "k": k,
        "gradient_norm": float(gradient.double().norm()),
        "products": space.products,
        "operator": operator,
    }
    said = f"Chance is {format_number(chance)} ± {format_number(spread)}"
    if not space.complete:
        sentence = f"The budget ended the search first. {said}."
        return answer(_NAME, value, sentence, error=math.nan, state=State.OUT_OF_BUDGET, details=details)
    if space.tilt >= 1:
        sentence = (
            f"{said}; the eigenvalues around the {k}th lie too close together: the space is not determined."
        )
        return answer(_NAME, value, sentence, error=math.nan, state=State.NOT_CONVERGED, details=details)
    error = _subspace.error_of_share(value, space.tilt)
    sentence = f"{said}; by Davis and Kahan the share is known to {format_number(error, 2)}."
    return answer(_NAME, value, sentence, error=error, state=State.CONVERGED, details=details)

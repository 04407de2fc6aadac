"""Overlap of the leading eigenspaces of two curvature matrices, beside what two random subspaces would show.

By default the Hessian and the covariance of the per-example gradients: whether the noise of training points
where the loss is sharp. Misleads where the subspace is not determined (eigenvalues k and k + 1 nearly equal):
the Davis-Kahan bound is given with every overlap. References: Davis and Kahan (1970); Thomas et al. (2020),
arXiv:1906.07774. Ledger: 1.34, 1.35, 4.10, 4.11.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from geartrain.budget import Budget, Clock
from geartrain.errors import NonFiniteError, UnsupportedError
from geartrain.instruments import _curvature
from geartrain.instruments._answers import answer, no_answer, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments.alignment import _subspace
from geartrain.instruments.alignment._subspace import Subspace
from geartrain.linalg.operators import default_generator
from geartrain.records import Cost, Measurement, State, format_number

_NAME = "eigenbasis_overlap"


def _price(
    objective: Any,
    k: int = 10,
    *,
    first: str = "hessian",
    second: str = "covariance",
    budget: Any = None,
    **options: Any,
) -> Cost:
    limit = Budget.of(budget).products
    expected = 2 * _subspace.expected_products(objective, k)
    products = expected if limit is None else min(expected, limit)
    held = max(_curvature.bytes_of_operator(objective, o) for o in (first, second))
    return Cost(gradients=2, products=products, peak_bytes=held + _curvature.bytes_of(objective, products))


@instrument(needs="objective", unit="1", price=_price)
def eigenbasis_overlap(
    objective: Any,
    k: int = 10,
    *,
    first: _curvature.Operator = "hessian",
    second: _curvature.Operator = "covariance",
    tol: float = 1e-4,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Mean squared cosine of the principal angles between the top-k eigenspaces of two matrices: ‖U Vᵀ‖_F²/k.

    1 where they are the same space, k/n in the mean for random ones (``chance``), with a standard deviation
    that is known in closed form, so that ``z`` says how far from chance the overlap is.

    **Cost** two Krylov runs: about 4 to 10 (k + 1) products and a pass of per-example gradients; as many vectors.

    **Assumes** that the loss is twice differentiable and the same at every evaluation, and that no eigenvalue
    was missed.

    **Misleads** as evidence that the matrices commute: only the spaces are compared, not the vectors in them
    (`commutator_norm` does). Where the gap behind eigenvalue k is small the space itself is arbitrary and the error
    says so; another k may be better. Parameters that nothing depends on lower the chance level without meaning.

    Args:
        objective: What to measure; an `Objective`.
        k: Dimension of the spaces; at most half of the parameters, and the rank of both matrices, are used.
        first: ``"hessian"``, ``"ggn"``, ``"fisher"``, ``"fisher_mc"``, ``"empirical_fisher"`` or ``"covariance"``.
        second: The other, likewise.
        tol: Residual at which an eigenpair has converged, as a fraction of the largest |eigenvalue|.
        generator: Source of the starts; a fixed seed if ``None``.
        budget: Limit, half of it for each matrix: products, ``"5s"`` or a `Budget`.

    Returns:
        The overlap, a pure number between 0 and 1. The error given is the Davis-Kahan bound (residual over gap, both
        sides added), NaN where it exceeds 1. ``details``: ``chance``, ``chance_spread``, ``z``, ``cosines`` (of the
        principal angles, largest first), ``k`` (dimension used), ``first_values`` and ``second_values`` (eigenvalues),
        ``first_gap`` and ``second_gap``, ``davis_kahan``, ``first_operator``, ``second_operator``, ``products``.
        Not applicable where per-example gradients do not exist, or a matrix has no positive eigenvalue.

    Raises:
        InputError: A setting is out of range.

    References:
        Björck and Golub (1973); Davis and Kahan (1970), sin Θ theorem; Thomas et al. (2020), arXiv:1906.07774.

    >>> import geartrain as gt
    >>> model = torch.nn.Linear(4, 1, bias=False).double()
    >>> data = torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0])).double(), torch.ones(4, 1).double()
    >>> objective = gt.Objective(model, lambda out, y: ((out - y) ** 2).mean(), data)
    >>> round(float(eigenbasis_overlap(objective, 2, second="ggn")), 9)
    1.0
    """
    _subspace.check(k, tol)
    clock, source = Budget.of(budget).start(), default_generator(generator)
    size = _subspace.dimension(k, objective.num_params)
    if size < 1:
        return not_applicable(_NAME, "There is only one parameter, so there are no directions to compare.")
    if clock.exhausted():
        return no_answer(_NAME, "The budget allows no product.", state=State.OUT_OF_BUDGET)
    try:
        spaces = _spaces(objective, (first, second), size, tol, clock, source)
    except UnsupportedError as error:
        return not_applicable(_NAME, str(error))
    except NonFiniteError as error:
        return no_answer(_NAME, str(error), state=State.NON_FINITE)
    for name, space in zip((first, second), spaces, strict=True):
        if not len(space):
            state = State.NOT_APPLICABLE if space.complete else State.OUT_OF_BUDGET
            reason = (
                "has no positive eigenvalue" if space.complete else "found no eigenvalue within the budget"
            )
            return no_answer(_NAME, f"The matrix {name!r} {reason}.", state=state)
    return _measurement(
        spaces[0], spaces[1], objective.num_params, {"first_operator": first, "second_operator": second}
    )


def _spaces(
    objective: Any, operators: tuple[str, str], size: int, tol: float, clock: Clock, source: torch.Generator
) -> list[Subspace]:
    spaces: list[Subspace] = []
    for operator in operators:
        limit = _subspace.limit_of(size) if clock.products is None else clock.products // 2
        spaces.append(
            _subspace.top_subspace(
                _curvature.matvec_of(objective, operator, source),
                objective,
                size,
                tol=tol,
                max_products=limit,
                should_stop=lambda: clock.deadline is not None and clock.exhausted(),
                generator=source,
            )
        )
    return spaces


def _measurement(one: Subspace, two: Subspace, n: int, names: dict[str, str]) -> Measurement:
    k = min(len(one), len(two))
    cosines = torch.linalg.svdvals((one.vectors @ two.vectors.T).double()).clamp(max=1.0).cpu().numpy()
    value = float((cosines**2).sum()) / k
    chance, spread = max(len(one), len(two)) / n, _subspace.overlap_spread(len(one), len(two), n)
    bound = one.tilt + two.tilt
    details = {
        "chance": chance,
        "chance_spread": spread,
        "z": _subspace.standardised(value, chance, spread),
        "cosines": cosines,
        "k": k,
        "first_values": one.values,
        "second_values": two.values,
        "first_gap": one.gap,
        "second_gap": two.gap,
        "davis_kahan": bound,
        "products": one.products + two.products,
        **names,
    }
    said = f"Chance is {format_number(chance)} ± {format_number(spread)}"
    if not (one.complete and two.complete):
        return answer(
            _NAME,
            value,
            f"The budget ended the search first. {said}.",
            error=math.nan,
            state=State.OUT_OF_BUDGET,
            details=details,
        )
    if bound >= 1:
        sentence = (
            f"{said}; the eigenvalues around the {k}th lie too close together: the space is not determined."
        )
        return answer(_NAME, value, sentence, error=math.nan, state=State.NOT_CONVERGED, details=details)
    error = _subspace.error_of_share(value, bound)
    sentence = f"{said}; by Davis and Kahan the overlap is known to {format_number(error, 2)}."
    return answer(_NAME, value, sentence, error=error, state=State.CONVERGED, details=details)

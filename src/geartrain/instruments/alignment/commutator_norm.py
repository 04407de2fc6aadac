"""How far two curvature matrices are from commuting, that is from having one eigenbasis in common.

By default the Hessian and the covariance of the per-example gradients. Misleads for matrices of low rank: two
thin ranges at right angles commute as perfectly as two equal matrices, so the number is read beside
`eigenbasis_overlap`. References: Böttcher and Wenzel (2008) for the largest possible value; Meyer et al.
(2021), arXiv:2010.09649 for the estimator. Ledger: 4.10.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geartrain.budget import Budget, Clock
from geartrain.errors import InputError, NonFiniteError, UnsupportedError
from geartrain.instruments import _curvature
from geartrain.instruments._answers import answer, no_answer, not_applicable
from geartrain.instruments._base import instrument
from geartrain.linalg.operators import Meter, Stop, default_generator
from geartrain.records import Cost, Measurement, State, format_number

_NAME = "commutator_norm"
_RANK, _PROBES = 4, 10
_LEAST_PROBES = 3


def _plan(rank: int, num_probes: int) -> int:
    """Products of both matrices together: 2 per sketched direction, then 4 for each vector of the basis and probe."""
    return 2 * rank + 4 * 2 * rank + 4 * num_probes


def _price(
    objective: Any,
    *,
    first: str = "hessian",
    second: str = "covariance",
    rank: int = _RANK,
    num_probes: int = _PROBES,
    budget: Any = None,
    **options: Any,
) -> Cost:
    limit = Budget.of(budget).products
    planned = min(_plan(rank, num_probes), 2 * objective.num_params)
    held = max(_curvature.bytes_of_operator(objective, o) for o in (first, second))
    held += _curvature.bytes_of(objective, 6 * rank + 6)
    return Cost(gradients=2, products=planned if limit is None else min(planned, limit), peak_bytes=held)


@instrument(needs="objective", unit="1", price=_price)
def commutator_norm(
    objective: Any,
    *,
    first: _curvature.Operator = "hessian",
    second: _curvature.Operator = "covariance",
    rank: int = _RANK,
    num_probes: int = _PROBES,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Relative size of the commutator of two matrices: ‖AB - BA‖_F / (2 ‖A‖_F ‖B‖_F).

    0 if and only if they have an eigenbasis in common; never above 1/√2. The squared norms are tr MᵀM = ‖M Q‖² +
    E‖M (I - QQᵀ) z‖² over random signs z, Q an orthonormal basis of a sketch of both ranges, which takes the outliers
    out of the random part.

    **Cost** 10 ``rank`` + 4 ``num_probes`` products, both matrices together, and a pass of per-example gradients; 2 n
    products where that is fewer (exact). About 6 ``rank`` vectors.

    **Assumes** that the loss is twice differentiable and the same at every evaluation.

    **Misleads** as a measure of common directions: matrices with thin, mutually orthogonal ranges commute, and so do
    random ones nearly. ``chance`` is what the same two spectra show in random relative position; only a value well
    *below* it speaks for a common eigenbasis.

    Args:
        objective: What to measure; an `Objective`.
        first: ``"hessian"``, ``"ggn"``, ``"fisher"``, ``"fisher_mc"``, ``"empirical_fisher"`` or ``"covariance"``.
        second: The other, likewise.
        rank: Directions sketched from each matrix.
        num_probes: Random vectors for the rest.
        generator: Source of randomness; a fixed seed if ``None``.
        budget: Limit: products, ``"5s"`` or a `Budget`.

    Returns:
        The ratio, a pure number between 0 and 0.707, with a jackknife standard error over the probes. ``details``:
        ``chance`` (root mean square over random relative orientations, to leading order in 1/n), ``first_norm`` and
        ``second_norm`` (Frobenius), ``first_trace`` and ``second_trace``, ``first_operator``, ``second_operator``,
        ``products``. Not applicable where per-example gradients do not exist, or a matrix is zero.

    Raises:
        InputError: A setting is out of range.

    References:
        Böttcher and Wenzel (2008), *The Frobenius norm and the commutator*; Meyer et al. (2021), arXiv:2010.09649.

    >>> import geartrain as gt
    >>> model = torch.nn.Linear(3, 1, bias=False).double()
    >>> data = torch.diag(torch.tensor([3.0, 2.0, 1.0])).double(), torch.ones(3, 1).double()
    >>> objective = gt.Objective(model, lambda out, y: ((out - y) ** 2).mean(), data)
    >>> round(float(commutator_norm(objective, second="empirical_fisher")), 12)
    0.0
    """
    if rank < 1 or num_probes < _LEAST_PROBES:
        raise InputError(
            f"rank is {rank} and num_probes {num_probes}; allowed: at least 1 and {_LEAST_PROBES}."
        )
    clock, source = Budget.of(budget).start(), default_generator(generator)
    names = {"first_operator": first, "second_operator": second}
    try:
        pair = _Pair.of(objective, first, second, clock, source)
        sums = _sums(pair, rank, num_probes, clock, source)
    except UnsupportedError as error:
        return not_applicable(_NAME, str(error))
    except NonFiniteError as error:
        return no_answer(_NAME, str(error), state=State.NON_FINITE)
    if sums is None:
        least = min(_plan(1, _LEAST_PROBES), 2 * objective.num_params)
        sentence = f"The budget ended it too early; it needs at least {least} products."
        return no_answer(_NAME, sentence, state=State.OUT_OF_BUDGET, details=names)
    return _measurement(sums, objective.num_params, {**names, "products": pair.products})


@dataclass(frozen=True)
class _Pair:
    """Both matrices, on one count of products."""

    first: Meter
    second: Meter

    @staticmethod
    def of(objective: Any, first: str, second: str, clock: Clock, source: torch.Generator) -> _Pair:
        def meter(operator: str) -> Meter:
            return Meter(
                _curvature.matvec_of(objective, operator, source),
                objective.num_params,
                should_stop=lambda: clock.deadline is not None and clock.exhausted(),
                **_curvature.place_of(objective),
            )

        return _Pair(meter(first), meter(second))

    @property
    def products(self) -> int:
        return self.first.products + self.second.products

    def row(self, v: Tensor) -> np.ndarray:
        """‖A v‖², ‖B v‖², ‖(AB - BA) v‖², vᵀ A v, vᵀ B v. **Cost**: four products."""
        a, b = self.first(v), self.second(v)
        difference = (self.first(b) - self.second(a)).double()
        a, b, v = a.double(), b.double(), v.double()
        return np.array([float(x) for x in (a @ a, b @ b, difference @ difference, v @ a, v @ b)])


@dataclass(frozen=True)
class _Sums:
    """Σ over the basis and samples of the rest, in the order of `_Pair.row`.

    Attributes:
        known: Part that is exact, shape (5,).
        samples: Of the rest, shape (probes, 5); none where everything is known.
        cut: Whether fewer probes than planned were taken.
    """

    known: np.ndarray
    samples: np.ndarray
    cut: bool


def _sums(pair: _Pair, rank: int, num_probes: int, clock: Clock, source: torch.Generator) -> _Sums | None:
    n, planned = pair.first.n, _plan(rank, num_probes)
    allowed = planned if clock.products is None else clock.products
    if 2 * n <= min(planned, allowed):
        return _dense(pair)
    allowed = min(planned, allowed)
    while rank > 1 and _plan(rank, _LEAST_PROBES) > allowed:
        rank -= 1
    probes = min(num_probes, (allowed - 10 * rank) // 4)
    if probes < _LEAST_PROBES:
        return None
    basis = _sketch(pair, rank, source)
    known = np.zeros(5)
    for vector in basis if basis is not None else ():
        if pair.first.blocked() is Stop.INTERRUPTED:
            return None
        known += pair.row(vector)
    samples = []
    while basis is not None and len(samples) < probes and pair.first.blocked() is None:
        signs = pair.first.random(source).sign()
        samples.append(pair.row(signs - basis.T @ (basis @ signs)))
    if len(samples) < _LEAST_PROBES:
        return None
    return _Sums(known, np.array(samples), len(samples) < num_probes)


def _sketch(pair: _Pair, rank: int, source: torch.Generator) -> Tensor | None:
    """Orthonormal rows near the leading eigenvectors of both, shape (2 rank, n); ``None`` if the time is over."""
    images = []
    for meter in (pair.first, pair.second):
        for _ in range(rank):
            if meter.blocked() is not None:
                return None
            image = meter(meter.random(source))
            size = torch.linalg.vector_norm(image)
            images.append(image / size if size > 0 else meter.random(source))
    return torch.linalg.qr(torch.stack(images).T)[0].T


def _dense(pair: _Pair) -> _Sums | None:
    """Both matrices written out, column by column."""
    matrices = []
    for meter in (pair.first, pair.second):
        unit, columns = torch.eye(meter.n, dtype=meter.dtype, device=meter.device), []
        for row in unit:
            if meter.blocked() is not None:
                return None
            columns.append(meter(row).double())
        matrix = torch.stack(columns)
        matrices.append((matrix + matrix.T) / 2)
    a, b = matrices
    commutator = a @ b - b @ a
    known = [(m**2).sum() for m in (a, b, commutator)] + [m.trace() for m in (a, b)]
    return _Sums(np.array([float(x) for x in known]), np.zeros((0, 5)), False)


def _measurement(sums: _Sums, n: int, details: dict[str, Any]) -> Measurement:
    count = len(sums.samples)
    totals = sums.known + (sums.samples.mean(0) if count else 0.0)
    if not (totals[0] > 0 and totals[1] > 0):
        return not_applicable(_NAME, "One of the matrices is zero.", **details)
    value = _ratio(totals)
    details = {
        "chance": _chance(totals, n),
        "first_norm": math.sqrt(totals[0]),
        "second_norm": math.sqrt(totals[1]),
        "first_trace": float(totals[3]),
        "second_trace": float(totals[4]),
        **details,
    }
    said = f"In random relative position the same spectra would show {format_number(details['chance'])}"
    if not count:
        return answer(_NAME, value, f"{said}; exact.", state=State.EXACT, details=details)
    state = State.OUT_OF_BUDGET if sums.cut else State.ESTIMATE
    sentence = f"{said}; from {_curvature.count(count, 'random vector')} beside a sketch of both ranges."
    return answer(_NAME, value, sentence, error=_jackknife(sums, _ratio), state=state, details=details)


def _ratio(totals: np.ndarray) -> float:
    return math.sqrt(totals[2]) / (2 * math.sqrt(totals[0]) * math.sqrt(totals[1]))


def _jackknife(sums: _Sums, function: Callable[[np.ndarray], float]) -> float:
    count, total = len(sums.samples), sums.samples.sum(0)
    without = np.array([function(sums.known + (total - row) / (count - 1)) for row in sums.samples])
    return math.sqrt((count - 1) / count * float(((without - without.mean()) ** 2).sum()))


def _chance(totals: np.ndarray, n: int) -> float:
    """Root mean square of the ratio when one eigenbasis is turned at random, for large n.

    Multiples of the identity commute with everything: of each matrix only the share 1 - (tr)²/(n ‖·‖²) counts, and
    E‖AB - BA‖² = 2 ‖A₀‖² ‖B₀‖²/n for the parts without trace.
    """
    shares = [max(1 - totals[3 + i] ** 2 / (n * totals[i]), 0.0) for i in (0, 1)]
    return math.sqrt(shares[0] * shares[1] / (2 * n))

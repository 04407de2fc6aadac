"""Most negative eigenvalues of the Hessian, and what can be certified where none is found.

A negative eigenvalue that was found is certain; that there is none can only be said with a probability and down
to a stated size, which is given here. Misleads where a tiny negative curvature is taken for a saddle: trained
networks nearly always have some, a thousandth of the largest. Reference: Kuczyński and Woźniakowski (1992),
*Estimating the largest eigenvalue by the power and Lanczos algorithms with a random start*, SIAM J. Matrix
Anal. 13. Ledger: 0.2.
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
from geartrain.linalg import LanczosState, Meter, Ritz, Stop, lanczos_init, lanczos_ritz, lanczos_run
from geartrain.records import Cost, Measurement, State, Status, format_number

_MAX_PRODUCTS = 100
# Rounding of products, in units of the machine precision times the largest eigenvalue.
_NOISE_UNITS = 100.0


def _price(
    objective: Any, k: int = 3, *, max_products: int = _MAX_PRODUCTS, budget: Any = None, **options: Any
) -> Cost:
    limit = Budget.of(budget).products
    products = min(objective.num_params, max_products if limit is None else limit)
    # A run that meets clear negative curvature ends earlier.
    return Cost(gradients=1, products=0.75 * products, peak_bytes=_curvature.bytes_of(objective, products))


@instrument(needs="objective", unit="ℓ/θ²", price=_price)
def negative_curvature(
    objective: Any,
    k: int = 3,
    *,
    tol: float = 1e-3,
    confidence: float = 0.99,
    max_products: int = _MAX_PRODUCTS,
    eigenvectors: bool = False,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Most negative eigenvalues of the Hessian with residuals, and a bound on how negative any other can be.

    Lanczos from a random start. Every Ritz value is an upper bound of λmin. After m steps in n dimensions, with
    probability ``confidence`` = 1 - δ, λmin >= θmin - ε (θmax - θmin)/(1 - 2ε) with
    √ε = ln(1.648 √n · 2/δ)/(2m - 1) (Kuczyński and Woźniakowski 1992, theorem 4.2, for both ends).

    **Cost** at most ``max_products`` products and as many vectors in memory; fewer once the k values have converged and
    are clearly negative.

    **Assumes** that the loss is twice differentiable and the same at every evaluation.

    **Misleads** when read as yes or no: the question is how negative, beside the largest eigenvalue (``ratio``). The
    bound falls off like 1/m² only: to exclude a millionth of the largest takes thousands of products.

    Args:
        objective: What to measure; an `Objective`.
        k: How many.
        tol: Residual at which a value has converged, as a fraction of the largest |eigenvalue|.
        confidence: Probability with which the lower bound holds, over the random start.
        max_products: Limit on products where the budget sets none.
        eigenvectors: Also return the vectors, in ``details``.
        generator: Source of the start; a fixed seed if ``None``.
        budget: Limit: products, ``"5s"`` or a `Budget`.

    Returns:
        The k smallest eigenvalues, most negative first, dims ``("eig",)``, unit ℓ/θ², NaN where not reached; they are
        positive where the Hessian is. The error given is the residual: an eigenvalue lies that near. ``details``:
        ``certificate`` (``"negative"``: λmin < 0 for certain; ``"none"``: all eigenvalues found, none negative;
        ``"bounded"``: none found, see ``lower_bound``), ``lower_bound`` (of λmin, with ``confidence``), ``ratio`` (θmin
        over the largest |eigenvalue|), ``largest``, ``num_negative_at_least``, ``eigenvectors`` (rows, or ``None``),
        ``products``.

    Raises:
        InputError: A setting is out of range.

    References:
        Kuczyński and Woźniakowski (1992); Royer, O'Neill, Wright (2020), arXiv:1803.02924, lemma 9.

    >>> import geartrain as gt
    >>> saddle = lambda model, batch: (batch @ model.weight.T ** 2).mean()
    >>> model = torch.nn.Linear(2, 1, bias=False).double()
    >>> objective = gt.Objective(model, data=torch.tensor([[1.0, -0.5]]).double(), batch_loss=saddle)
    >>> negative_curvature(objective, k=1).value.round(9).tolist()
    [-1.0]
    """
    _check(k, tol, confidence)
    size = min(k, objective.num_params)
    clock = Budget.of(budget).start()
    meter = Meter(
        objective.hvp,
        objective.num_params,
        **_curvature.limits_of(clock, max_products),
        **_curvature.place_of(objective),
    )
    state = lanczos_init(meter, None, generator)
    try:
        stop = lanczos_run(meter, state, _StopRule(size, tol), generator=generator)
    except NonFiniteError as error:
        status = Status(State.NON_FINITE, str(error))
        return _curvature.nothing("negative_curvature", "ℓ/θ²", status, (size,), ("eig",))
    if not state.alpha:
        status = Status(State.OUT_OF_BUDGET, "The budget allows no product.")
        return _curvature.nothing("negative_curvature", "ℓ/θ²", status, (size,), ("eig",))
    reading = _Reading.of(state, confidence)
    vectors = _vectors(state, reading.ritz, size) if eigenvectors else None
    return Measurement(
        "negative_curvature",
        _curvature.padded(reading.ritz.values[:size], size),
        "ℓ/θ²",
        _status(reading, state, stop, tol, confidence),
        standard_error=_curvature.padded(reading.ritz.residuals[:size], size),
        dims=("eig",),
        coords={"eig": np.arange(size)},
        cost=Cost(peak_bytes=state.basis.bytes),
        details={**reading.details(), "eigenvectors": vectors, "products": meter.products},
    )


def _check(k: int, tol: float, confidence: float) -> None:
    if k < 1:
        raise InputError(f"k is {k}; allowed: 1 or more.")
    if not 0 < tol < 1 or not 0 < confidence < 1:
        raise InputError(f"tol is {tol} and confidence {confidence}; allowed: between 0 and 1.")


def _vectors(state: LanczosState, ritz: Ritz, size: int) -> np.ndarray:
    coefficients = np.zeros((len(state.basis), min(size, len(ritz.values))))
    coefficients[: len(ritz.values)] = ritz.vectors[: len(ritz.values), : coefficients.shape[1]]
    return state.basis.combine(coefficients).cpu().numpy()


@dataclass(frozen=True)
class _Reading:
    """What a Krylov space says about the lower end of the spectrum."""

    ritz: Ritz
    noise: float
    bound: float
    complete: bool

    @staticmethod
    def of(state: LanczosState, confidence: float) -> _Reading:
        ritz = lanczos_ritz(state)
        noise = _NOISE_UNITS * torch.finfo(state.basis.dtype).eps * state.scale
        closed = next((i + 1 for i, beta in enumerate(state.beta) if beta == 0.0), None)
        # A closed space holds every eigenvalue that the random start touches: all of them, with probability one.
        slack = noise if closed else _slack(len(state.alpha), state.basis.n, confidence, ritz.values)
        complete = closed is not None or len(ritz.values) == state.basis.n
        return _Reading(ritz, noise, float(ritz.values[0]) - slack, complete)

    @property
    def certificate(self) -> str:
        if self.ritz.values[0] < -self.noise:
            return "negative"
        return "none" if self.complete else "bounded"

    def details(self) -> dict[str, Any]:
        values = self.ritz.values
        largest = float(np.abs(values).max())
        return {
            "certificate": self.certificate,
            "lower_bound": self.bound,
            "ratio": float(values[0]) / largest if largest > 0 else float("nan"),
            "largest": float(values[-1]),
            "num_negative_at_least": int((values < -self.noise).sum()),
        }


def _slack(steps: int, n: int, confidence: float, values: np.ndarray) -> float:
    """How far below the lowest Ritz value λmin may lie."""
    root = math.log(1.648 * math.sqrt(n) * 2 / (1 - confidence)) / (2 * steps - 1)
    epsilon = root**2
    if epsilon >= 0.5:
        return math.inf
    return epsilon * float(values[-1] - values[0]) / (1 - 2 * epsilon)


@dataclass
class _StopRule:
    """Ends the run once the k values have converged and are clearly negative: there is nothing left to certify."""

    k: int
    tol: float
    next_check: int = 2

    def __call__(self, state: LanczosState) -> bool:
        if state.num_steps < max(self.next_check, self.k):
            return False
        self.next_check = state.num_steps + max(1, state.num_steps // 10)
        ritz = lanczos_ritz(state)
        limit = self.tol * float(np.abs(ritz.values).max())
        return bool((ritz.residuals[: self.k] <= limit).all() and ritz.values[self.k - 1] < -limit)


def _status(reading: _Reading, state: LanczosState, stop: Stop, tol: float, confidence: float) -> Status:
    products, values = _curvature.count(state.num_steps, "product"), reading.ritz.values
    lowest = format_number(float(values[0]))
    if reading.certificate == "negative":
        said = f"λmin is at most {lowest}, for certain ({products})"
        settled = reading.ritz.residuals[0] <= tol * float(np.abs(values).max())
        state_of = State.CONVERGED if settled else State.NOT_CONVERGED
        return Status(State.EXACT if stop is Stop.COMPLETE else state_of, f"{said}.")
    if reading.complete:
        return Status(State.EXACT, f"No eigenvalue is negative: the smallest is {lowest} ({products}).")
    if not math.isfinite(reading.bound):
        return Status(
            State.OUT_OF_BUDGET, f"No negative curvature was met, but {products} are too few to bound it."
        )
    return Status(
        State.ESTIMATE,
        f"No negative curvature was met in {products}; with probability {confidence:g} no eigenvalue lies below "
        f"{format_number(reading.bound)}.",
    )

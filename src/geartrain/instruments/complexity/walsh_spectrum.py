"""Walsh spectrum: how much of a function of bits is constant, linear, pairwise, ... in its inputs.

Low degrees are simple and learnt first; a parity of k bits lies wholly at degree k. Exact by enumeration of the cube
where it is small, by sampling with an error where it is not.

Ledger: 1.8, 1.11
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from geartrain.budget import Budget
from geartrain.errors import InputError
from geartrain.instruments._answers import no_answer, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments._limits import out_of_budget, spent, stopped
from geartrain.instruments.complexity._boolean import Hypercube, hypercube, random_signs, reason
from geartrain.linalg import walsh
from geartrain.objective import Objective
from geartrain.records import Cost, Measurement, State, Status

NAME = "walsh_spectrum"
LISTED = 20
MOST_SETS = 20_000


def _price(
    objective: Any,
    *,
    samples: int = 4096,
    exact_up_to: int = 14,
    levels: tuple[float, float] | None = None,
    **options: Any,
) -> Cost:
    found = hypercube(objective, levels)
    if found is None:
        return Cost()
    points = 2**found.d if found.d <= exact_up_to else samples
    return Cost(forwards=points / objective.num_examples, peak_bytes=24 * points)


@instrument(needs="objective", unit="1", price=_price)
def walsh_spectrum(
    objective: Objective,
    *,
    samples: int = 4096,
    exact_up_to: int = 14,
    max_degree: int | None = None,
    sign: bool = False,
    levels: tuple[float, float] | None = None,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the share of the power of the model's function on {-1, 1}^d at each degree of its Fourier expansion.

    f = Σ_S f̂(S) Π_{i∈S} x_i; the share of degree k is Σ_{|S|=k} f̂(S)² / Σ_S f̂(S)². All 2^d points are evaluated where
    d ≤ ``exact_up_to``; else the mean of f(x) f(x') K_k(distance) over all pairs of sampled points is taken (unbiased;
    K_k is Krawtchouk's polynomial). Several outputs are added; two scores for two classes count as their difference.

    **Cost** 2^d or ``samples`` evaluations of the model, in evaluation mode, and as many squared additions.

    **Assumes** inputs of exactly two values, and that the uniform measure on the cube is of interest.

    **Misleads** where the data fill only part of the cube: most points then are ones that training never saw. By
    sampling, a share of a degree with far more than ``samples``² sets drowns in its error.

    Args:
        objective: What to measure; inputs of two values, shape (examples, d).
        samples: Points drawn where the cube is too large to enumerate; at least 16.
        exact_up_to: Enumerate up to this d (at most 22).
        max_degree: Highest degree reported separately when sampling; 4 if omitted.
        sign: Take the sign of a single output (of several: the indicator of the largest) instead of its value.
        levels: The two input values; found in the data if omitted.
        generator: Draws the points; a fixed seed if omitted.
        budget: Limit; fewer points are sampled in it, or none.

    Returns:
        Shares, dims ``("degree",)``; the last one is "above" when sampling. ``details``: ``power`` (Σ f̂²), ``sets`` and
        ``coefficients`` (the largest, signed, summed over outputs in quadrature where there are several),
        ``coefficient_errors``, ``mean_degree``, ``d``, ``points``. Not applicable to other inputs.

    Raises:
        InputError: A setting is out of range.

    References:
        O'Donnell (2014), Analysis of Boolean Functions, §1.4 and §2.1.

    >>> import geartrain as gt
    >>> x = torch.tensor(walsh.cube(3)).float()
    >>> model = torch.nn.Linear(3, 1)
    >>> walsh_spectrum(gt.Objective(model, torch.nn.functional.mse_loss, (x, x[:, :1]))).value[2:].round(6)
    array([0., 0.])
    """
    if samples < 16 or not 1 <= exact_up_to <= 22:
        raise InputError(
            f"samples is {samples} and exact_up_to {exact_up_to}; allowed: samples >= 16, exact_up_to 1 to 22."
        )
    clock = Budget.of(budget).start()
    found = hypercube(objective, levels)
    if found is None:
        return not_applicable(NAME, reason(objective))
    if (answer := stopped(NAME, objective, clock)) is not None:
        return answer
    exact = found.d <= exact_up_to
    points = walsh.cube(found.d) if exact else random_signs(samples, found.d, generator)
    if spent(clock, len(points) / objective.num_examples - 1e-9):
        return out_of_budget(NAME)
    values = found.values(points)
    if values is None:
        return not_applicable(NAME, "The model does not give one row of outputs per example.")
    if not np.isfinite(values).all():
        return no_answer(NAME, "An output is NaN or infinite.", state=State.NON_FINITE)
    values = _signed(values) if sign else values
    if not np.any(values):
        return not_applicable(NAME, "The function is zero everywhere, so it has no shares.")
    return _enumerated(values, found) if exact else _sampled(points, values, found, max_degree)


def _signed(values: np.ndarray) -> np.ndarray:
    if values.shape[1] == 1:
        return np.where(values > 0, 1.0, -1.0)
    return (values == values.max(1, keepdims=True)).astype(float)


def _enumerated(values: np.ndarray, found: Hypercube) -> Measurement:
    coefficients = walsh.walsh_hadamard(values) / len(values)
    squares = (coefficients**2).sum(1)
    weights = np.bincount(walsh.degrees(found.d), squares, minlength=found.d + 1)
    best = np.argsort(-squares, kind="stable")[:LISTED]
    details = {
        "power": float(weights.sum()),
        "sets": tuple(walsh.members(int(i)) for i in best),
        "coefficients": tuple(_size(coefficients[i]) for i in best),
        "coefficient_errors": (0.0,) * len(best),
        "mean_degree": float(weights @ np.arange(found.d + 1) / weights.sum()),
        "d": found.d,
        "points": len(values),
    }
    shares = weights / weights.sum()
    status = Status(State.EXACT, f"All {len(values)} points of the cube; {_words(shares)}.")
    labels = [str(k) for k in range(found.d + 1)]
    return Measurement(
        NAME, shares, "1", status, np.zeros_like(shares), ("degree",), {"degree": labels}, details=details
    )


def _sampled(points: np.ndarray, values: np.ndarray, found: Hypercube, max_degree: int | None) -> Measurement:
    top = min(found.d, 4 if max_degree is None else max_degree)
    shares, errors = walsh.sampled_weights(points, values, top)
    listed = max((k for k in range(top + 1) if len(walsh.subsets(found.d, k)) <= MOST_SETS), default=0)
    sets = walsh.subsets(found.d, listed)
    coefficients, spreads = walsh.sampled_coefficients(points, values, sets)
    best = np.argsort(-(coefficients**2).sum(1), kind="stable")[:LISTED]
    details = {
        "power": float((values**2).sum(1).mean()),
        "sets": tuple(sets[i] for i in best),
        "coefficients": tuple(_size(coefficients[i]) for i in best),
        "coefficient_errors": tuple(float(np.linalg.norm(spreads[i])) for i in best),
        "mean_degree": float("nan"),
        "d": found.d,
        "points": len(values),
    }
    status = Status(
        State.ESTIMATE, f"From {len(values)} random points of {found.d} bits; {_words(shares[:-1])}."
    )
    labels = [*map(str, range(top + 1)), f"above {top}"]
    return Measurement(NAME, shares, "1", status, errors, ("degree",), {"degree": labels}, details=details)


def _size(row: np.ndarray) -> float:
    return float(row[0]) if len(row) == 1 else float(np.linalg.norm(row))


def _words(shares: np.ndarray) -> str:
    best = int(np.argmax(shares))
    return f"degree {best} carries {shares[best]:.0%} of the power"

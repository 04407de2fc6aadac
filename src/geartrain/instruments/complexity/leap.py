"""Leap of a Boolean target: the largest number of new coordinates that must be discovered at once.

A function whose terms build on one another (x₁ + x₁x₂ + x₁x₂x₃) has leap 1 and is learnt step by step; a bare parity
of k bits has leap k, and gradient training in d dimensions needs about d^max(k-1, 1) steps for it.

Ledger: 1.8
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from scipy.stats import norm

from geartrain.budget import Budget
from geartrain.errors import InputError
from geartrain.instruments._answers import no_answer, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments._limits import out_of_budget, spent, stopped
from geartrain.instruments.complexity._boolean import Hypercube, hypercube, random_signs, reason
from geartrain.linalg import walsh
from geartrain.objective import Objective
from geartrain.records import Cost, Measurement, State, Status

NAME = "leap"
ENUMERABLE = 16
SAMPLES = 4096
MOST_SETS = 200_000
Of = Literal["targets", "model"]


def _price(objective: Any, *, of: Of = "targets", levels: Any = None, **options: Any) -> Cost:
    found = hypercube(objective, levels) if of == "model" else None
    if found is None:
        return Cost()
    points = 2**found.d if found.d <= ENUMERABLE else SAMPLES
    return Cost(forwards=points / objective.num_examples)


@instrument(needs="objective", unit="1", price=_price)
def leap(
    objective: Objective,
    *,
    of: Of = "targets",
    max_degree: int = 4,
    threshold: float | None = None,
    levels: tuple[float, float] | None = None,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the leap: min over orders of the Fourier terms of the most new coordinates that one term brings.

    Leap(f) = min_π max_i |S_π(i) minus (S_π(1) ∪ ... ∪ S_π(i-1))| over the sets S with f̂(S) ≠ 0. Taking the set with
    the fewest new coordinates each time is optimal, so the minimum is exact. Where the data hold every point of the
    cube equally often the coefficients are exact; else a term counts where it is significant at 1 % after correction
    for the number of terms tried.

    **Cost** a transform of the targets; the model is run only for ``of="model"`` (2^d or 4,096 evaluations).

    **Assumes** inputs of exactly two values, drawn uniformly.

    **Misleads** where examples are few: weak terms are missed, and a missed stepping stone makes the leap look larger,
    a missed high term smaller. Read ``unexplained``. Inputs that are not uniform mix the terms.

    Args:
        objective: What to measure; inputs of two values, shape (examples, d).
        of: ``"targets"`` of the data, or the function that the ``"model"`` computes.
        max_degree: Highest degree tried where d > 16.
        threshold: Least share of the variance that a term must carry; 0 for targets and 0.01 for a model if omitted
            (a network has a little of every term).
        levels: The two input values; found in the data if omitted.
        generator: Draws the points for a model of more than 16 inputs; a fixed seed if omitted.
        budget: Limit.

    Returns:
        The leap, a number of coordinates (0 for a constant). The error is 0 where exact and NaN where terms were
        tested. ``details``: ``terms`` (in an order that attains it), ``new`` (coordinates that each brings),
        ``coefficients``, ``unexplained`` (share of the variance outside the terms), ``degree``, ``d``.

    Raises:
        InputError: A setting is out of range.

    References:
        Abbe, Boix-Adserà, Misiakiewicz (2023), arXiv:2302.11055, Definition 1.

    >>> import geartrain as gt
    >>> x = torch.tensor(walsh.cube(3)).float()
    >>> y = x[:, :1] + x.prod(1, keepdim=True)
    >>> float(leap(gt.Objective(torch.nn.Linear(3, 1), torch.nn.functional.mse_loss, (x, y))))
    2.0
    """
    if of not in ("targets", "model"):
        raise InputError(f"of is {of!r}; allowed: 'targets', 'model'.")
    if max_degree < 1:
        raise InputError(f"max_degree is {max_degree}; it must be at least 1.")
    clock = Budget.of(budget).start()
    found = hypercube(objective, levels)
    if found is None:
        return not_applicable(NAME, reason(objective))
    if (answer := stopped(NAME, objective, clock)) is not None:
        return answer
    if spent(clock, _price(objective, of=of, levels=levels).forwards - 1e-9):
        return out_of_budget(NAME)
    points, values = _table(found, of, generator)
    if values is None:
        return not_applicable(
            NAME, "Neither targets nor outputs are numbers or classes, one row per example."
        )
    if not np.isfinite(values).all():
        return no_answer(NAME, "A value of the function is NaN or infinite.", state=State.NON_FINITE)
    terms = _terms(points, values, max_degree)
    wanted = (0.0 if of == "targets" else 0.01) if threshold is None else threshold
    return _answer(terms, wanted, found.d)


@dataclass(frozen=True)
class _Terms:
    """Sets with their power (over outputs), the power that chance would not exceed, and the variance in all."""

    sets: list[tuple[int, ...]]
    power: np.ndarray
    noise: np.ndarray
    variance: float
    exact: bool
    degree: int


def _table(
    found: Hypercube, of: Of, generator: torch.Generator | None
) -> tuple[np.ndarray, np.ndarray | None]:
    if of == "targets":
        return found.signs(), found.target_columns()
    points = walsh.cube(found.d) if found.d <= ENUMERABLE else random_signs(SAMPLES, found.d, generator)
    return points, found.values(points)


def _terms(points: np.ndarray, values: np.ndarray, max_degree: int) -> _Terms:
    count, d = points.shape
    variance = float(values.var(0).sum())
    if d > ENUMERABLE:
        degree = max(k for k in range(min(max_degree, d) + 1) if k <= 1 or _number(d, k) <= MOST_SETS)
        sets = walsh.subsets(d, degree)
        coefficients, errors = walsh.sampled_coefficients(points, values, sets)
        return _tested(sets, coefficients, errors, variance, degree)
    index = walsh.index_of(points)
    sums = np.stack([np.bincount(index, column, minlength=2**d) for column in values.T], axis=1)
    counts = np.bincount(index, minlength=2**d)
    coefficients = walsh.walsh_hadamard(sums) / count
    sets = [walsh.members(i) for i in range(2**d)]
    squares = np.stack([np.bincount(index, c**2, minlength=2**d) for c in values.T], axis=1)
    noiseless = bool(np.all(squares * counts[:, None] - sums**2 <= 1e-9 * squares * counts[:, None]))
    if noiseless and counts.min() == counts.max():
        power = (coefficients**2).sum(1)
        return _Terms(sets, power, np.full(len(power), 1e-18 * max(power.max(), 1e-300)), variance, True, d)
    errors = np.sqrt(np.maximum((values**2).mean(0) - coefficients**2, 0) / max(count - 1, 1))
    return _tested(sets, coefficients, errors, variance, d)


def _number(d: int, k: int) -> int:
    import math

    return sum(math.comb(d, j) for j in range(k + 1))


def _tested(
    sets: list[tuple[int, ...]], coefficients: np.ndarray, errors: np.ndarray, variance: float, degree: int
) -> _Terms:
    """A term is noise below the largest of all coefficients that chance gives in 99 of 100 data sets."""
    limit = norm.isf(0.005 / max(coefficients.size, 1))
    beyond = (np.abs(coefficients) > limit * errors).any(1)
    power = (coefficients**2).sum(1)
    return _Terms(sets, power, np.where(beyond, 0.0, np.inf), variance, False, degree)


def _answer(terms: _Terms, threshold: float, d: int) -> Measurement:
    real = (terms.power > terms.noise) & (terms.power >= threshold * terms.variance)
    real &= np.array([bool(s) for s in terms.sets])
    chosen = [terms.sets[i] for i in np.flatnonzero(real)]
    constant = terms.variance <= 1e-18 * max(float(terms.power.max(initial=0.0)), 1e-300)
    if not chosen and not constant:
        return not_applicable(
            NAME,
            f"No term of degree up to {terms.degree} stands out: the leap is larger, the terms are too weak for "
            "these examples, or the targets do not depend on the inputs. Give more examples or a higher max_degree.",
        )
    value, order = walsh.leap_order(chosen)
    by_set = dict(zip(terms.sets, terms.power, strict=True))
    known: set[int] = set()
    new = []
    for term in order:
        new.append(len(set(term) - known))
        known |= set(term)
    explained = sum(by_set[s] for s in order) / terms.variance if terms.variance > 0 else 1.0
    details = {
        "terms": tuple(order[:200]),
        "new": tuple(new[:200]),
        "coefficients": tuple(float(np.sqrt(by_set[s])) for s in order[:200]),
        "unexplained": float(max(1 - explained, 0.0)),
        "degree": max((len(s) for s in order), default=0),
        "num_terms": len(order),
        "d": d,
    }
    exact = terms.exact and threshold == 0
    what = "exact" if exact else f"terms carry {min(explained, 1):.0%} of the variance"
    status = Status(
        State.EXACT if exact else State.ESTIMATE,
        f"Leap {value} over {len(order)} terms of {d} bits ({what}).",
    )
    return Measurement(NAME, float(value), "1", status, 0.0 if exact else float("nan"), details=details)

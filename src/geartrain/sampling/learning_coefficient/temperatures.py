"""λ and its multiplicity from estimates at several temperatures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from geartrain.errors import InputError
from geartrain.records import format_number
from geartrain.sampling.learning_coefficient.result import LearningCoefficient

_GRID = 200
_POWERS = (0.25, 0.5, 1.0)
"""Of 1/(n·beta), with which a coefficient of multiplicity one nears its limit: 1 at regular points, less where the next
pole is near (x²y⁴: 1/4)."""
_SHIFTED = (1.5, 12.0)
"""log(n·beta) + c at the hottest temperature: c depends on the units of loss and parameters, and localisation."""


@dataclass(frozen=True)
class Temperatures:
    """λ and m with the estimates that they come from.

    Attributes:
        value: λ, mean of its posterior over the models below.
        standard_error: Its standard deviation.
        interval: 2.5 % and 97.5 % points.
        multiplicity: The most probable m.
        probabilities: Of m = 1, 2, 3.
        n_betas: Shape (temperatures,).
        values: Estimates, likewise.
        errors: Their standard errors.
        estimates: Each of them whole.
    """

    value: float
    standard_error: float
    interval: tuple[float, float]
    multiplicity: int
    probabilities: tuple[float, ...]
    n_betas: np.ndarray
    values: np.ndarray
    errors: np.ndarray
    estimates: tuple[LearningCoefficient, ...] = ()

    @property
    def warnings(self) -> tuple[Any, ...]:
        """Of all estimates, but for the multiplicity bias, which is what is fitted here."""
        every = (w for e in self.estimates for w in e.warnings)
        return tuple(w for w in every if w.name != "multiplicity_bias")

    def __str__(self) -> str:
        f, (low, high) = format_number, self.interval
        odds = ", ".join(f"m = {m + 1}: {f(p, 2)}" for m, p in enumerate(self.probabilities))
        lines = [f"λ = {f(self.value)} ± {f(self.standard_error)} (95 %: {f(low)} to {f(high)}); {odds}"]
        for beta, value, error in zip(self.n_betas, self.values, self.errors, strict=True):
            lines.append(f"  n·beta {f(float(beta))}: {f(float(value))} ± {f(float(error))}")
        lines += [f"  Warning, {caution}" for caution in self.warnings]
        return "\n".join(lines)

    __repr__ = __str__


def fit(
    n_betas: Sequence[float] | np.ndarray,
    values: Sequence[float] | np.ndarray,
    errors: Sequence[float] | np.ndarray,
    *,
    most: int = 3,
) -> Temperatures:
    """λ and m from nβE[K] = λ - (m-1)/(log nβ + c), c unknown; for m = 1 λ, or λ - a/nβ^p.

    λ has a flat prior, c a flat one on a range of sensible units, a one that takes at most half of λ; models with
    m = 1, 2, 3 are as likely beforehand. Everything is integrated on a grid: the answer says how sure the
    temperatures make it.

    Args:
        n_betas: At least three.
        values: Estimates there.
        errors: Their standard errors.
        most: Largest m.

    Returns:
        λ and m.

    Raises:
        InputError: Fewer than three temperatures, or errors that are not positive.

    Example:
        >>> beta = np.geomspace(100, 1e8, 9)
        >>> found = fit(beta, 0.5 - 1 / (np.log(beta) + 2), np.full(9, 1e-3))
        >>> found.multiplicity, round(found.value, 2)
        (2, 0.5)
    """
    beta, y, error = (np.asarray(v, dtype=float) for v in (n_betas, values, errors))
    if len(beta) < 3 or not (len(beta) == len(y) == len(error)):
        raise InputError(
            f"There are {len(beta)} temperatures; λ and m need at least three, each with a value."
        )
    if not (np.all(error > 0) and np.all(np.isfinite(y)) and np.all(beta > 0)):
        raise InputError(
            "Every temperature needs a finite value with a positive error; draw more, or leave it out."
        )
    weight = 1 / error**2
    hottest = math.log(float(beta.min()))
    shifts = np.linspace(_SHIFTED[0] - hottest, _SHIFTED[1] - hottest, _GRID)
    shares = np.linspace(0.0, 0.5, _GRID)
    size = abs(float(np.average(y, weights=weight)))
    parts: list[tuple[int, float, np.ndarray]] = [(1, 0.5, np.zeros((1, len(beta))))]
    for power in _POWERS:
        falls = (beta.min() / beta) ** power
        parts.append((1, 0.5 / len(_POWERS), -shares[:, None] * size * falls))
    parts += [(m, 1.0, -(m - 1) / (np.log(beta) + shifts[:, None])) for m in range(2, most + 1)]
    orders, logs, centres = [], [], []
    for m, prior, offsets in parts:
        centre = ((y - offsets) * weight).sum(1) / weight.sum()
        chi = ((y - offsets - centre[:, None]) ** 2 * weight).sum(1)
        orders.append(np.full(len(centre), m))
        logs.append(-0.5 * chi + math.log(prior / len(centre)))
        centres.append(centre)
    order, log, centre = (np.concatenate(x) for x in (orders, logs, centres))
    mass = np.exp(log - log.max())
    mass /= mass.sum()
    width = weight.sum() ** -0.5
    value = float(mass @ centre)
    spread = math.sqrt(width**2 + float(mass @ (centre - value) ** 2))
    probabilities = tuple(float(mass[order == m].sum()) for m in range(1, most + 1))
    return Temperatures(
        value,
        spread,
        _interval(mass, centre, width),
        1 + int(np.argmax(probabilities)),
        probabilities,
        beta,
        y,
        error,
    )


def _interval(mass: np.ndarray, centre: np.ndarray, width: float) -> tuple[float, float]:
    """2.5 % and 97.5 % points of a mixture of normal laws of one width."""
    from scipy import special

    grid = np.linspace(centre.min() - 5 * width, centre.max() + 5 * width, 1000)
    law = (mass * special.ndtr((grid[:, None] - centre) / width)).sum(1)
    low, high = np.interp([0.025, 0.975], law, grid)
    return float(low), float(high)

"""Short ways to write down what an instrument found: a number with its error, or none with the reason."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from geartrain.records import Cost, Measurement, State, Status


def answer(
    name: str,
    value: float,
    sentence: str,
    *,
    unit: str = "1",
    error: float = 0.0,
    state: State = State.ESTIMATE,
    details: Mapping[str, Any] | None = None,
) -> Measurement:
    """A scalar measurement; without a number it says so."""
    if math.isnan(value):
        return no_answer(name, sentence, unit=unit, state=State.NON_FINITE, details=details)
    status = Status(state, sentence)
    return Measurement(
        name, float(value), unit, status, standard_error=float(error), details=dict(details or {})
    )


def no_answer(
    name: str,
    sentence: str,
    *,
    unit: str = "1",
    state: State = State.NOT_APPLICABLE,
    details: Mapping[str, Any] | None = None,
) -> Measurement:
    """A measurement that holds no number, only why."""
    nan = float("nan")
    return Measurement(
        name, nan, unit, Status(state, sentence), standard_error=nan, details=dict(details or {})
    )


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Mean and its standard error; the error of a single value is unknown (NaN)."""
    if len(values) == 0:
        return float("nan"), float("nan")
    error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
    return float(np.mean(values)), error


def ratio_and_error(above: np.ndarray, below: np.ndarray) -> tuple[float, float]:
    """Σ above / Σ below, with the jackknife error over the pairs."""
    count, total = len(above), float(np.sum(below))
    if count == 0 or total == 0:
        return float("nan"), float("nan")
    ratio = float(np.sum(above)) / total
    rest = total - below
    if count < 2 or np.any(rest == 0):
        return ratio, float("nan")
    left_out = (np.sum(above) - above) / rest
    spread = float(np.sum((left_out - left_out.mean()) ** 2))
    return ratio, math.sqrt((count - 1) / count * spread)


def not_applicable(name: str, sentence: str, *, unit: str = "1", **details: Any) -> Measurement:
    """The quantity does not exist for this kind of model or data; NaN, and a sentence that says why.

    >>> not_applicable("target_scale", "The targets are classes.").status.usable
    False
    """
    return no_answer(name, sentence, unit=unit, details=details)


def exact(
    name: str, value: float, sentence: str, *, unit: str = "1", details: Mapping[str, Any] | None = None
) -> Measurement:
    """A number without estimation error (for the examples it was taken on)."""
    return answer(name, value, sentence, unit=unit, state=State.EXACT, details=details)


def estimate(
    name: str,
    value: float,
    standard_error: float,
    sentence: str,
    *,
    unit: str = "1",
    details: Mapping[str, Any] | None = None,
) -> Measurement:
    """A number from a fixed number of samples, with its standard error."""
    return answer(name, value, sentence, unit=unit, error=standard_error, details=details)


def forward_price(subject: Any, **options: Any) -> Cost:
    """One forward pass over the data."""
    return Cost(forwards=1)


def gradient_price(subject: Any, **options: Any) -> Cost:
    """One gradient over the data."""
    return Cost(gradients=1)


def data_price(subject: Any, **options: Any) -> Cost:
    """Nothing of the model: only the data are looked at."""
    return Cost()

"""Short ways to write down what an instrument found."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from geartrain.records import Cost, Measurement, State, Status


def not_applicable(name: str, sentence: str, *, unit: str = "1", **details: Any) -> Measurement:
    """The quantity does not exist for this kind of model or data; NaN, and a sentence that says why.

    >>> not_applicable("target_scale", "The targets are classes.").status.usable
    False
    """
    status = Status(State.NOT_APPLICABLE, sentence)
    return Measurement(name, math.nan, unit, status, math.nan, details=MappingProxyType(details))


def exact(
    name: str, value: float, sentence: str, *, unit: str = "1", details: Mapping[str, Any] | None = None
) -> Measurement:
    """A number without estimation error (for the examples it was taken on)."""
    found = MappingProxyType(dict(details or {}))
    return Measurement(name, float(value), unit, Status(State.EXACT, sentence), 0.0, details=found)


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
    found = MappingProxyType(dict(details or {}))
    return Measurement(
        name, float(value), unit, Status(State.ESTIMATE, sentence), float(standard_error), details=found
    )


def forward_price(subject: Any, **options: Any) -> Cost:
    """One forward pass over the data."""
    return Cost(forwards=1)


def gradient_price(subject: Any, **options: Any) -> Cost:
    """One gradient over the data."""
    return Cost(gradients=1)


def data_price(subject: Any, **options: Any) -> Cost:
    """Nothing of the model: only the data are looked at."""
    return Cost()

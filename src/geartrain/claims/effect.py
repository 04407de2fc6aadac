"""An effect: one number with its interval, the only thing that a rule looks at."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from geartrain.records import format_number

LEVEL = 0.95


@dataclass(frozen=True)
class Effect:
    """A number with a confidence interval.

    Attributes:
        value: The estimate.
        low: Lower end of the interval.
        high: Upper end.
        unit: Of all three; "1" if it has none.
        count: How many independent draws it rests on (seeds, mostly); 0 for numbers that are exact.
        method: How the interval was made, in a few words.
    """

    value: float
    low: float
    high: float
    unit: str = "1"
    count: int = 0
    method: str = ""

    @staticmethod
    def exact(value: float, unit: str = "1", method: str = "exact") -> Effect:
        """A number without error."""
        return Effect(float(value), float(value), float(value), unit, 0, method)

    @property
    def finite(self) -> bool:
        """Whether all three are numbers."""
        return all(math.isfinite(x) for x in (self.value, self.low, self.high))

    @property
    def half_width(self) -> float:
        """Half the length of the interval."""
        return (self.high - self.low) / 2

    def inside(self, low: float, high: float) -> bool:
        """Whether the whole interval lies in [low, high]."""
        return self.finite and low <= self.low and self.high <= high

    def outside(self, low: float, high: float) -> bool:
        """Whether no part of the interval lies in [low, high]."""
        return self.finite and (self.high < low or self.low > high)

    def more_seeds(self, low: float, high: float) -> int | None:
        """About how many draws would decide on which side of the nearest bound it lies; None if no number would.

        n (half-width / distance)²: intervals shrink as the inverse root of the number of draws.
        """
        bounds = [b for b in (low, high) if math.isfinite(b)]
        distance = min((abs(self.value - b) for b in bounds), default=math.inf)
        if not self.finite or not self.count or not math.isfinite(distance) or distance == 0:
            return None
        return math.ceil(self.count * max(1.0, (self.half_width / distance) ** 2))

    def __str__(self) -> str:
        unit = "" if self.unit == "1" else f" {self.unit}"
        if self.low == self.value == self.high:
            return f"{format_number(self.value)}{unit}"
        return f"{format_number(self.value)} [{format_number(self.low)}, {format_number(self.high)}]{unit}"

    def to_dict(self) -> dict[str, Any]:
        """In plain JSON types."""
        return {
            "value": self.value, "low": self.low, "high": self.high,
            "unit": self.unit, "count": self.count, "method": self.method,
        }  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """What the analysis of one part of a claim found.

    Attributes:
        effect: The estimand; several by name where the part asks about several cells.
        control: The controls, by name.
        numbers: What else a careful reader wants to see, by name.
        note: A sentence for the page.
        invalid: Why these numbers cannot carry a verdict; empty if they can.
    """

    effect: Effect | Mapping[str, Effect]
    control: Mapping[str, Effect] = field(default_factory=dict)
    numbers: Mapping[str, Effect] = field(default_factory=dict)
    note: str = ""
    invalid: str = ""

    @property
    def effects(self) -> Mapping[str, Effect]:
        """The estimand, by name."""
        return {"": self.effect} if isinstance(self.effect, Effect) else self.effect

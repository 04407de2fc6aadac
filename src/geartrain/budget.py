"""How much a computation may spend: products, seconds, or until a moment, and the clock that watches it."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from geartrain.errors import InputError


@dataclass(frozen=True)
class Budget:
    """How much an instrument may spend; ``None`` means no limit of that kind.

    Attributes:
        products: Matrix-vector products.
        seconds: Wall-clock seconds.
        deadline: Absolute limit on the clock of `time.perf_counter`.
    """

    products: int | None = None
    seconds: float | None = None
    deadline: float | None = None

    @staticmethod
    def of(budget: Budget | int | str | None) -> Budget:
        """A budget from what users write: 100 (products), ``"5s"``, a `Budget`, or ``None``.

        Raises:
            InputError: It is none of these.
        """
        if budget is None or isinstance(budget, Budget):
            return budget or Budget()
        if isinstance(budget, int) and not isinstance(budget, bool):
            if budget < 0:
                raise InputError(f"budget is {budget}; allowed: a number of products that is 0 or more.")
            return Budget(products=budget)
        return Budget(seconds=parse_seconds(budget))

    def start(self) -> Clock:
        """Start the clock."""
        limits = [self.deadline] if self.deadline is not None else []
        if self.seconds is not None:
            limits.append(time.perf_counter() + self.seconds)
        return Clock(self.products, min(limits, default=None))


@dataclass(frozen=True)
class Clock:
    """A budget that is running."""

    products: int | None
    deadline: float | None

    def exhausted(self, products_spent: int = 0) -> bool:
        """Whether the next product would be one too many, or the time is over."""
        if self.products is not None and products_spent >= self.products:
            return True
        return self.deadline is not None and time.perf_counter() >= self.deadline


def parse_seconds(text: str | float) -> float:
    """Seconds from ``60``, ``"60"``, ``"60s"``, ``"2min"`` or ``"500ms"``.

    Raises:
        InputError: It is not a positive duration.

    >>> parse_seconds("2min"), parse_seconds("500ms"), parse_seconds(3)
    (120.0, 0.5, 3.0)
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*(ms|s|sec|min|m|h)?\s*", str(text))
    if not match or not float(match[1]) > 0:
        raise InputError(f"budget is {text!r}; allowed: a positive time such as '60s', '2min' or '500ms'.")
    return float(match[1]) * {"ms": 1e-3, "min": 60.0, "m": 60.0, "h": 3600.0}.get(match[2] or "s", 1.0)

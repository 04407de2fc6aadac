"""What all instruments share: the decorator that registers one, budgets, and the clock that meters its cost."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from geartrain.errors import InputError
from geartrain.records import Cost, Measurement

Needs = Literal["objective", "pair", "run", "history", "data"]


@dataclass(frozen=True)
class Spec:
    """What the bench knows about an instrument without running it.

    Attributes:
        name: Its name, also of its file.
        needs: What it is a function of: an `Objective`, a ``"pair"`` of objectives (the second is what the first
            is compared with), a `Run` (it takes steps and restores), a `History`, or ``"data"``: an objective or a
            run as it is, whose data it takes by itself (of a run, training and validation data).
        unit: Unit of its value.
        summary: First line of its docstring.
        price: ``price(subject, **options) -> Cost``: what it will spend.
        family: Family that it belongs to: the folder of its file, or what its author said.
    """

    name: str
    needs: Needs
    unit: str
    summary: str
    price: Callable[..., Cost]
    family: str = ""


class Instrument(Protocol):
    """A function of (subject, options..., *, generator, budget) that returns a `Measurement`."""

    spec: Spec

    def __call__(self, subject: Any, /, *args: Any, **kwargs: Any) -> Measurement:
        """Measure."""
        ...


F = TypeVar("F", bound=Callable[..., Measurement])


def instrument(
    *, needs: Needs, unit: str, price: Callable[..., Cost], family: str | None = None
) -> Callable[[F], F]:
    """Mark a function as an instrument: gives it a `Spec` and fills in the cost that it spent.

    Args:
        needs: What its first argument is.
        unit: Unit of its value.
        price: ``price(subject, **options) -> Cost``, quoted before it starts. Of a pair, the first is passed.
        family: Family for lists and docs; the folder that the file lies in if omitted.

    Returns:
        The decorator.
    """

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def measured(subject: Any, *args: Any, **kwargs: Any) -> Measurement:
            before, start = _work(subject), time.perf_counter()
            result = function(subject, *args, **kwargs)
            spent = _work(subject) - before
            return _with_cost(result, spent, time.perf_counter() - start)

        summary = (function.__doc__ or "").strip().splitlines()[0] if function.__doc__ else ""
        folder = function.__module__.split(".")[-2:-1]
        named = family if family is not None else "".join(folder)
        measured.spec = Spec(function.__name__, needs, unit, summary, price, named)  # type: ignore[attr-defined]
        return measured  # type: ignore[return-value]

    return decorate


def _work(subject: Any) -> Cost:
    """The running meter of an objective or run; zero for things that have none."""
    return getattr(subject, "work", Cost())


def _with_cost(result: Measurement, spent: Cost, seconds: float) -> Measurement:
    import dataclasses

    cost = dataclasses.replace(
        spent, seconds=seconds, peak_bytes=max(spent.peak_bytes, result.cost.peak_bytes)
    )
    return dataclasses.replace(result, cost=cost)


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
    import re

    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*(ms|s|sec|min|m|h)?\s*", str(text))
    if not match or not float(match[1]) > 0:
        raise InputError(f"budget is {text!r}; allowed: a positive time such as '60s', '2min' or '500ms'.")
    return float(match[1]) * {"ms": 1e-3, "min": 60.0, "m": 60.0, "h": 3600.0}.get(match[2] or "s", 1.0)

"""What all instruments share: the decorator that registers one and meters its cost."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

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

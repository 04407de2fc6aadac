"""The calibration certificate: every instrument against every truth that it can meet.

One cell is one quantity of one toy: what theory says, what was measured, how far apart they are in standard errors and
in per cent, what it cost, and whether it passed. `verdict` alone decides that; nothing else in the zoo does.
"""

from __future__ import annotations

import inspect
import math
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from geartrain import __version__, instruments
from geartrain.budget import Budget
from geartrain.errors import GeartrainError, InputError
from geartrain.measuring import reference_for, subject_for
from geartrain.records import Cost, Measurement, State, jsonable
from geartrain.zoo._base import Toy, Truth

TRIAL = "trial"
"""Stands for the instrument in the cells of a toy's own experiments."""
MOST_ERRORS = 4.0
"""Standard errors that an estimate may be away from the truth."""
LEAST_INFORMATION = 0.5
"""Standard error, as a fraction of the truth's size, beyond which an estimate says nothing about it."""
ROUNDING = 1e-12
"""A truth whose entries are all smaller counts as 0."""
_TRUSTED = {State.EXACT, State.CONVERGED, State.ESTIMATE}


@dataclass(frozen=True)
class Cell:
    """One quantity of one toy, as theory has it and as it was measured.

    Attributes:
        toy: Name of the toy.
        instrument: Name of the instrument, ``"trial"`` for an experiment of the toy's own.
        quantity: What of the toy.
        value: What was measured; NaN where nothing was.
        truth: What theory says; NaN where the instrument should say that there is no such quantity.
        z: (value - truth) / (standard error + tolerance / 4) where that is largest: passed means at most 4. NaN where
            there is no standard error.
        relative_error: |value - truth| over the size of the truth (its largest entry; 1 if that is 0).
        passed: Whether value and truth agree, see `verdict`.
        explanation: Why, one sentence; of an instrument that did not get there, its own status.
        cost: What it took.
        state: What the instrument says of its own answer: the word of its `State`, ``"error"`` if it raised one.
    """

    toy: str
    instrument: str
    quantity: str
    value: float | np.ndarray
    truth: float | np.ndarray
    z: float
    relative_error: float
    passed: bool
    explanation: str
    cost: Cost
    state: str

    @property
    def unexplained(self) -> bool:
        """Whether it failed although the instrument stands by its answer, or broke: the kind that must be mended."""
        return not self.passed and self.state in {"error", *(s.value for s in _TRUSTED)}


@dataclass(frozen=True)
class Certificate:
    """All cells of a check.

    Attributes:
        cells: In the order in which they were checked.
        skipped: What the budget or an interruption left undone, as (toy, quantity).
        seconds: How long it took.
        created: When, ISO time.
        version: Of geartrain.
        seed: Of everything random in measuring.
        interrupted: Whether it was stopped by hand.
    """

    cells: tuple[Cell, ...]
    skipped: tuple[tuple[str, str], ...] = ()
    seconds: float = 0.0
    created: str = ""
    version: str = __version__
    seed: int = 0
    interrupted: bool = False

    @property
    def passed(self) -> bool:
        """Whether every cell passed."""
        return all(cell.passed for cell in self.cells)

    @property
    def failures(self) -> tuple[Cell, ...]:
        """Cells that did not pass, those first in which the instrument does not say so itself."""
        return tuple(sorted((c for c in self.cells if not c.passed), key=lambda c: not c.unexplained))

    @property
    def filled(self) -> int:
        """How many pairs of an instrument and a toy were checked."""
        return len({(c.instrument, c.toy) for c in self.cells if c.instrument != TRIAL})

    @property
    def uncalibrated(self) -> tuple[str, ...]:
        """Instruments that met no truth in this check."""
        met = {c.instrument for c in self.cells}
        return tuple(name for name in instruments.names() if name not in met)

    @property
    def headline(self) -> str:
        """The result in half a sentence."""
        return (
            f"{sum(c.passed for c in self.cells):,} of {count(len(self.cells), 'quantity')} agree with theory"
        )

    @property
    def coverage(self) -> str:
        """What was checked on what: ``"85 instruments on 22 toys, 706 pairs"``."""
        toys, tools = ({getattr(c, what) for c in self.cells} for what in ("toy", "instrument"))
        found = (len(tools - {TRIAL}), "instrument"), (len(toys), "toy"), (self.filled, "pair")
        return "{} on {}, {}".format(*(count(n, what) for n, what in found))

    @property
    def sentence(self) -> str:
        """The result in a few sentences."""
        told, open_ = f"{self.headline}: {self.coverage}.", sum(c.unexplained for c in self.cells)
        if marked := len(self.failures) - open_:
            told += f" {count(marked, 'failure')} marked by the instrument itself."
        if open_:
            told += f" {count(open_, 'failure')} unexplained."
        if self.skipped:
            why = "it was interrupted before the rest" if self.interrupted else "out of time"
            told += f" {count(len(self.skipped), 'quantity')} left: {why}."
        return told

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types: ``{"cells": [{"toy", "instrument", "value", "truth", "z", ...}], ...}``."""
        told = {"sentence": self.sentence, "passed": self.passed, "filled": self.filled}
        return jsonable({**told, **{name: getattr(self, name) for name in self.__dataclass_fields__}})

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Certificate:
        """What `to_dict` gave.

        Raises:
            InputError: It is no certificate.
        """
        try:
            cells = tuple(_cell(found) for found in plain["cells"])
            skipped = tuple((str(toy), str(quantity)) for toy, quantity in plain["skipped"])
            rest = {name: plain[name] for name in ("seconds", "created", "version", "seed", "interrupted")}
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"This is no certificate: {type(error).__name__} {error}.") from None
        return cls(cells, skipped, **rest)


def count(number: int, what: str) -> str:
    """``"1 toy"``, ``"2 toys"``."""
    many = {"quantity": "quantities"}.get(what, f"{what}s")
    return f"{number:,} {what if number == 1 else many}"


def _cell(plain: Mapping[str, Any]) -> Cell:
    known: dict[str, Any] = {name: plain[name] for name in Cell.__dataclass_fields__}
    for name in ("value", "truth"):
        known[name] = _plain(np.asarray(known[name], dtype=float))
    known |= {name: float(known[name]) for name in ("z", "relative_error")}
    known["cost"] = Cost(**known["cost"])
    return Cell(**known)


def check_toy(
    toy: Toy, generator: torch.Generator | None = None, budget: Budget | int | str | None = None
) -> list[Cell]:
    """Every truth of a toy against the instrument (or the trial) that should meet it.

    Args:
        toy: The toy, with any parameters.
        generator: Source of randomness; a fixed seed if omitted. Cells do not depend on one another's draws.
        budget: For each instrument.

    Returns:
        A cell for each truth, in their order.
    """
    seed = 0 if generator is None else int(torch.randint(2**31, (), generator=generator))
    return [
        check_quantity(toy, quantity, generator=source_of(toy, quantity, seed), budget=budget)
        for quantity in toy.truth
    ]


def check_quantity(
    toy: Toy,
    quantity: str,
    *,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Cell:
    """One truth of a toy.

    Raises:
        InputError: The toy knows no such quantity.
    """
    if quantity not in toy.truth:
        raise InputError(f"{toy.label} knows no truth named {quantity!r}; it knows: {', '.join(toy.truth)}.")
    truth, source = toy.truth[quantity], generator or source_of(toy, quantity, 0)
    instrument = TRIAL if truth.trial is not None else truth.instrument or quantity.partition(".")[0]
    start, target = time.perf_counter(), _plain(np.asarray(truth.value, dtype=float))
    try:
        measured = _measured(toy, truth, instrument, source, budget)
        value, error = _read(measured, truth)
        z, relative, passed, explanation = verdict(value, error, truth, measured)
    except Exception as failure:
        # Whatever goes wrong inside one cell is a result of that cell; the others still count.
        return failed(toy.label, instrument, quantity, target, failure, time.perf_counter() - start)
    cost = measured.cost
    if not cost.seconds:
        cost = cost + Cost(seconds=time.perf_counter() - start)
    state, found = measured.status.state.value, _plain(value)
    return Cell(toy.label, instrument, quantity, found, target, z, relative, passed, explanation, cost, state)


def failed(
    toy: str,
    instrument: str,
    quantity: str,
    truth: float | np.ndarray,
    failure: Exception,
    seconds: float,
) -> Cell:
    """The cell of something that broke."""
    kind = "" if isinstance(failure, GeartrainError) else f"{type(failure).__name__}: "
    nan, why = math.nan, kind + str(failure)
    return Cell(toy, instrument, quantity, nan, truth, nan, nan, False, why, Cost(seconds=seconds), "error")


def verdict(
    value: np.ndarray, error: np.ndarray, truth: Truth, measured: Measurement
) -> tuple[float, float, bool, str]:
    """The one rule: does a measurement agree with the truth?

    It does if the instrument stands by its answer (exact, converged, or a finished estimate) and every entry lies
    within tolerance x size + 4 standard errors of the truth. The size is that of the truth's largest entry (1 if all
    are 0 to rounding). An answer that is exact, or of unknown error, has the tolerance only; so has any answer to a
    strict truth. An estimate whose standard error exceeds half the size proves nothing and fails. Where the truth is
    NaN, the instrument must say that there is no such quantity.

    Args:
        value: What was measured.
        error: Its standard error, same shape; 0 or NaN where there is none.
        truth: What theory says.
        measured: The whole measurement, for its status.

    Returns:
        z, relative error, whether it passed, and why.
    """
    target = np.asarray(truth.value, dtype=float)
    if np.isnan(target).all():
        fits = not measured.status.usable
        told = measured.status.sentence if fits else f"It should have said that there is none: {measured}."
        return math.nan, math.nan, fits, told
    if not measured.status.usable:
        return math.nan, math.nan, False, str(measured.status)
    if value.shape != target.shape:
        return (
            math.nan,
            math.nan,
            False,
            f"Shape {value.shape} was measured; the truth has shape {target.shape}.",
        )
    size = float(np.abs(target).max(initial=0.0))
    size = size if size > ROUNDING else 1.0
    distance, spread = np.abs(value - target), np.nan_to_num(0.0 * error if truth.strict else error, nan=0.0)
    known = spread > 0
    allowance = truth.tolerance * size
    scores = np.divide(
        value - target, spread + allowance / MOST_ERRORS, out=np.zeros_like(spread), where=known
    )
    z = float(scores.flat[np.abs(scores).argmax()]) if known.any() else math.nan
    relative = float(distance.max(initial=0.0)) / size
    within = bool((distance <= allowance + MOST_ERRORS * spread).all())
    if measured.status.state not in _TRUSTED:
        return z, relative, False, str(measured.status)
    if float(np.sqrt(np.mean(spread**2))) > LEAST_INFORMATION * size and target.any():
        return (
            z,
            relative,
            False,
            f"Its standard error is too large to prove anything: {measured.status.sentence}",
        )
    allowed = f"a tolerance of {truth.tolerance:g}"
    allowed += f" and {MOST_ERRORS:g} standard errors" if known.any() else ""
    told = "Within" if within else "Outside"
    return z, relative, within, f"{told} {allowed}. {measured.status.sentence}"


def _measured(toy: Toy, truth: Truth, name: str, source: torch.Generator, budget: Any) -> Measurement:
    """The answer of the instrument or of the trial."""
    if truth.trial is not None:
        return truth.trial(source)
    function = instruments.get(name)
    subject = truth.subject(toy) if truth.subject is not None else subject_of(toy, function.spec.needs)
    options: dict[str, Any] = {**truth.options}
    if function.spec.needs == "pair":
        options["other"] = truth.other(toy) if truth.other is not None else reference_for(subject, name)
    subject = subject_for(function.spec.needs, subject, name, probe=None)
    known = inspect.signature(function).parameters
    given = {"generator": source, "budget": budget}
    return function(subject, **{n: v for n, v in given.items() if n in known and n not in options}, **options)


def subject_of(toy: Toy, needs: str) -> Any:
    """The toy's objective, or its run where that is what is needed (or all there is)."""
    has_objective = type(toy).make_objective is not Toy.make_objective
    return toy.objective if has_objective and needs not in {"run", "history"} else toy.run


def _read(measured: Measurement, truth: Truth) -> tuple[np.ndarray, np.ndarray]:
    """What is compared, and its standard error (that of a detail lies beside it under ``<name>_error``)."""
    if not measured.status.usable:
        return np.asarray(math.nan), np.asarray(math.nan)
    if truth.reading == "value":
        value, error = measured.value, measured.standard_error
    else:
        details = measured.details
        if truth.reading not in details:
            known = ", ".join(map(str, details))
            raise InputError(f"{measured.name} has no detail {truth.reading!r}; it has: {known}.")
        value = details[truth.reading]
        error = details.get(truth.error or f"{truth.reading}_error", 0.0)
    value = _array(value)
    error = np.broadcast_to(_array(error), value.shape)
    return (value, error) if truth.extract is None else _through(truth.extract, value, error)


def _through(
    extract: Callable[[np.ndarray], Any], value: np.ndarray, error: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A function of what was read, its error by moving each entry by its own (they are taken as independent)."""
    result = np.asarray(extract(value), dtype=float)
    variance = np.zeros_like(result)
    for place in np.argwhere(np.nan_to_num(error) > 0):
        moved = value.copy()
        moved[tuple(place)] += error[tuple(place)]
        variance = variance + (np.asarray(extract(moved), dtype=float) - result) ** 2
    return result, np.sqrt(variance)


def _array(thing: Any) -> np.ndarray:
    """Numbers of whatever an instrument keeps among its details: tensors, lists, records by name."""
    if isinstance(thing, torch.Tensor):
        thing = thing.detach().cpu().numpy()
    if isinstance(thing, Mapping):
        thing = list(thing.values())
    return np.asarray(thing, dtype=float)


def _plain(array: np.ndarray) -> float | np.ndarray:
    return float(array) if array.ndim == 0 else array


def source_of(toy: Toy, quantity: str, seed: int) -> torch.Generator:
    """Randomness of a cell's own, so that adding a cell changes no other."""
    return torch.Generator().manual_seed(zlib.crc32(f"{seed} {toy.label} {quantity}".encode()))

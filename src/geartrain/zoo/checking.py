"""Checking many toys: say beforehand what it will cost, go on where it stopped, lose nothing when it is interrupted."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from geartrain import __version__, instruments, zoo
from geartrain.budget import Budget
from geartrain.errors import UnknownNameError
from geartrain.measuring import subject_for
from geartrain.records import State
from geartrain.zoo._base import Toy, Truth
from geartrain.zoo.certificate import Cell, Certificate, check_quantity, count, failed, source_of, subject_of

_CELL_SECONDS, _TRIAL_SECONDS = 0.003, 0.1
"""What a cell takes beside the instrument's price, and a trial, whose price nobody quotes."""


@dataclass(frozen=True)
class Plan:
    """What a check is going to do.

    Attributes:
        work: What is measured, as (toy, quantity).
        kept: Cells of an earlier certificate that still hold, by place in ``work``.
        broken: Toys that cannot say what they know: a failed cell for each.
        seconds: About how long it will take: as long as before where it was measured before, else by the instruments'
            prices and the time that a gradient takes.
        seed: Of everything random in measuring.
    """

    work: tuple[tuple[Toy, str], ...]
    kept: Mapping[int, Cell]
    broken: tuple[Cell, ...]
    seconds: float
    seed: int = 0

    @property
    def sentence(self) -> str:
        """The plan in a sentence."""
        toys = {toy.label for toy, _ in self.work}
        told = f"{count(len(self.work), 'quantity')} of {count(len(toys), 'toy')}"
        told += f", {len(self.kept):,} of them kept from before" if self.kept else ""
        return f"{told}: about {self.seconds:.0f} s." if self.seconds >= 1 else f"{told}: less than 1 s."


def plan(
    toys: Iterable[str | Toy] | None = None,
    *,
    quick: bool = False,
    seed: int = 0,
    earlier: Certificate | None = None,
    resume: bool = False,
) -> Plan:
    """What a check of these toys will measure, and about how long that will take.

    Args:
        toys: Names, or toys with any parameters; the whole zoo at its defaults if omitted.
        quick: Each instrument once only, on the first toy that knows its truth, and no trials.
        seed: Of everything random in measuring.
        earlier: A certificate, for how long things take.
        resume: Keep its cells that passed, if seed, version of geartrain and truth are the same.

    Returns:
        The plan.

    Raises:
        UnknownNameError: There is no such toy.
    """
    chosen = zoo.names() if toys is None else list(toys)
    work: list[tuple[Toy, str]] = []
    broken: list[Cell] = []
    for named in chosen:
        label = named.label if isinstance(named, Toy) else named
        try:
            toy = named if isinstance(named, Toy) else zoo.get(named)
            work += [(toy, quantity) for quantity in toy.truth]
        except UnknownNameError:
            raise
        except Exception as failure:
            # A toy that cannot say what it knows has failed; the others still count.
            broken.append(failed(label, "truths", "truths", math.nan, failure, 0.0))
    work = _once_each(work) if quick else work
    before = {} if earlier is None else {(c.toy, c.quantity): c for c in earlier.cells}
    comparable = earlier is not None and (earlier.seed, earlier.version) == (seed, __version__)
    kept: dict[int, Cell] = {}
    seconds, pace = 0.0, {}
    for place, (toy, quantity) in enumerate(work):
        cell = before.get((toy.label, quantity))
        if cell is not None and resume and comparable and _still_holds(cell, toy.truth[quantity]):
            kept[place] = cell
        else:
            seconds += _expected(toy, quantity, pace) if cell is None else cell.cost.seconds
    return Plan(tuple(work), kept, tuple(broken), seconds, seed)


def check_all(
    toys: Iterable[str | Toy] | Plan | None = None,
    *,
    quick: bool = False,
    seconds: float | None = None,
    seed: int = 0,
    progress: Callable[[float, str], None] | None = None,
    keep: Callable[[Certificate], None] | None = None,
) -> Certificate:
    """Check toys of the zoo. Ctrl-C ends it with what there is by then.

    Args:
        toys: Names, or toys with any parameters, or a `plan`; the whole zoo at its defaults if omitted.
        quick: Each instrument once only, on the first toy that knows its truth, and no trials.
        seconds: Stop after that time; what is left is listed as skipped.
        seed: Of everything random.
        progress: Called with the share done and what is checked next.
        keep: Called after every toy with the certificate so far, so that nothing is lost if the process dies.

    Returns:
        The certificate.

    Raises:
        UnknownNameError: There is no such toy.
    """
    start = time.perf_counter()
    planned = toys if isinstance(toys, Plan) else plan(toys, quick=quick, seed=seed)
    deadline = math.inf if seconds is None else start + seconds
    work, cells = planned.work, list(planned.broken)
    skipped: list[tuple[str, str]] = []
    interrupted = False

    def so_far() -> Certificate:
        created = datetime.now(UTC).isoformat(timespec="seconds")
        spent = time.perf_counter() - start
        left = (*skipped, *((toy.label, quantity) for toy, quantity in work[done:]))
        return Certificate(tuple(cells), left, spent, created, seed=planned.seed, interrupted=interrupted)

    done = 0
    try:
        for place, (toy, quantity) in enumerate(work):
            if keep is not None and place and toy is not work[place - 1][0]:
                keep(so_far())
            if progress is not None:
                progress(place / len(work), f"{quantity} of {toy.label}")
            cell = planned.kept.get(place)
            if cell is None and time.perf_counter() < deadline:
                budget = None if seconds is None else Budget(deadline=deadline)
                source = source_of(toy, quantity, planned.seed)
                cell = check_quantity(toy, quantity, generator=source, budget=budget)
            if cell is not None and cell.state == State.INTERRUPTED.value:
                raise KeyboardInterrupt  # an instrument gave what it had; so do we
            late = cell is not None and not cell.passed and time.perf_counter() >= deadline
            if cell is None or (late and cell.state == State.OUT_OF_BUDGET.value):
                skipped.append((toy.label, quantity))
            else:
                cells.append(cell)
            done = place + 1
    except KeyboardInterrupt:
        interrupted = True
    if progress is not None and not interrupted:
        progress(1.0, "done")
    return so_far()


def _still_holds(cell: Cell, truth: Truth) -> bool:
    """Whether an earlier cell need not be measured again: it passed, and theory says what it said."""
    now = np.asarray(truth.value, dtype=float)
    return cell.passed and np.array_equal(np.asarray(cell.truth), now, equal_nan=True)


def _expected(toy: Toy, quantity: str, pace: dict[str, float]) -> float:
    """About how many seconds a cell takes: the instrument's price at this toy's pace. **Cost**: a gradient or two."""
    truth = toy.truth[quantity]
    if truth.trial is not None:
        return _TRIAL_SECONDS
    try:
        function = instruments.get(truth.instrument or quantity.partition(".")[0])
        subject = truth.subject(toy) if truth.subject is not None else subject_of(toy, function.spec.needs)
        subject = subject_for(function.spec.needs, subject, function.spec.name, probe=None)
        price = function.spec.price(subject, **truth.options)
        if toy.label not in pace:
            pace[toy.label] = _gradient_seconds(toy)
    except Exception:
        return _CELL_SECONDS  # what is wrong with it is told when it is measured
    return _CELL_SECONDS + pace[toy.label] * (price.gradients + price.forwards / 3 + 2 * price.products)


def _gradient_seconds(toy: Toy) -> float:
    objective = subject_for("objective", subject_of(toy, "objective"), "", probe=None)
    objective.gradient()  # the first one is slower than the rest
    start = time.perf_counter()
    objective.gradient()
    return time.perf_counter() - start


def _once_each(work: list[tuple[Toy, str]]) -> list[tuple[Toy, str]]:
    """The first quantity of each instrument."""
    first: dict[str, tuple[Toy, str]] = {}
    for toy, quantity in work:
        truth = toy.truth[quantity]
        if truth.trial is None:
            first.setdefault(truth.instrument or quantity.partition(".")[0], (toy, quantity))
    return list(first.values())

"""The checks that every instrument passes, ours and those of other packages."""

from __future__ import annotations

import inspect
import math
import re
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_map

from geartrain.budget import Budget
from geartrain.errors import GeartrainError, InputError, NonFiniteError, UnknownNameError
from geartrain.instruments._base import Instrument, Spec
from geartrain.measuring import reference_for, subject_for
from geartrain.records import Cost, Measurement, State, jsonable
from geartrain.run import Run
from geartrain.testing._fingerprint import fingerprint
from geartrain.testing._subjects import SUBJECTS, made

UNUSABLE = {State.NOT_APPLICABLE, State.NON_FINITE}
CUT_SHORT = {State.OUT_OF_BUDGET, State.INTERRUPTED, State.NOT_CONVERGED}
FREE = 2.5
"""What may be spent on a budget of nothing, in gradients: enough to notice that a model is broken."""


class ConformanceError(AssertionError):
    """An instrument breaks a promise; the message names the instrument, the promise and what was seen."""


def check_instrument(
    instrument: Instrument, *, checks: Iterable[str] | None = None, subject: str = "classifier"
) -> None:
    """Check an instrument against the promises of the bench.

    Args:
        instrument: A function made by the decorator ``instrument``.
        checks: Names from `CHECKS`; all of them if omitted.
        subject: The run to measure, a name from `SUBJECTS`.

    Raises:
        ConformanceError: A promise is broken.
        UnknownNameError: There is no such check or subject.
    """
    for name in CHECKS if checks is None else checks:
        if name not in CHECKS:
            raise UnknownNameError("conformance check", name, list(CHECKS))
        CHECKS[name](instrument, subject)


# ------------------------------------------------------------------ the promises


def speaks(instrument: Instrument, subject: str) -> None:
    """It has a unit, a family and a line that says what it does; it says its cost, assumptions and when it misleads."""
    spec, document = _spec(instrument), instrument.__doc__ or ""
    _require(bool(spec.unit), instrument, "has a unit", "an empty one")
    _require(bool(spec.family), instrument, "belongs to a family", "none")
    _require(bool(spec.summary.strip()), instrument, "says in one line what it does", "no docstring")
    for part in ("**Cost**", "**Assumes**", "**Misleads**", "Returns:"):
        _require(part in document, instrument, f"has {part} in its docstring", "none")
    parameters = inspect.signature(instrument).parameters
    wanted = {"generator", "budget"} if spec.needs not in {"history", "data"} else set()
    missing = wanted - {n for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    _require(not missing, instrument, "takes generator= and budget= by keyword", f"no {sorted(missing)}")


def answers(instrument: Instrument, subject: str) -> None:
    """It gives a value with named axes, an error and a sentence, or says why there is none; it leaves no trace."""
    run = made(subject)
    subjects = _subjects(instrument, run)
    before = fingerprint(run)
    result = instrument(*subjects, **_options(instrument))
    _unchanged(instrument, before, run, "")
    _well_formed(instrument, result)


def answers_twice_alike(instrument: Instrument, subject: str) -> None:
    """The same generator gives the same bits, whatever the program's own random numbers did meanwhile."""
    first = _healthy(instrument, subject)
    # What a run does next may depend on the program's random numbers (dropout): then they are part of its state.
    world = 1 if instrument.spec.needs == "run" else 2
    second = _measure(instrument, made(subject), world=world)
    for what in ("value", "standard_error"):
        a, b = np.asarray(getattr(first, what)), np.asarray(getattr(second, what))
        alike = a.shape == b.shape and np.array_equal(a, b, equal_nan=True)
        _require(alike, instrument, f"repeats its {what} bit for bit", f"{a} and then {b}")


def keeps_its_price(instrument: Instrument, subject: str) -> None:
    """It costs what it quoted: within a factor of two, or one gradient where both are small."""
    run = made(subject)
    subjects = _subjects(instrument, run)
    quoted = gradients_of(instrument.spec.price(subjects[0]))
    result = instrument(*subjects, **_options(instrument))
    if result.status.state in UNUSABLE | CUT_SHORT:
        _require(
            gradients_of(result.cost) <= 2 * quoted + 1,
            instrument,
            "costs no more than quoted",
            f"{result.cost}",
        )
        return
    spent = gradients_of(result.cost)
    fits = quoted / 2 - 1 <= spent <= 2 * quoted + 1
    # An estimate that converges early is no broken promise, as long as it says so.
    early = result.status.state in {State.CONVERGED, State.EXACT} and spent <= quoted
    _require(
        fits or early, instrument, "costs what it quoted", f"{quoted:.3g} gradients quoted, {spent:.3g} spent"
    )
    _require(result.cost.seconds > 0, instrument, "records its seconds", "0")


def obeys_an_empty_budget(instrument: Instrument, subject: str) -> None:
    """Without a budget it stops at once and says so, or it needed none."""
    for budget in (0, Budget(seconds=1e-9)):
        run = made(subject)
        subjects = _subjects(instrument, run)
        if "budget" not in inspect.signature(instrument).parameters:
            return
        start = time.perf_counter()
        try:
            result = instrument(*subjects, **{**_options(instrument), "budget": budget})
        except GeartrainError as error:
            raise _broken(
                instrument, "answers on an empty budget", f"{type(error).__name__}: {error}"
            ) from error
        spent, seconds = gradients_of(result.cost), time.perf_counter() - start
        if result.status.state is State.NOT_APPLICABLE:
            continue
        said = result.status.state in CUT_SHORT
        # A limit on products concerns products only; one on time is kept by whatever is over at once.
        at_once = seconds < 0.05 or gradients_of(instrument.spec.price(subjects[0])) <= FREE
        within = not result.cost.products if budget == 0 else at_once
        _require(
            said or within,
            instrument,
            f"says that a budget of {budget} was too little",
            f"'{result.status}' after {spent:.3g} gradients",
        )
        if said:
            _require(
                spent <= FREE, instrument, f"stops at a budget of {budget}", f"{spent:.3g} gradients spent"
            )


def refuses_nan(instrument: Instrument, subject: str) -> None:
    """A parameter that is not a number never ends in a number that looks like one."""
    run, healthy = made(subject), _healthy(instrument, subject)
    with torch.no_grad():
        next(iter(run.model.parameters())).view(-1)[0] = math.nan
    before = fingerprint(run)
    try:
        result = _measure(instrument, run)
    except (NonFiniteError, InputError):
        _unchanged(instrument, before, run, " when it meets NaN")
        return
    _unchanged(instrument, before, run, " when it meets NaN")
    ignores = np.array_equal(np.asarray(healthy.value), np.asarray(result.value), equal_nan=True)
    silent = not result.status.usable or bool(np.isnan(np.asarray(result.value, dtype=float)).any())
    _require(ignores or silent, instrument, "gives no number for a broken model", f"{result}")


def survives_interruption(instrument: Instrument, subject: str) -> None:
    """Stopped in the middle it restores everything; what it returns, if anything, says that it was stopped."""
    run = made(subject)
    subjects = _subjects(instrument, run)
    before = fingerprint(run)
    calls = _Interruption(3)
    with calls.installed():
        try:
            result = instrument(*subjects, **_options(instrument))
        except KeyboardInterrupt:
            result = None
    _unchanged(instrument, before, run, " when it is interrupted")
    if calls.raised and result is not None:
        _require(
            result.status.state in CUT_SHORT | UNUSABLE,
            instrument,
            "says that it was interrupted",
            str(result.status),
        )
    again, fresh = _measure(instrument, run), _healthy(instrument, subject)
    alike = np.array_equal(np.asarray(again.value), np.asarray(fresh.value), equal_nan=True)
    _require(
        alike, instrument, "answers after an interruption as if there had been none", f"{again} / {fresh}"
    )


def respects_the_type(instrument: Instrument, subject: str) -> None:
    """It measures models in double precision, and exact values agree with those in single precision."""
    single = _healthy(instrument, subject)
    double = _measure(instrument, made(subject, dtype=torch.float64))
    _well_formed(instrument, double)
    kinds = (single.status.state in UNUSABLE, double.status.state in UNUSABLE)
    _require(
        kinds[0] == kinds[1], instrument, "answers in both precisions", f"{single.status} / {double.status}"
    )


def measures_one_example(instrument: Instrument, subject: str) -> None:
    """Data of a single example are answered or refused in words."""
    run = made(subject)
    if instrument.spec.needs not in {"objective", "pair", "data"}:
        return
    whole = run.objective()
    one = whole.on([_first(whole.batches[0])])
    others = [reference_for(run, instrument.spec.name)] if instrument.spec.needs == "pair" else []
    try:
        result = instrument(one, *others, **_options(instrument))
    except GeartrainError as error:
        _require(str(error).endswith("."), instrument, "refuses in a sentence", str(error))
    else:
        _well_formed(instrument, result)


CHECKS: dict[str, Callable[[Instrument, str], None]] = {
    f.__name__: f
    for f in (
        speaks,
        answers,
        answers_twice_alike,
        keeps_its_price,
        obeys_an_empty_budget,
        refuses_nan,
        survives_interruption,
        respects_the_type,
        measures_one_example,
    )
}


# ------------------------------------------------------------------ how they are checked


def gradients_of(cost: Cost) -> float:
    """A cost in gradients: a forward pass is a third of one, a curvature product two."""
    return cost.forwards / 3 + cost.gradients + 2 * cost.products


def _spec(instrument: Any) -> Spec:
    spec = getattr(instrument, "spec", None)
    if not isinstance(spec, Spec):
        raise InputError(
            f"{instrument!r} has no spec; make it with the decorator geartrain.instruments._base.instrument."
        )
    return spec


def _options(instrument: Instrument) -> dict[str, Any]:
    known = inspect.signature(instrument).parameters
    return {"generator": torch.Generator().manual_seed(5)} if "generator" in known else {}


def _subjects(instrument: Instrument, run: Run) -> tuple[Any, ...]:
    spec = _spec(instrument)
    subject = subject_for(spec.needs, run, spec.name)
    return (subject, reference_for(run, spec.name)) if spec.needs == "pair" else (subject,)


def _measure(instrument: Instrument, run: Run, *, world: int = 1) -> Measurement:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(world)
        return instrument(*_subjects(instrument, run), **_options(instrument))


_measured: weakref.WeakKeyDictionary[Any, dict[str, Measurement]] = weakref.WeakKeyDictionary()


def _healthy(instrument: Instrument, subject: str) -> Measurement:
    """What it answers when nothing is in its way; measured once."""
    known = _measured.setdefault(instrument, {})
    if subject not in known:
        known[subject] = _measure(instrument, made(subject))
    return known[subject]


def _well_formed(instrument: Instrument, result: Any) -> None:
    _require(isinstance(result, Measurement), instrument, "returns a Measurement", type(result).__name__)
    _require(result.name == instrument.spec.name, instrument, "returns its own name", result.name)
    _require(bool(result.unit), instrument, "returns a unit", "none")
    sentence = result.status.sentence
    spoken = bool(re.fullmatch(r"\S.*[.!?]", sentence, re.DOTALL))
    _require(spoken, instrument, "has a status that is a sentence", repr(sentence))
    value, error = np.asarray(result.value, dtype=float), np.asarray(result.standard_error, dtype=float)
    for name, size in zip(result.dims, value.shape, strict=True):
        labels = result.coords.get(name)
        fits = labels is None or len(labels) == size
        _require(fits, instrument, f"labels every entry along {name!r}", f"{size} entries, other labels")
    scalar_or_alike = error.ndim == 0 or error.shape == value.shape
    _require(scalar_or_alike, instrument, "has an error for each value", f"{error.shape} for {value.shape}")
    _require(not bool((error < 0).any()), instrument, "has no negative error", f"{error}")
    if result.status.state is State.EXACT:
        # Rounding has an error too, and an instrument may state it.
        rounding = 1e-4 * np.abs(value[np.isfinite(value)]).max(initial=1e-30)
        _require(not bool((error > rounding).any()), instrument, "has no error where it is exact", f"{error}")
    if not result.status.usable:
        _require(bool(np.isnan(value).all()), instrument, "has no value where there is none", f"{value}")
    jsonable(result)
    str(result)


def _unchanged(instrument: Instrument, before: dict[str, str], run: Run, when: str) -> None:
    after = fingerprint(run)
    changed = [part for part in before if before[part] != after[part]]
    _require(not changed, instrument, f"leaves the program as it was{when}", f"changed: {', '.join(changed)}")


def _first(batch: Any) -> Any:
    return tree_map(lambda leaf: leaf[:1], batch)


class _Interruption(torch.overrides.TorchFunctionMode):
    """Ctrl-C in the middle of the n-th matrix product or activation."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.left, self.raised = after, False

    def installed(self) -> _Interruption:
        """The context in which it may come."""
        return self

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in {torch.nn.functional.linear, torch.nn.functional.conv2d, torch.nn.functional.embedding}:
            self.left -= 1
            if self.left == 0:
                self.raised = True
                raise KeyboardInterrupt
        return func(*args, **(kwargs or {}))


def _require(kept: bool, instrument: Instrument, promise: str, seen: str) -> None:
    if not kept:
        raise _broken(instrument, promise, seen)


def _broken(instrument: Instrument, promise: str, seen: str) -> ConformanceError:
    return ConformanceError(f"{instrument.spec.name}: broken promise '{promise}'; seen: {seen}.")


__all__ = ["CHECKS", "SUBJECTS", "ConformanceError", "check_instrument", "gradients_of"]

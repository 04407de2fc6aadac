"""Evidence: every observable that a mechanism may ask for, measured once, within the time that is left."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from geartrain import instruments
from geartrain.budget import Budget
from geartrain.diagnosis import derived, forks
from geartrain.diagnosis.watched import Watched
from geartrain.errors import GeartrainError
from geartrain.mechanisms import Intervention
from geartrain.objective import Objective
from geartrain.records import ForkResult, Measurement, State, Status
from geartrain.run import Run

POINTS = ("start", "middle", "end")


@dataclass(frozen=True)
class Reading:
    """One number for one prediction: value, standard error, unit, and a note where there is none."""

    value: float | None
    error: float = 0.0
    unit: str = "1"
    note: str = ""


class Evidence:
    """Measures observables by name and remembers them.

    Args:
        run: The run, standing anywhere; it is restored after every measurement.
        watched: The original as it was watched.
        interventions: What can be tried, by name.
        deadline: Time of `time.perf_counter` after which nothing is started.
        seed: For every generator.
        probe: Examples in the probe on which objectives are measured.
    """

    def __init__(
        self,
        run: Run,
        watched: Watched,
        interventions: dict[str, Intervention],
        *,
        deadline: float,
        seed: int,
        probe: int,
    ) -> None:
        self.run = run
        self.watched = watched
        self.interventions = interventions
        self.deadline = deadline
        self.seed = seed
        self.probe = probe
        self.measurements: dict[str, Measurement] = {}
        self.forks: dict[str, ForkResult] = {}
        self.refused: dict[str, str] = {}
        self.skipped: list[str] = []
        self.fork_steps: int | None = None
        self.step_seconds = 0.0
        self.history = run.history
        self.baseline = float("nan")
        self.baseline_words = "the loss at the start"
        self._place: str | None = None
        self._objectives: dict[str, Objective] = {}

    # ------------------------------------------------------------------ asking

    def read(self, observable: str) -> Reading:
        """The number behind an observable, from what has been measured already (nothing is measured here)."""
        if " - " in observable:
            first, second = (self.read(part) for part in observable.split(" - "))
            if first.value is None or second.value is None:
                return Reading(None, note=first.note or second.note)
            return Reading(first.value - second.value, math.hypot(first.error, second.error), first.unit)
        if " | " in observable:
            return self._best(observable.split(" | "))
        if observable.startswith("fork:"):
            return self._read_fork(observable[5:])
        name, _, point = observable.partition("@")
        if point in {"max", "min"}:
            return self._extreme([self.read(f"{name}@{p}") for p in POINTS], max if point == "max" else min)
        name, _, detail = name.partition(".")
        key = f"{name}@{point}" if point else name
        found = self.measurements.get(key)
        return Reading(None, note="not measured") if found is None else _reading(found, detail)

    def _best(self, parts: list[str]) -> Reading:
        """The best of several forks, once all have been tried that can be."""
        untried = [n for part in parts for n in self.needs(part) if not self.known(n)]
        if untried and self.remaining > 0:
            return Reading(None, note=f"not tried yet: {untried[0]}")
        return self._extreme([self.read(part) for part in parts], max)

    @staticmethod
    def _extreme(readings: list[Reading], choose: Callable[..., Reading]) -> Reading:
        known = [r for r in readings if r.value is not None]
        if not known:
            return Reading(None, note=readings[0].note)
        return choose(known, key=lambda r: r.value)

    def _read_fork(self, name: str) -> Reading:
        name, _, what = name.partition(".")
        fork = self.forks.get(name)
        if fork is None:
            return Reading(None, note=self.refused.get(name, "not tried"))
        planned = float(fork.details.get("planned", fork.steps))
        if not fork.complete and fork.steps < forks.TELLING * planned:
            return Reading(None, note=f"the budget ended it after {fork.steps} of {planned:.0f} steps")
        if what == "validation_gain":
            value, error = fork.validation_gain, fork.validation_gain_error
        elif what:
            value, error = float(fork.details.get(what, math.nan)), 0.0
        else:
            value, error = fork.gain, fork.gain_error
        if math.isnan(value):
            return Reading(None, note="the fork has no such data")
        return Reading(value, error)

    # ------------------------------------------------------------------ measuring

    def needs(self, observable: str) -> list[str]:
        """Names of the single measurements and forks that an observable is made of."""
        for sign in (" - ", " | "):
            if sign in observable:
                return [n for part in observable.split(sign) for n in self.needs(part)]
        if observable.startswith("fork:"):
            return ["fork:" + observable[5:].partition(".")[0]]
        name, _, point = observable.partition("@")
        name = name.partition(".")[0]
        if point in {"max", "min"}:
            return [f"{name}@{p}" for p in POINTS]
        return [f"{name}@{point}" if point else name]

    def known(self, need: str) -> bool:
        """Whether it has been measured, tried or refused."""
        if need.startswith("fork:"):
            return need[5:] in self.forks or need[5:] in self.refused
        return need in self.measurements

    def measure(self, need: str) -> None:
        """Measure one thing and put the run back; what cannot be measured is recorded with its reason."""
        if time.perf_counter() >= self.deadline and not need.startswith("run:"):
            self.skipped.append(
                need
            )  # what is derived from other readings costs nothing and is never skipped
            return
        if need.startswith("fork:"):
            forks.attempt(self, need[5:])
        elif need.startswith("run:"):
            for part in derived.parts(need):
                if not self.known(part):
                    self.measure(part)
            derived.derive(self, need)
        else:
            self.measurements[need] = self._measure(need)

    def _measure(self, need: str) -> Measurement:
        name, _, point = need.partition("@")
        try:
            function = instruments.get(name)
        except GeartrainError as error:
            return unmeasured(name, str(error))
        budget = Budget(deadline=min(self.deadline, time.perf_counter() + 0.15 * self.remaining + 0.05))
        generator = torch.Generator().manual_seed(self.seed)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                subject = self._subject(function.spec.needs, point or "start")
                return function(subject, generator=generator, budget=budget)
        except Exception as error:
            # One instrument that fails on an exotic model must not cost the whole diagnosis: it is reported instead.
            return unmeasured(
                name, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            )

    def _subject(self, needs: str, point: str) -> Any:
        if needs == "history":
            return self.history
        self.go(point)
        if needs in {"run", "data"}:
            # Of data alone there is no need to make do with the small probe that products can afford.
            return self.run
        if point not in self._objectives:
            for other in self._objectives.values():
                other.release()
            self._objectives = {point: self.run.objective(probe=self.probe)}
        return self._objectives[point]

    def go(self, point: str) -> None:
        """Put the run at a point, if it is not there."""
        if self._place != point:
            self.run.restore(self.watched.point(point))
            self.run.history = (
                self.history.truncated(self.run.step_count, 0) if point != "end" else self.history
            )
            self._place = point
            self._objectives = {}

    def moved(self) -> None:
        """Forget where the run stands: something else has moved it."""
        self._place = None

    @property
    def remaining(self) -> float:
        """Seconds left."""
        return max(self.deadline - time.perf_counter(), 0.0)


def unmeasured(name: str, reason: str) -> Measurement:
    """A measurement that says why there is none."""
    return Measurement(name, math.nan, "1", Status(State.NOT_APPLICABLE, reason), standard_error=math.nan)


def _reading(found: Measurement, detail: str) -> Reading:
    if not found.status.usable:
        return Reading(None, note=found.status.sentence)
    value = found.details.get(detail, math.nan) if detail else found.value
    if not isinstance(value, (int, float, bool, np.generic)):
        return Reading(None, note=f"{found.name}{'.' + detail if detail else ''} is not a single number")
    value = float(value)
    error = found.details.get(f"{detail}_error", 0.0) if detail else found.standard_error
    if math.isnan(value):
        return Reading(None, note=found.status.sentence)
    return Reading(value, float(np.max(error)), found.unit if not detail else "1")

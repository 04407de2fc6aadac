"""Alarms: the few things that nobody wants to find out at the end of a run, each with its reason.

They are few on purpose. On a healthy run there is none; a condition that lasts is reported once.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

SIGMAS = 8.0
LEAST_FACTOR = 2.0
MEMORY = 64
"""Values that a jump is judged by."""

QUIET = 100
"""Steps for which the same alarm is not repeated while its condition goes on."""


@dataclass(frozen=True)
class Alarm:
    """Something that wants attention.

    Attributes:
        step: Step at which it was noticed, counted from 0.
        kind: ``"non-finite"``, ``"loss spike"``, ``"gradient spike"``, ``"skipped steps"``, ``"no gradient"``, or
            ``"overshoot"``.
        sentence: What was seen, with numbers.
    """

    step: int
    kind: str
    sentence: str

    def __str__(self) -> str:
        return f"step {self.step}: {self.kind}: {self.sentence}"


@dataclass
class _Level:
    """The usual size of a positive quantity, and what is far above it.

    A jump exceeds the median of the last values both by a factor and by many robust deviations of the logarithm.
    """

    values: deque[float] = field(default_factory=lambda: deque(maxlen=MEMORY))
    limit: float = math.inf
    median: float = math.nan
    until_next: int = 16

    def jumped(self, value: float) -> bool:
        if not (math.isfinite(value) and value > 0):
            return False
        high = value > self.limit
        if not high:
            self.values.append(value)
        self.until_next -= 1
        if self.until_next <= 0:  # sorting at every step would cost more than the step's own numbers
            self._judge()
        return high

    def _judge(self) -> None:
        self.until_next = 16
        logs = np.log(np.array(self.values))
        middle = float(np.median(logs))
        spread = 1.4826 * float(np.median(np.abs(logs - middle)))
        self.median = math.exp(middle)
        if len(logs) >= 16:
            self.limit = math.exp(min(middle + max(SIGMAS * spread, math.log(LEAST_FACTOR)), 700.0))


@dataclass
class Alarms:
    """Listens to the rows and remembers what it heard.

    Attributes:
        raised: All alarms so far.
    """

    raised: list[Alarm] = field(default_factory=list)
    _loss: _Level = field(default_factory=_Level)
    _gradient: _Level = field(default_factory=_Level)
    _latest: dict[str, int] = field(default_factory=dict)
    _gauges: deque[float] = field(default_factory=lambda: deque(maxlen=16))
    _turns: deque[float] = field(default_factory=lambda: deque(maxlen=16))
    _still: dict[str, int] = field(default_factory=dict)
    _moving: set[str] = field(default_factory=set)
    _skipped: deque[int] = field(default_factory=lambda: deque(maxlen=64))

    def hear(
        self, step: int, numbers: Mapping[str, float], layers: Mapping[str, Mapping[str, float]]
    ) -> list[Alarm]:
        """Judge one row; returns the alarms that it raises."""
        count = len(self.raised)
        if not layers and len(numbers) <= 2:  # most rows: a loss and a step size
            if not math.isfinite(numbers.get("loss", 0.0)):
                self._finite(step, numbers, layers)
            self._jumps(step, numbers)
            return self.raised[count:]
        self._finite(step, numbers, layers)
        self._jumps(step, numbers)
        self._no_gradient(step, layers)
        self._overshoot(step, numbers)
        return self.raised[count:]

    def skipped(self, step: int) -> None:
        """A gradient was thrown away without a step. One now and then is how mixed precision finds its scale."""
        self._skipped.append(step)
        recent = sum(s > step - 50 for s in self._skipped)
        if recent >= 8:
            self._raise(
                step,
                "skipped steps",
                f"{recent} of the last 50 gradients were thrown away without a step; with mixed precision: the loss "
                "scale keeps overflowing.",
            )

    def _raise(self, step: int, kind: str, sentence: str) -> None:
        latest = self._latest.get(kind)
        self._latest[kind] = step
        if latest is None or step - latest > QUIET:
            self.raised.append(Alarm(step, kind, sentence))

    def _finite(
        self, step: int, numbers: Mapping[str, float], layers: Mapping[str, Mapping[str, float]]
    ) -> None:
        bad = [
            n
            for n in ("loss", "grad_norm", "param_norm", "update_norm")
            if not _finite_or_missing(numbers, n)
        ]
        if not bad:
            return
        where = _first_culprit(layers)
        origin = f", first in layer {where}" if where else ""
        self._raise(step, "non-finite", f"{' and '.join(bad)} stopped being finite{origin}.")

    def _jumps(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, level in (("loss", self._loss), ("gradient", self._gradient)):
            value = numbers.get("loss" if name == "loss" else "grad_norm")
            if value is not None and level.jumped(value):
                self._raise(
                    step,
                    f"{name} spike",
                    f"{'the loss' if name == 'loss' else 'the gradient norm'} is {value:.3g}, "
                    f"{value / level.median:.1f} times the median of the steps before.",
                )

    def _no_gradient(self, step: int, layers: Mapping[str, Mapping[str, float]]) -> None:
        norms = layers.get("grad_norm")
        if not norms:
            return
        if norms.keys() <= self._moving:
            return
        self._moving |= {name for name, value in norms.items() if value != 0.0}
        for name, value in norms.items():
            self._still[name] = self._still.get(name, 0) + 1 if value == 0.0 else -(10**9)
        still = [name for name, times in self._still.items() if times >= 10]
        if still and any(v > 0 for v in norms.values()):
            for name in still:
                self._still[name] = -(10**9)  # said once
            listed = ", ".join(still[:5]) + (", ..." if len(still) > 5 else "")
            self._raise(
                step, "no gradient", f"the optimizer holds {listed}, but no gradient has ever arrived there."
            )

    def _overshoot(self, step: int, numbers: Mapping[str, float]) -> None:
        if "gauge" not in numbers or not math.isfinite(numbers["gauge"]):
            return
        self._gauges.append(numbers["gauge"])
        self._turns.append(numbers.get("cosine", math.nan))
        if len(self._gauges) < 16:
            return
        gauge, turn = statistics.median(self._gauges), statistics.median(self._turns)
        # Beyond the minimum *and* turning round: either alone is normal near the edge of stability.
        if gauge > 0.5 and turn < -0.5:
            self._raise(
                step,
                "overshoot",
                f"steps land beyond the minimum of their own parabola (gauge {gauge:.2f}) and turn back (cosine "
                f"{turn:.2f}): the step size is too long for the sharpest direction.",
            )


def _first_culprit(layers: Mapping[str, Mapping[str, float]]) -> str | None:
    """Where it began: the first layer on the way in, its weights, or else the last one on the way back."""
    for table, step in (("activation_rms", 1), ("param_norm", 1), ("grad_norm", -1)):
        for name, value in list(layers.get(table, {}).items())[::step]:
            if not math.isfinite(value):
                return name
    return None


def _finite_or_missing(numbers: Mapping[str, float], name: str) -> bool:
    return name not in numbers or math.isfinite(numbers[name])

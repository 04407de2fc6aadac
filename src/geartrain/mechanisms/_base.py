"""What a mechanism is made of: predictions with thresholds from theory, interventions, a remedy.

All of it is data, so that a prediction is on record before anything is measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from geartrain.errors import UnsupportedError
from geartrain.run import Change, Run

Point = Literal["start", "middle", "end"]


@dataclass(frozen=True)
class Expect:
    """A threshold, and how far beyond it a value has to be to count fully.

    Attributes:
        low: The value must be above this, if given.
        high: The value must be below this, if given.
        soft: On a linear scale the distance, on a logarithmic one the factor, at which a prediction is *clearly*
            kept or broken; closer to the threshold it counts in proportion.
        log: Whether factors matter rather than differences.
    """

    low: float | None = None
    high: float | None = None
    soft: float = 1.0
    log: bool = False

    def degree(self, value: float, error: float = 0.0) -> float:
        """From -1 (clearly broken) over 0 (at the threshold) to +1 (clearly kept).

        A standard error shrinks it: the distance is divided by sqrt(soft² + error²), not by soft.

        >>> above(1.0, soft=2.0, log=True).degree(2.0), below(0.1, soft=0.1).degree(0.15)
        (1.0, -0.5)
        """
        margins = []
        if self.low is not None:
            margins.append(self._distance(value, self.low, error))
        if self.high is not None:
            margins.append(-self._distance(value, self.high, error))
        return max(-1.0, min(1.0, round(min(margins), 12)))

    def _distance(self, value: float, threshold: float, error: float) -> float:
        error = error if math.isfinite(error) else 0.0
        if not self.log:
            return (value - threshold) / math.hypot(self.soft, error)
        if value <= 0:
            return -1.0
        relative = error / value if math.isfinite(value) else 0.0
        return math.log(value / threshold) / math.hypot(math.log(self.soft), relative)

    def __str__(self) -> str:
        if self.low is not None and self.high is not None:
            return f"between {self.low:g} and {self.high:g}"
        return f"above {self.low:g}" if self.low is not None else f"below {self.high or 0.0:g}"


def above(threshold: float, *, soft: float, log: bool = False) -> Expect:
    """The value is above the threshold."""
    return Expect(low=threshold, soft=soft, log=log)


def below(threshold: float, *, soft: float, log: bool = False) -> Expect:
    """The value is below the threshold."""
    return Expect(high=threshold, soft=soft, log=log)


@dataclass(frozen=True)
class Prediction:
    """What a mechanism commits to about one observable.

    Attributes:
        observable: ``"instrument@point"``, ``"instrument.detail@point"``, ``"run:quantity"``, or
            ``"fork:name"`` / ``"fork:name.validation_gain"`` for the effect of an intervention. Two of them joined by
            ``" - "`` mean their difference, joined by ``" | "`` the larger one. The point ``max`` or ``min`` takes the extreme over all points.
        title: The observable in a few words.
        expect: The threshold.
        theory: Why, with the source of the threshold.
        weight: Log-odds that it adds when clearly kept (never negative).
        counter: Log-odds that it takes away when clearly broken (never negative).
        internal: Whether it looks inside the network or its updates.
    """

    observable: str
    title: str
    expect: Expect
    theory: str
    weight: float
    counter: float
    internal: bool = True

    @property
    def intervention(self) -> bool:
        """Whether something has to be tried for it."""
        return "fork:" in self.observable


@dataclass(frozen=True)
class Intervention:
    """Something to try on a fork.

    Attributes:
        name: Short name, the same wherever the same thing is tried: ``"lr / 10"``.
        description: One sentence.
        make: ``make(run) -> Change``, called on the run at the fork's checkpoint; raises `UnsupportedError` with
            the reason where it cannot be tried on this run.
        at: Checkpoint that it leaves from.
        stretch: Steps in the fork per step of the original with which it is compared (8 for an eighth of the batch:
            the same number of examples).
        beyond: Leaves from the end and goes on for as long as the run has taken; compared with the end itself.
        tries: How often it is tried, each time with new random numbers; the best counts, and the share of tries
            that recover a tenth of the baseline is noted as ``success``.
        measure: Instruments read at the end of the fork; their values are noted under their names.
    """

    name: str
    description: str
    make: Callable[[Run], Change]
    at: Point = "start"
    stretch: float = 1.0
    beyond: bool = False
    tries: int = 1
    measure: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mechanism:
    """A hypothesis about why a run behaves as it does.

    Attributes:
        name: From the vocabulary of mechanisms.
        title: The same for people.
        statement: What it claims, one or two sentences.
        predictions: Its gears.
        interventions: What it wants to see tried.
        remedy: What to do, one sentence.
        remedy_forks: Names of the interventions that try the remedy (the best one counts); none if it cannot be tried.
        prior: Log-odds before anything is measured.
        principled: Where its thresholds come from.
        validates: Whether its remedy is judged on the validation data rather than on the training loss.
        upstream_of: Mechanisms that it brings about when it is at work: they are then consequences, not rivals.
    """

    name: str
    title: str
    statement: str
    predictions: tuple[Prediction, ...]
    interventions: tuple[Intervention, ...]
    remedy: str
    remedy_forks: tuple[str, ...]
    prior: float = -3.0
    principled: str = "heuristic"
    validates: bool = False
    upstream_of: tuple[str, ...] = ()

    @property
    def gearsiness(self) -> int:
        """How many different internal observables it commits to (the same one at two points counts once)."""
        return len(
            {p.observable.partition("@")[0] for p in self.predictions if p.internal and not p.intervention}
        )

    @property
    def knob_only(self) -> bool:
        """Whether it commits to nothing inside the network."""
        return self.gearsiness == 0


def constant(change: Change) -> Callable[[Run], Change]:
    """An intervention that is the same for every run."""
    return lambda run: change


def need(condition: bool, reason: str) -> None:
    """Refuse an intervention that this run does not allow.

    Raises:
        UnsupportedError: The condition does not hold; the reason goes into the report.
    """
    if not condition:
        raise UnsupportedError(reason)

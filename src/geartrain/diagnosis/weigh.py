"""Weighing: from readings to gears to probabilities.

Per mechanism a logistic model over its own predictions, with signs constrained: a kept prediction can only speak
for it, a broken one only against. The weights are the mechanism's own (from theory, not yet fitted on runs).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from geartrain.diagnosis.evidence import Evidence
from geartrain.mechanisms import Mechanism, Prediction
from geartrain.records import Finding, Gear, Verdict, format_number

CLEAR = 0.35
"""Degrees within this distance of the threshold are called unclear."""
CONSEQUENCE = 3.0
"""Log-odds that a mechanism loses to one upstream of it that is at work: its gears turn for another reason."""


NEARLY = 1.5
"""An upstream mechanism claims a consequence that is up to this much likelier than itself (log-odds)."""


@dataclass(frozen=True)
class Weighed:
    """A mechanism with its gears and its log-odds."""

    mechanism: Mechanism
    gears: tuple[Gear, ...]
    logit: float
    consequence_of: str | None = None

    @property
    def probability(self) -> float:
        """The same as a probability."""
        return sigmoid(self.logit)


def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)), without overflow."""
    return 0.5 * (1.0 + math.tanh(0.5 * x))


def gear(prediction: Prediction, evidence: Evidence) -> Gear:
    """One prediction beside its reading."""
    reading = evidence.read(prediction.observable)
    verdict: Verdict = "not measured"
    degree = weight = 0.0
    if reading.value is not None:
        degree = prediction.expect.degree(reading.value, reading.error)
        weight = degree * (prediction.weight if degree > 0 else prediction.counter)
        verdict = "kept" if degree >= CLEAR else "broken" if degree <= -CLEAR else "unclear"
    return Gear(
        observable=prediction.observable,
        title=prediction.title,
        expected=str(prediction.expect),
        theory=prediction.theory,
        measured=reading.value,
        standard_error=reading.error,
        unit=reading.unit,
        verdict=verdict,
        degree=degree,
        weight=weight,
        internal=prediction.internal and not prediction.intervention,
        intervention=prediction.intervention,
        note=reading.note,
    )


def weigh_one(mechanism: Mechanism, evidence: Evidence) -> Weighed:
    """The log-odds of one mechanism by itself."""
    gears = tuple(gear(p, evidence) for p in mechanism.predictions)
    return Weighed(mechanism, gears, mechanism.prior + sum(g.weight for g in gears))


def optimistic(mechanism: Mechanism, evidence: Evidence) -> float:
    """The most that its probability can still become, if everything not yet measured turns out as it predicts."""
    weighed = weigh_one(mechanism, evidence)
    missing = sum(
        p.weight
        for p, g in zip(mechanism.predictions, weighed.gears, strict=True)
        if g.verdict == "not measured" and not all(evidence.known(n) for n in evidence.needs(p.observable))
    )
    return sigmoid(weighed.logit + missing)


def weigh(mechanisms: Sequence[Mechanism], evidence: Evidence) -> list[Weighed]:
    """All mechanisms, most probable first; consequences of one that is at work are weighed down."""
    waiting = [weigh_one(m, evidence) for m in mechanisms]
    settled: list[Weighed] = []
    while waiting:
        waiting.sort(key=lambda w: -w.logit)
        leader = next((w for w in waiting if not any(_brings_about(u, w) for u in waiting)), waiting[0])
        waiting.remove(leader)
        settled.append(leader)
        if leader.logit > 0:
            waiting = [_after(leader, w) for w in waiting]
    return sorted(settled, key=lambda w: -w.logit)


def _brings_about(first: Weighed, second: Weighed) -> bool:
    """Whether the first is at work and upstream of the second (of two that claim each other, the likelier is)."""
    if first.logit <= 0 or second.mechanism.name not in first.mechanism.upstream_of:
        return False
    mutual = first.mechanism.name in second.mechanism.upstream_of
    return first.logit > second.logit if mutual else first.logit > second.logit - NEARLY


def _after(leader: Weighed, other: Weighed) -> Weighed:
    if other.consequence_of or not _brings_about(leader, other):
        return other
    return Weighed(other.mechanism, other.gears, other.logit - CONSEQUENCE, leader.mechanism.name)


def finding(weighed: Weighed, evidence: Evidence, titles: dict[str, str]) -> Finding:
    """What the report says of a mechanism."""
    mechanism = weighed.mechanism
    gears = tuple(sorted(weighed.gears, key=lambda g: -abs(g.weight)))
    fork, effect, error = _remedy(mechanism, evidence)
    broken = any(g.degree <= -0.6 and g.weight <= -0.5 for g in gears)
    return Finding(
        mechanism=mechanism.name,
        title=mechanism.title,
        statement=mechanism.statement,
        sentence=_sentence(gears, weighed, titles),
        probability=weighed.probability,
        predictions=gears,
        remedy=mechanism.remedy,
        remedy_fork=fork,
        remedy_effect=effect,
        remedy_effect_error=error,
        gearsiness=mechanism.gearsiness,
        knob_only=mechanism.knob_only,
        principled=mechanism.principled,
        incomplete=weighed.logit > 0 and broken,
    )


def _remedy(mechanism: Mechanism, evidence: Evidence) -> tuple[str | None, float | None, float | None]:
    """The fork that tried the remedy best, with its effect and standard error."""
    tried = [evidence.forks[n] for n in mechanism.remedy_forks if n in evidence.forks]
    held = mechanism.validates
    effects = [
        (f.validation_gain, f.validation_gain_error, f.name) if held else (f.gain, f.gain_error, f.name)
        for f in tried
    ]
    known = [e for e in effects if not math.isnan(e[0])]
    if not known:
        return (tried[0].name if tried else None), None, None
    effect, error, name = max(known)
    return name, effect, error


def _sentence(gears: tuple[Gear, ...], weighed: Weighed, titles: dict[str, str]) -> str:
    """The two heaviest gears in words, and what it is a consequence of."""
    heavy = [g for g in gears if g.measured is not None and abs(g.weight) > 0.2][:2]
    said = [f"{g.title}: {_value(g)} (predicted {g.expected}, {g.verdict})" for g in heavy]
    text = "; ".join(said)
    text = (text[0].upper() + text[1:] + ".") if text else "Nothing that it predicts was measured."
    if weighed.consequence_of:
        text += f" Weighed down: {titles[weighed.consequence_of]} brings it about."
    return text


def _value(gear: Gear) -> str:
    """What was measured, with its error where it has one."""
    error = gear.standard_error
    known = f" ± {format_number(error, 2)}" if math.isfinite(error) and error > 0 else ""
    return format_number(gear.measured or 0.0) + known

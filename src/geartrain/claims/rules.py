"""Rules: from effect and control to supported, refuted or inconclusive. Nothing else decides.

A claim is *supported* where the whole interval of its effect lies where the claim said it would and every control lies
where a control has to lie. It is *refuted* where the whole interval lies elsewhere, or where a control shows the very
same effect, so that the named cause is not the cause. Everything else is *inconclusive*, and says how many seeds would
decide.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from geartrain.claims.effect import Effect, Finding
from geartrain.records import format_number

INF = math.inf


class Outcome(StrEnum):
    """What became of a claim, or of a part of it."""

    SUPPORTED = "supported"
    REFUTED = "refuted"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Decision:
    """An outcome with its reason.

    Attributes:
        outcome: What the rule says.
        because: One sentence.
        more_seeds: About how many would decide, where it is inconclusive and seeds can.
    """

    outcome: Outcome
    because: str
    more_seeds: int | None = None


class Rule(Protocol):
    """Anything that decides from a finding. A claim may bring its own: a frozen dataclass in its file."""

    @property
    def sentence(self) -> str:
        """The rule in words."""
        ...

    def decide(self, finding: Finding) -> Decision:
        """Apply it."""
        ...


@dataclass(frozen=True)
class Interval:
    """The effect's whole interval lies in [low, high], and that of every control in a band of its own.

    Attributes:
        low: Lower bound.
        high: Upper bound.
        control: The band for the controls; None where the part has no control of its own.
        same_refutes: A control whose interval lies in [low, high] shows the same effect and refutes the part.
    """

    low: float = -INF
    high: float = INF
    control: tuple[float, float] | None = None
    same_refutes: bool = True

    @property
    def sentence(self) -> str:
        """The rule in words."""
        told = f"Supported if the 95 % interval lies {_band(self.low, self.high)}"
        if self.control is not None:
            told += f" and the control's {_band(*self.control)}"
        told += "; refuted if the interval lies wholly elsewhere"
        if self.control is not None and self.same_refutes:
            told += " or the control shows the same effect"
        return told + "; inconclusive otherwise."

    def decide(self, finding: Finding) -> Decision:
        """Apply it to one effect and its controls."""
        if len(finding.effects) != 1:
            raise TypeError("Interval decides on one effect; use Every or Some for several.")
        (effect,) = finding.effects.values()
        return self.weigh(effect, finding)

    def weigh(self, effect: Effect, finding: Finding) -> Decision:
        """Decide on one effect, with the controls of the finding."""
        if not effect.finite:
            return Decision(Outcome.INCONCLUSIVE, "The effect could not be computed.")
        if effect.outside(self.low, self.high):
            return Decision(
                Outcome.REFUTED, f"The interval of {effect} lies outside the band that was foretold."
            )
        if self.control is not None:
            if not finding.control:
                return Decision(Outcome.INCONCLUSIVE, "The control is missing.")
            for name, control in finding.control.items():
                if self.same_refutes and control.inside(self.low, self.high):
                    return Decision(
                        Outcome.REFUTED, f"The control ({name}) shows the same effect: {control}."
                    )
        if not effect.inside(self.low, self.high):
            more = effect.more_seeds(self.low, self.high)
            return Decision(
                Outcome.INCONCLUSIVE, f"The interval of {effect} crosses a bound of the rule.", more
            )
        for name, control in finding.control.items() if self.control is not None else ():
            if not control.inside(*(self.control or (0, 0))):
                more = control.more_seeds(*(self.control or (0, 0)))
                told = f"The effect is as foretold, but the control ({name}) is not where it has to be: {control}."
                return Decision(Outcome.INCONCLUSIVE, told, more)
        quiet = " and the control is quiet" if self.control is not None else ""
        return Decision(Outcome.SUPPORTED, f"The interval of {effect} lies within the rule{quiet}.")


def above(
    delta: float, *, control: tuple[float, float] | str | None = "auto", same_refutes: bool = True
) -> Interval:
    """The effect exceeds delta; the control lies in [-delta, delta] unless told otherwise."""
    band = (-abs(delta), abs(delta)) if isinstance(control, str) else control
    return Interval(delta, INF, band, same_refutes)


def below(delta: float, *, control: tuple[float, float] | None = None, same_refutes: bool = True) -> Interval:
    """The effect stays below delta."""
    return Interval(-INF, delta, control, same_refutes)


def within(
    low: float, high: float, *, control: tuple[float, float] | None = None, same_refutes: bool = True
) -> Interval:
    """The effect lies in a band."""
    return Interval(low, high, control, same_refutes)


@dataclass(frozen=True)
class Every:
    """For words such as "only" and "never": each of several effects has to obey; one that clearly does not refutes.

    Attributes:
        rule: For each of them.
    """

    rule: Interval

    @property
    def sentence(self) -> str:
        """The rule in words."""
        return f"For every cell: {self.rule.sentence} One cell clearly against it refutes the universal."

    def decide(self, finding: Finding) -> Decision:
        """Refuted if one is, supported if all are."""
        found = {name: self.rule.weigh(e, finding) for name, e in finding.effects.items()}
        against = {n: d for n, d in found.items() if d.outcome is Outcome.REFUTED}
        if against:
            name, decision = next(iter(against.items()))
            return Decision(Outcome.REFUTED, f"{name}: {decision.because}")
        open_ = {n: d for n, d in found.items() if d.outcome is Outcome.INCONCLUSIVE}
        if open_:
            name, decision = next(iter(open_.items()))
            more = max((d.more_seeds or 0 for d in open_.values()), default=0) or None
            return Decision(Outcome.INCONCLUSIVE, f"{name}: {decision.because}", more)
        return Decision(Outcome.SUPPORTED, f"Every one of {len(found)} cells obeys.")


@dataclass(frozen=True)
class Some:
    """At least so many of several effects obey.

    Attributes:
        rule: For each of them.
        least: How many have to.
    """

    rule: Interval
    least: int

    @property
    def sentence(self) -> str:
        """The rule in words."""
        return f"For at least {self.least} cells: {self.rule.sentence}"

    def decide(self, finding: Finding) -> Decision:
        """Supported if enough are, refuted if so many are refuted that enough cannot be."""
        found = [self.rule.weigh(e, finding) for e in finding.effects.values()]
        yes = sum(d.outcome is Outcome.SUPPORTED for d in found)
        no = sum(d.outcome is Outcome.REFUTED for d in found)
        told = f"{yes} of {len(found)} cells obey, {no} clearly do not."
        if yes >= self.least:
            return Decision(Outcome.SUPPORTED, told)
        if len(found) - no < self.least:
            return Decision(Outcome.REFUTED, told)
        more = max((d.more_seeds or 0 for d in found), default=0) or None
        return Decision(Outcome.INCONCLUSIVE, told, more)


def _band(low: float, high: float) -> str:
    if high == INF:
        return f"above {format_number(low)}"
    if low == -INF:
        return f"below {format_number(high)}"
    return f"inside [{format_number(low)}, {format_number(high)}]"

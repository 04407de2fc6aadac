"""A verdict: what became of a claim, part by part, with the numbers it rests on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from geartrain.claims.effect import Effect, Finding
from geartrain.claims.rules import Decision, Outcome
from geartrain.records import jsonable


@dataclass(frozen=True)
class PartVerdict:
    """What became of one part.

    Attributes:
        name: Its name in the claim, such as "a".
        asks: The estimand in words.
        rule: The rule in words.
        bears: Whether the claim rests on it.
        finding: The numbers.
        decision: What the rule says of them.
    """

    name: str
    asks: str
    rule: str
    bears: bool
    finding: Finding
    decision: Decision

    @property
    def outcome(self) -> Outcome:
        """Supported, refuted or inconclusive."""
        return self.decision.outcome


@dataclass(frozen=True)
class Verdict:
    """What became of a claim.

    Attributes:
        claim: Name of the claim.
        version: Of its protocol and rule.
        outcome: The claim's: refuted if a part on which it rests is, supported if all of them are.
        parts: Each part's.
        scale: "full", "long", "quick" or "test"; only the first two give verdicts.
        seeds: The seeds.
        scope: For what it holds: loss, optimiser, architecture, size, data.
        withheld: Why there is no verdict although the rule would give one; empty if there is one.
        registration: Fingerprint of rule and analysis, written down before the data.
        gate: The instruments used and whether they passed their zoo check.
        invalid: Cells with NaN or infinite numbers, and units that failed.
        seconds: Processor-side seconds of all units together, where known.
        created: When it was reached (UTC).
        environment: Versions and machine.
        folder: Where the record lies.
    """

    claim: str
    version: int
    outcome: Outcome
    parts: tuple[PartVerdict, ...]
    scale: str
    seeds: tuple[int, ...]
    scope: str
    withheld: str = ""
    registration: str = ""
    gate: Mapping[str, str] = field(default_factory=dict)
    invalid: tuple[str, ...] = ()
    seconds: float = 0.0
    created: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: str = ""

    @property
    def deciding(self) -> PartVerdict:
        """The part that decided: the first bearing one with the claim's outcome."""
        bearing = [p for p in self.parts if p.bears] or list(self.parts)
        return next((p for p in bearing if p.outcome is self.outcome), bearing[0])

    @property
    def effect(self) -> Effect:
        """The deciding part's effect (its first, where it has several)."""
        return next(iter(self.deciding.finding.effects.values()))

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of `effect`."""
        return self.effect.low, self.effect.high

    @property
    def control(self) -> Mapping[str, Effect]:
        """Controls of the deciding part."""
        return self.deciding.finding.control

    @property
    def sentence(self) -> str:
        """The verdict in a sentence, with its scope."""
        told = f"{self.claim} is {self.outcome}"
        if self.withheld:
            told += f" ({self.withheld})"
        return f"{told}. Scope: {self.scope}"

    def __str__(self) -> str:
        lines = [self.sentence]
        for part in self.parts:
            lines.append(f"  ({part.name}) {part.outcome}: {part.asks}")
            for name, effect in part.finding.effects.items():
                lines.append(f"      {name + ': ' if name else ''}{effect}")
            for name, effect in part.finding.control.items():
                lines.append(f"      control, {name}: {effect}")
            lines.append(f"      {part.decision.because}")
            if part.decision.more_seeds and part.outcome is Outcome.INCONCLUSIVE:
                lines.append(f"      About {part.decision.more_seeds} seeds would decide.")
        lines += [f"  invalid: {told}" for told in self.invalid]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """In plain JSON types."""
        said = {
            name: getattr(self, name) for name in self.__dataclass_fields__ if name not in ("parts", "folder")
        }
        return jsonable(said | {"parts": [_part(p) for p in self.parts]})


def _part(part: PartVerdict) -> dict[str, Any]:
    return {
        "name": part.name, "asks": part.asks, "rule": part.rule, "bears": part.bears, "outcome": part.outcome,
        "because": part.decision.because, "more_seeds": part.decision.more_seeds, "note": part.finding.note,
        **{
            kind: {name: effect.to_dict() for name, effect in found.items()}
            for kind, found in (
                ("effects", part.finding.effects), ("control", part.finding.control), ("numbers", part.finding.numbers)
            )
        },
    }  # fmt: skip


def overall(parts: tuple[PartVerdict, ...]) -> Outcome:
    """Refuted if a part on which the claim rests is, supported if all of them are."""
    bearing = [p.outcome for p in parts if p.bears] or [p.outcome for p in parts]
    if Outcome.REFUTED in bearing:
        return Outcome.REFUTED
    return Outcome.SUPPORTED if set(bearing) == {Outcome.SUPPORTED} else Outcome.INCONCLUSIVE

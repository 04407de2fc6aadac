"""A claim: a statement about learning as a preregistered experiment. One file holds one."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from geartrain.budget import Budget
from geartrain.claims.effect import Finding
from geartrain.claims.results import Results
from geartrain.claims.rules import Rule
from geartrain.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from geartrain.claims.verdict import Verdict

SCALES = ("full", "long", "quick", "test")
SECTIONS = ("Question", "Protocol", "Control", "Pitfalls", "Literature", "What would change our mind")


@dataclass(frozen=True)
class Part:
    """One thing that a claim asks.

    Attributes:
        asks: The estimand in words, with its unit: what is compared with what.
        rule: Decides.
        bears: The claim itself rests on it; False for validity checks and side questions.
        axis: What the effect's axis is called in the figure of all intervals.
    """

    asks: str
    rule: Rule
    bears: bool = True
    axis: str = ""


@dataclass(frozen=True)
class Source:
    """Where a claim is made.

    Attributes:
        file: The document.
        quotes: Its words.
    """

    file: str
    quotes: tuple[str, ...] = field(default=())


class Claim:
    """A statement about learning as an experiment. A file of `geartrain.claims` holds one subclass, bound to ``CLAIM``.

    The order of a file is: what is claimed and how it is tested (module docstring, in sections that begin with
    ``**Question**``, ``**Protocol**``, ``**Control**``, ``**Pitfalls**``, ``**Literature**`` and ``**What would change
    our mind**``), the class with its parts, the settings (`cells`), one unit of work (`compute`), what the numbers mean
    (`analyse`), the figure (`draw`).

    Attributes:
        title: For people.
        statement: The claim in one sentence.
        source: Where it is made.
        ledger: Ids of what the source documents say that it answers to.
        version: Of protocol and rule; raised when either changes, with the reason in `changed`.
        changed: How the protocol differs from the one first written down, and why; empty if it does not.
        seeds: Number of seeds of a full run.
        minutes: What a full run takes on two cores, about.
        instruments: Instruments whose zoo check has to pass first.
        scope: For what a verdict holds.
        parts: What it asks.
    """

    title: ClassVar[str] = ""
    statement: ClassVar[str] = ""
    source: ClassVar[Source]
    ledger: ClassVar[tuple[str, ...]] = ()
    version: ClassVar[int] = 1
    changed: ClassVar[str] = ""
    seeds: ClassVar[int] = 8
    minutes: ClassVar[float] = 5.0
    instruments: ClassVar[tuple[str, ...]] = ()
    scope: ClassVar[str] = ""
    parts: ClassVar[Mapping[str, Part]]

    @property
    def name(self) -> str:
        """That of its file, with hyphens."""
        return type(self).__module__.rpartition(".")[2].replace("_", "-")

    @property
    def rule(self) -> str:
        """All its rules in words."""
        return " ".join(f"({name}) {part.rule.sentence}" for name, part in self.parts.items())

    @property
    def text(self) -> Mapping[str, str]:
        """The sections of its file's docstring; the lead has the name ``""``."""
        raw = inspect.getdoc(inspect.getmodule(type(self))) or ""
        raw = re.sub(r"^Ledger:.*\Z", "", raw, flags=re.MULTILINE | re.DOTALL)  # shown beside the source
        found = re.split(r"^\*\*([^*\n]+)\*\*\s*", raw, flags=re.MULTILINE)
        return {"": found[0].strip(), **{n: t.strip() for n, t in zip(found[1::2], found[2::2], strict=True)}}

    # ------------------------------------------------------------------ what a claim's file defines

    def cells(self, scale: str) -> list[dict[str, Any]]:
        """The settings of the protocol, each a flat dict of words and numbers.

        Args:
            scale: ``"full"``; ``"long"``, where there is one, goes further; ``"quick"`` takes less than a minute and
                gives no verdict; ``"test"`` a second or two.
        """
        raise NotImplementedError

    def compute(self, config: dict[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
        """One setting for a block of seeds.

        Returns:
            Arrays by name, the first axis the seeds: one number for each, or ``(("seed", ...), array)``. What never
            happened is counted as such (-1, or a flag), not as NaN.
        """
        raise NotImplementedError

    def analyse(self, results: Results) -> dict[str, Finding]:
        """The finding of each part. Deterministic: the same data give the same verdict."""
        raise NotImplementedError

    def draw(self, results: Results, figure: Figure) -> None:
        """The figure of the page: all seeds visible, axes with units."""
        raise NotImplementedError

    # ------------------------------------------------------------------ what everybody uses

    def run(
        self,
        seeds: int | Sequence[int] | None = None,
        budget: Budget | str | None = None,
        *,
        scale: str = "full",
        folder: str | Path | None = None,
        workers: int | None = None,
        progress: bool = True,
    ) -> Verdict:
        """Run the experiment, or what is left of it, and reach the verdict.

        Rule and analysis are registered in the folder first. Settings are computed as a sweep: Ctrl-C, a kill or the
        budget's end lose nothing that was finished, and the same call goes on. More seeds compute only what is new.

        **Cost** About `minutes` on two cores for a full run.

        Args:
            seeds: Number of seeds, or the seeds; by default the protocol's.
            budget: Time after which no further unit is begun, ``"10min"``; what is there is analysed, without verdict.
            scale: ``"full"``, ``"long"``, ``"quick"`` or ``"test"``; only the first two give verdicts.
            folder: Where the record lies; ``geartrain-claims/NAME/SCALE-FINGERPRINT`` by default.
            workers: Processes; by default one for each processor, 0 for none but this.
            progress: Show it on standard error.

        Returns:
            The verdict; its record lies in the folder.

        Raises:
            InputError: A bad argument, or the folder holds data of another rule.
        """
        from geartrain.claims.running import run

        return run(self, seeds, budget, scale=scale, folder=folder, workers=workers, progress=progress)

    def seeds_at(self, scale: str) -> int:
        """How many seeds the protocol takes at a scale: a quarter for quick runs."""
        if scale not in SCALES:
            raise InputError(f"scale is {scale!r}; it must be one of {', '.join(SCALES)}.")
        return self.seeds if scale in ("full", "long") else max(2, self.seeds // 4)

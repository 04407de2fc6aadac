"""The record of a claim: registration, numbers and verdict as plain files, read back and judged anew.

``registration.json`` was written before the data, ``data.npz`` holds every seed's numbers, ``record.json`` the verdict,
``figure.svg`` the figure.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geartrain.claims.effect import Effect, Finding
from geartrain.claims.registration import fingerprint
from geartrain.claims.results import DATA, Results
from geartrain.claims.rules import Decision, Outcome
from geartrain.claims.verdict import PartVerdict, Verdict, overall
from geartrain.errors import InputError
from geartrain.store import write_file

if TYPE_CHECKING:
    from geartrain.claims._base import Claim

RECORD, REGISTRATION, FIGURE = "record.json", "registration.json", "figure.svg"
FEWEST_SEEDS = 8
_FIRST_TO_LAST = ("full", "long")


def judge(
    claim: Claim,
    results: Results,
    *,
    scale: str,
    seeds: Sequence[int],
    registered: str,
    gate: Mapping[str, str],
    invalid: Sequence[str] = (),
    complete: bool = True,
    seconds: float = 0.0,
    folder: str = "",
) -> Verdict:
    """The verdict on these numbers. It is withheld where preregistration, gate, size or completeness forbid one."""
    broken = [f"{c.label}: {', '.join(c.broken)} not finite" for c in results if c.broken]
    parts = []
    try:
        findings = claim.analyse(results)
    except (InputError, KeyError, IndexError, ValueError) as error:
        if complete:
            raise
        findings = {}  # of an unfinished run there may be too little to analyse
        invalid = [*invalid, f"not analysed yet: {error}"]
    nothing = Effect(float("nan"), float("nan"), float("nan"))
    for name, part in claim.parts.items():
        finding = findings.get(name) or Finding(nothing, invalid="there are no numbers for it")
        decision = part.rule.decide(finding)
        if finding.invalid:
            decision = Decision(Outcome.INCONCLUSIVE, f"No verdict: {finding.invalid}.")
        parts.append(PartVerdict(name, part.asks, part.rule.sentence, part.bears, finding, decision))
    failed = [name for name, told in gate.items() if not told.startswith("passed")]
    reasons = [
        f"a {scale} run gives no verdict" if scale not in _FIRST_TO_LAST else "",
        "not all of it was run" if not complete else "",
        f"fewer than {FEWEST_SEEDS} seeds" if len(seeds) < FEWEST_SEEDS and scale in _FIRST_TO_LAST else "",
        "the rule or the analysis changed after the data" if registered != fingerprint(claim, scale) else "",
        f"failed on the zoo: {', '.join(failed)}" if failed else "",
    ]
    withheld = "; ".join(r for r in reasons if r)
    found = overall(tuple(parts))
    trend = f"; the trend is {found}" if scale not in _FIRST_TO_LAST and complete else ""
    return Verdict(
        claim=claim.name,
        version=claim.version,
        outcome=Outcome.INCONCLUSIVE if withheld else found,
        parts=tuple(parts),
        scale=scale,
        seeds=tuple(seeds),
        scope=claim.scope,
        withheld=withheld + trend if withheld else "",
        registration=registered,
        gate=dict(gate),
        invalid=(*invalid, *broken),
        seconds=seconds,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        environment=environment(),
        folder=folder,
    )


def load(folder: str | Path) -> Verdict:
    """The verdict of a record, reached anew from its numbers with today's rule.

    Where rule or analysis have changed since the data were taken, it is inconclusive and says so.

    Raises:
        InputError: The folder holds no record.
    """
    from geartrain import claims

    path = Path(folder)
    said, registered = _read(path, RECORD), _read(path, REGISTRATION)
    claim = claims.get(said["claim"])
    verdict = judge(
        claim,
        Results.load(path),
        scale=said["scale"],
        seeds=said["seeds"],
        registered=registered["fingerprint"],
        gate=said["gate"],
        invalid=said["failed"],
        complete=said["complete"],
        seconds=said["seconds"],
        folder=str(path),
    )
    return Verdict(**{**vars(verdict), "created": said["created"], "environment": said["environment"]})


def keep(
    folder: Path, claim: Claim, results: Results, verdict: Verdict, *, complete: bool, failed: Sequence[str]
) -> None:
    """Write the record beside its registration."""
    write_file(folder / DATA, results.pack())
    said = verdict.to_dict() | {"complete": complete, "failed": list(failed)}
    write_file(folder / RECORD, (json.dumps(said, indent=1, ensure_ascii=False) + "\n").encode())
    if complete:
        picture = figure(claim, results)
        if picture is not None:
            write_file(folder / FIGURE, picture)


def figure(claim: Claim, results: Results) -> bytes | None:
    """The claim's figure as SVG; None without matplotlib."""
    import io

    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        return None
    style: dict[Any, Any] = {
        "svg.hashsalt": claim.name, "axes.spines.top": False, "axes.spines.right": False,
        "font.size": 10, "axes.titlesize": 10.5, "legend.frameon": False, "legend.fontsize": 9,
    }  # fmt: skip
    with mpl.rc_context(style):
        picture = Figure(figsize=(9.2, 4.0), layout="constrained")
        claim.draw(results, picture)
        buffer = io.BytesIO()
        picture.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def environment() -> dict[str, str]:
    """Versions and machine."""
    import numpy as np
    import torch

    from geartrain import __version__

    return {
        "geartrain": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} processors",
    }


def _read(folder: Path, name: str) -> dict[str, Any]:
    try:
        return json.loads((folder / name).read_bytes())
    except FileNotFoundError:
        raise InputError(
            f"{folder} holds no {name}: no claim was run there. Give the folder of a record."
        ) from None

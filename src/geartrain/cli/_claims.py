"""``geartrain claims list | show | run | report``."""

from __future__ import annotations

from functools import singledispatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geartrain.cli import _checks, _output
from geartrain.cli._commands import ClaimsList, ClaimsReport, ClaimsRun, ClaimsShow
from geartrain.cli._usage import UsageError, complain

if TYPE_CHECKING:
    from geartrain.claims import Claim, Verdict


@singledispatch
def execute(options: Any) -> int:
    """Do what was asked."""
    raise TypeError(f"{type(options).__name__} is no command of the claims.")


@execute.register
def _(options: ClaimsList) -> int:
    from geartrain import claims
    from geartrain.cli._catalogue import _show

    rows = [_row(theme, name) for theme, names in claims.families().items() for name in names]
    return _show(rows, ("name", "minutes", "summary"), json=options.json, heading="theme")


@execute.register
def _(options: ClaimsShow) -> int:
    from geartrain import claims

    claim = claims.get(options.name)
    parts = {
        name: {"asks": p.asks, "rule": p.rule.sentence, "bears": p.bears} for name, p in claim.parts.items()
    }
    if options.json:
        said = {
            "name": claim.name,
            "title": claim.title,
            "statement": claim.statement,
            "ledger": claim.ledger,
        }
        said |= {
            "version": claim.version,
            "scope": claim.scope,
            "seeds": claim.seeds,
            "minutes": claim.minutes,
        }
        _output.as_json(said | {"source": claim.source, "text": dict(claim.text), "parts": parts})
        return 0
    _output.line(f"{claim.name}: {claim.title}")
    _output.line()
    _output.line(claim.statement)
    for quote in claim.source.quotes:
        _output.line(f'  "{quote}" ({claim.source.file})')
    for section, text in claim.text.items():
        if section:
            _output.line()
            _output.line(f"{section}\n{text}")
    for name, part in parts.items():
        _output.line()
        _output.line(f"({name}) {part['asks']}\n    {part['rule']}")
    _output.line()
    _output.line(f"Scope: {claim.scope}")
    _output.line(f"Full run: {claim.seeds} seeds, about {claim.minutes:g} minutes on two cores.")
    return 0


@execute.register
def _(options: ClaimsRun) -> int:
    from geartrain import claims

    if options.quick and options.long:
        raise UsageError("--quick and --long exclude one another.")
    if bool(options.names) == options.all:
        raise UsageError("Name the claims to run, or --all of them; `geartrain claims list` lists them.")
    if options.budget is not None:
        _checks.seconds(options.budget)
    chosen = [claims.get(name) for name in (claims.names() if options.all else options.names)]
    scale = "quick" if options.quick else "long" if options.long else "full"
    if scale == "full":
        _output.note(
            f"About {sum(c.minutes for c in chosen):g} minutes on two cores; Ctrl-C loses nothing finished."
        )
    found = [_run(claim, options, scale, alone=len(options.names) == 1) for claim in chosen]
    if options.json:
        _output.as_json([v.to_dict() for v in found])
    return int(any(v.invalid for v in found))


def _run(claim: Claim, options: ClaimsRun, scale: str, *, alone: bool) -> Verdict:
    folder: Path | None = options.out
    if folder is not None and not alone:
        folder = folder / claim.name
    if folder is not None:
        _checks.folder(folder)
    with _output.aside():
        verdict = claim.run(
            options.seeds, options.budget, scale=scale, folder=folder, workers=options.workers
        )
    if not options.json:
        _output.line(str(verdict))
        _output.line(f"  Record: {verdict.folder}")
        _output.line()
    return verdict


@execute.register
def _(options: ClaimsReport) -> int:
    from geartrain.report import book

    _output.line(f"Book: {book.write(options.records, _checks.folder(options.out))}")
    return 0


def _row(theme: str, name: str) -> dict[str, str]:
    """What the list says of a claim; one of another package that cannot be loaded does not spoil the list."""
    from geartrain import claims

    try:
        claim = claims.get(name)
    except Exception as error:
        return {
            "theme": theme,
            "name": name,
            "minutes": "",
            "summary": f"cannot be loaded: {complain(error)}",
        }
    return {"theme": theme, "name": name, "minutes": f"{claim.minutes:g} min", "summary": claim.statement}

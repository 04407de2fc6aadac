"""The evidence book: one offline HTML page for each claim, and an index with all verdicts at a glance."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from geartrain import __version__, claims
from geartrain.claims import Claim, Effect, Outcome, Verdict
from geartrain.claims.record import DATA, FIGURE, RECORD, REGISTRATION, figure
from geartrain.claims.results import Results
from geartrain.errors import InputError
from geartrain.report import words
from geartrain.report.html import _environment
from geartrain.store import write_file

GLYPHS = {Outcome.SUPPORTED: "✓", Outcome.REFUTED: "✗", Outcome.INCONCLUSIVE: "~"}
_INDEX = "index.html"


@dataclass(frozen=True)
class Page:
    """A claim with its verdict, ready to be shown.

    Attributes:
        claim: The claim.
        verdict: Its verdict; None if it was not run.
        registered: What was written down before the data.
        picture: The figure as SVG; empty if there is none.
    """

    claim: Claim
    verdict: Verdict | None
    registered: Mapping[str, Any]
    picture: str


def write(records: str | Path, out: str | Path) -> Path:
    """Write the book of all records below a folder; claims without one are listed as not run.

    Verdicts are reached anew from the recorded numbers, so that a record whose rule has changed since gives none.

    Args:
        records: Folder that holds the records, at any depth.
        out: Folder for the pages.

    Returns:
        The index.

    Raises:
        InputError: There is no record.
    """
    found = best_records(records)
    if not found:
        raise InputError(f"There is no record of a claim below {records}. Run one: geartrain claims run NAME")
    pages = [page(claims.get(name), found.get(name)) for name in claims.names()]
    target = Path(out)
    target.mkdir(parents=True, exist_ok=True)
    for made in pages:
        if made.verdict is not None:
            write_file(target / f"{made.claim.name}.html", render(made).encode())
    write_file(target / _INDEX, render_index(pages).encode())
    return target / _INDEX


def best_records(records: str | Path) -> dict[str, Path]:
    """The record of each claim that says most: a full run before a quick one, a current rule before an old one."""
    known = set(claims.names())
    found: dict[str, tuple[tuple[Any, ...], Path]] = {}
    for path in sorted(Path(records).rglob(RECORD)):
        said = json.loads(path.read_bytes())
        if said.get("claim") not in known or not (path.parent / DATA).exists():
            continue
        rank = (not said["withheld"], said["scale"] in ("full", "long"), len(said["seeds"]), said["created"])
        if said["claim"] not in found or rank > found[said["claim"]][0]:
            found[said["claim"]] = (rank, path.parent)
    return {name: path for name, (_, path) in found.items()}


def page(claim: Claim, record: Path | None) -> Page:
    """Read a record back."""
    if record is None:
        return Page(claim, None, {}, "")
    registered = json.loads((record / REGISTRATION).read_bytes())
    picture = ""
    if (record / FIGURE).exists():
        picture = (record / FIGURE).read_text(encoding="utf-8")
    else:
        made = figure(claim, Results.load(record))
        picture = "" if made is None else made.decode()
    return Page(claim, claims.load(record), registered, _inline(picture, claim.name))


def render(made: Page) -> str:
    """One claim as a complete page that loads nothing from anywhere."""
    verdict = made.verdict
    assert verdict is not None
    context = {
        "p": made,
        "c": made.claim,
        "v": verdict,
        "text": made.claim.text,
        "picture": Markup(made.picture),
        "command": command(verdict),
        "methods": _methods(verdict),
        "seeds": _run_of(verdict.seeds),
        "spent": words.seconds(verdict.seconds),
    }
    return _environment().get_template("claim.html").render(**context, **_tools())


def render_index(pages: Iterable[Page]) -> str:
    """All verdicts at a glance."""
    pages = list(pages)
    family = {name: theme for theme, names in claims.families().items() for name in names}
    order = sorted(pages, key=lambda p: (family.get(p.claim.name, ""), p.claim.name))
    themes: dict[str, list[Page]] = {}
    for made in order:
        themes.setdefault(family.get(made.claim.name) or "other packages", []).append(made)
    counted = {o: sum(p.verdict is not None and p.verdict.outcome is o for p in pages) for o in Outcome}
    context = {
        "themes": themes,
        "counted": counted,
        "run": sum(p.verdict is not None for p in pages),
        "total": len(pages),
        "version": __version__,
    }
    return _environment().get_template("book.html").render(**context, **_tools())


def command(verdict: Verdict) -> str:
    """The line that runs it again."""
    scale = {"full": "", "long": " --long", "quick": " --quick"}.get(verdict.scale, "")
    usual = tuple(range(claims.get(verdict.claim).seeds_at(verdict.scale)))
    seeds = "" if verdict.seeds == usual else f" --seeds {len(verdict.seeds)}"
    return f"geartrain claims run {verdict.claim}{scale}{seeds}"


def marks(verdict: Verdict, page: str = "") -> Markup:
    """The parts with their outcomes, each a link to its place."""
    told = Markup('<a class="{}{}" href="{}#part-{}" title="{}: {}">{} {}</a>')
    return Markup("").join(
        told.format(
            p.outcome, "" if p.bears else " side", page, p.name, p.outcome, p.asks, GLYPHS[p.outcome], p.name
        )
        for p in verdict.parts
    )


def _methods(verdict: Verdict) -> list[str]:
    """How the intervals were made, each way once."""
    told = [
        e.method
        for part in verdict.parts
        for found in (part.finding.effects, part.finding.control, part.finding.numbers)
        for e in found.values()
    ]
    return [f"{m[0].upper()}{m[1:]}" for m in dict.fromkeys(told) if m and m != "exact"]


def _run_of(seeds: tuple[int, ...]) -> str:
    """``0 to 7``, or all of them."""
    whole = seeds == tuple(range(seeds[0], seeds[0] + len(seeds)))
    return f"{seeds[0]} to {seeds[-1]}" if whole and len(seeds) > 2 else ", ".join(map(str, seeds))


def effect(e: Effect) -> Markup:
    """A number with its interval."""
    unit = escape(words.unit_suffix(e.unit))
    if not e.finite:
        return Markup("no value")
    if e.low == e.high:
        return Markup("<b>{}</b>{}").format(words.number(e.value), unit)
    return Markup('<b>{}</b>{} <span class="interval">[{}, {}]</span>').format(
        words.number(e.value), unit, words.number(e.low), words.number(e.high)
    )


def prose(text: str) -> Markup:
    """Paragraphs, lists and `code` of a docstring; nothing else of markdown."""
    blocks = []
    for block in re.split(r"\n\s*\n", text.strip()):
        lines = block.splitlines()
        if lines and all(line.startswith(("- ", "  ")) for line in lines):
            items = re.split(r"^- ", block, flags=re.MULTILINE)[1:]
            blocks.append("<ul>" + "".join(f"<li>{_spans(i)}</li>" for i in items) + "</ul>")
        else:
            blocks.append(f"<p>{_spans(block)}</p>")
    return Markup("\n".join(blocks))


def _spans(text: str) -> str:
    safe = str(escape(" ".join(text.split())))
    safe = re.sub(r"``?([^`]+)``?", r"<code>\1</code>", safe)
    safe = re.sub(r"(?<![\w*])\*([^*\s][^*]*)\*(?![\w*])", r"<em>\1</em>", safe)
    return re.sub(r"arXiv[: ](\d{4}\.\d{4,5})", r'<a href="https://arxiv.org/abs/\1">arXiv:\1</a>', safe)


def _inline(svg: str, name: str) -> str:
    """An SVG file as part of a page: without its prologue, with a name for readers of screens, as wide as its place."""
    start = svg.find("<svg")
    if start < 0:
        return ""
    head, _, rest = svg[start:].partition(">")
    head = re.sub(r'\s(width|height)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="Figure of {name}">{rest}'


def _tools() -> dict[str, Any]:
    return {
        "effect": effect,
        "prose": prose,
        "glyphs": GLYPHS,
        "marks": marks,
        "spans": lambda t: Markup(_spans(t)),
    }

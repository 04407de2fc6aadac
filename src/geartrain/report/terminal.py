"""The report as text: for a terminal in colour, for a pipe or a log file without."""

from __future__ import annotations

import io
import shutil
from typing import TYPE_CHECKING

from geartrain.diagnosis.result import Diagnosis
from geartrain.records import Finding, Verdict
from geartrain.report import words

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

_STYLES: dict[Verdict, str] = {"kept": "blue", "broken": "yellow", "unclear": "dim", "not measured": "dim"}
_NARROWEST, _WIDEST = 40, 110


def render(diagnosis: Diagnosis) -> str:
    """The diagnosis as plain text, as wide as the terminal (80 columns where there is none)."""
    from rich.console import Console

    width = min(max(shutil.get_terminal_size(fallback=(80, 24)).columns, _NARROWEST), _WIDEST)
    console = Console(
        file=io.StringIO(), width=width, color_system=None, force_terminal=False, legacy_windows=False
    )
    with console.capture() as capture:
        print_diagnosis(diagnosis, console)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def print_diagnosis(diagnosis: Diagnosis, console: Console) -> None:
    """Print the diagnosis on a console, in colour where the console has any."""
    width = min(console.width, _WIDEST)  # longer lines are hard to read
    for block in _blocks(diagnosis):
        console.print(block, width=width, soft_wrap=False, highlight=False, markup=False, emoji=False)


def _blocks(diagnosis: Diagnosis) -> list[RenderableType]:
    blocks = [_verdict(diagnosis), *_notices(diagnosis)]
    leading = words.leading(diagnosis)
    for finding in leading:
        blocks += _finding(finding, diagnosis)
    if not leading:
        blocks.append(_paragraph("", words.overview(diagnosis)))
    return blocks + _rest(diagnosis, leading)


def _verdict(diagnosis: Diagnosis) -> Text:
    from rich.text import Text

    text = Text(words.plain(diagnosis.sentence), style="bold")
    text.append(f"\n{words.plain(diagnosis.name)}, {words.date(diagnosis.created)}", style="not bold dim")
    return text


def _notices(diagnosis: Diagnosis) -> list[RenderableType]:
    notices: list[RenderableType] = []
    if diagnosis.interrupted:
        notices.append(_paragraph("Ended early:", "probabilities rest on what was measured until then."))
    if words.uncalibrated(diagnosis):
        notices.append(_paragraph("Uncalibrated:", words.calibration(diagnosis)))
    return notices


def _finding(finding: Finding, diagnosis: Diagnosis) -> list[RenderableType]:
    marks = ["knob-only"] * finding.knob_only + ["incomplete explanation"] * finding.incomplete
    title = f"{finding.title}, {words.share(finding.probability)}" + "".join(f" [{mark}]" for mark in marks)
    blocks: list[RenderableType] = [_paragraph(title, f"\n{finding.sentence}")]
    if finding.predictions:
        blocks.append(_gears(finding))
    return [*blocks, _remedy(finding, diagnosis)]


def _gears(finding: Finding) -> RenderableType:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("", width=1, no_wrap=True)
    table.add_column("gear", ratio=4, overflow="fold")
    table.add_column("expected", ratio=2, overflow="fold")
    table.add_column("measured", ratio=2, overflow="fold")
    table.add_column("weight", width=7, justify="right", no_wrap=True)
    for gear in finding.predictions:
        cells = (
            words.GLYPHS[gear.verdict],
            gear.title,
            gear.expected,
            words.measured(gear),
            words.signed(gear.weight),
        )
        style = _STYLES[gear.verdict]
        table.add_row(_text(cells[0], style), *(_text(cell) for cell in cells[1:]))
    return table


def _remedy(finding: Finding, diagnosis: Diagnosis) -> Text:
    text = _paragraph("Remedy:", finding.remedy or "none is known.")
    fork = words.remedy_fork(diagnosis, finding)
    name = f"Fork “{words.plain(fork.name)}”: " if fork else "Effect: "
    ends = words.from_to(fork) if fork and fork.gain == finding.remedy_effect else ""
    losses = f"training loss {ends}, " if ends else ""
    text.append(f"\n{name}{losses}{_effect(finding)}.")
    return text


def _effect(finding: Finding) -> str:
    judgement = words.gain_judgement(finding.remedy_effect, finding.remedy_effect_error)
    if finding.remedy_effect is None:
        return judgement
    amount = words.gain(finding.remedy_effect, finding.remedy_effect_error)
    return f"{amount} {judgement}" if judgement.startswith("of ") else f"{amount}, {judgement}"


def _rest(diagnosis: Diagnosis, leading: tuple[Finding, ...]) -> list[RenderableType]:
    possible = ", ".join(f"{f.title} {words.share(f.probability)}" for f in words.lesser(diagnosis))
    out = ", ".join(f.title for f in diagnosis.ruled_out)
    blocks: list[RenderableType] = []
    if leading and possible:
        blocks.append(_paragraph("Possible, not likely:", f"{possible}."))
    if out:
        blocks.append(_paragraph(f"Ruled out ({len(diagnosis.ruled_out)}):", f"{out}."))
    if diagnosis.surprises:
        blocks.append(_paragraph("Surprises:", " ".join(diagnosis.surprises)))
    return [*blocks, _cost(diagnosis)]


def _cost(diagnosis: Diagnosis) -> Text:
    budget = diagnosis.budget
    stages = ", ".join(f"{name} {words.seconds(s)}" for name, s in budget.stages.items())
    skipped = f" Skipped: {', '.join(budget.skipped)}." if budget.skipped else ""
    detail = f" ({stages})" if stages else ""
    spent = f"{words.seconds(budget.spent)} spent{detail} of {words.seconds(budget.quoted)} quoted.{skipped}"
    signs = "  ".join(f"{glyph} {verdict}" for verdict, glyph in words.GLYPHS.items())
    text = _paragraph("Cost:", spent)
    if any(f.predictions for f in words.leading(diagnosis)):
        text.append(f"\n{signs}  (weights in log-odds)", style="dim")
    return text


def _paragraph(head: str, body: str) -> Text:
    """A paragraph that starts in bold and is set off by an empty line."""
    text = _text("\n")
    if head:
        text.append(words.plain(head), style="bold")
    space = "" if not head or body.startswith("\n") else " "
    return text.append(space + words.plain(body))


def _text(content: str, style: str = "") -> Text:
    """Text as it is: square brackets in a user's name are no markup."""
    from rich.text import Text

    return Text(words.plain(content), style=style, overflow="fold")

"""``geartrain zoo list | show | train | plot | check``."""

from __future__ import annotations

import ast
import inspect
import json
import math
import os
from collections.abc import Iterable
from functools import singledispatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geartrain.cli import _checks, _output
from geartrain.cli._commands import ZooCheck, ZooList, ZooPlot, ZooShow, ZooTrain
from geartrain.cli._usage import UsageError, complain
from geartrain.errors import InputError, UnsupportedError
from geartrain.records import format_number, jsonable

if TYPE_CHECKING:
    from geartrain.zoo import Toy, Truth
    from geartrain.zoo.certificate import Certificate

_PAGE, _JSON = "certificate.html", "certificate.json"
_MOST_LOSSES = 12
_MOST_FAILURES = 20


@singledispatch
def execute(options: Any) -> int:
    """Do what was asked."""
    raise TypeError(f"{type(options).__name__} is no command of the zoo.")


@execute.register
def _(options: ZooList) -> int:
    from geartrain import zoo
    from geartrain.cli._catalogue import _show

    rows = [_row(family, name) for family, names in zoo.families().items() for name in names]
    return _show(rows, ("name", "summary"), json=options.json, heading="family")


@execute.register
def _(options: ZooShow) -> int:
    toy = make(options.name, options.set)
    truths = {name: _described(name, truth) for name, truth in toy.truth.items()}
    if options.json:
        _output.as_json(
            {
                "name": toy.label,
                "title": toy.title,
                "ledger": toy.ledger,
                "text": _text(type(toy)),
                "parameters": toy.parameters,
                "truths": truths,
            }
        )
        return 0
    _output.line(f"{toy.label}: {toy.title}")
    _output.line()
    _output.line(_text(type(toy)))
    _output.line()
    _output.line("Parameters")
    for name, value in toy.parameters.items():
        _output.line(f"  {name} = {value!r}")
    _output.line()
    _output.line("Known exactly")
    for name, truth in toy.truth.items():
        by = "a trial" if truth.trial is not None else truths[name]["instrument"]
        _output.line(f"  {name} = {_short(truth.value)}  [{by}]  {truth.source}")
    return 0


@execute.register
def _(options: ZooTrain) -> int:
    toy = make(options.name, options.set)
    try:
        run = toy.run
    except UnsupportedError as error:
        raise InputError(f"{error} These have a run: {', '.join(_trained())}.") from None
    with _output.aside():
        history = run.train()
    if options.json:
        _output.as_json({"name": options.name, "steps": run.step_count, "history": history.to_dict()})
        return int(history.failure is not None)
    losses = history.column("loss")
    _output.line(f"{run.name}: {run.step_count} steps")
    for step in np.unique(np.linspace(0, len(losses) - 1, _MOST_LOSSES).astype(int)) if len(losses) else ():
        _output.line(f"  step {step:>7}  loss {format_number(float(losses[step]), 5)}")
    if history.failure is not None:
        _output.line(f"It broke: {history.failure}.")
    return int(history.failure is not None)


@execute.register
def _(options: ZooPlot) -> int:
    toy = make(options.name, options.set)
    path = options.out or Path(f"{_checks.file_name(toy.label)}.svg")
    _checks.folder(path.parent)
    picture(toy, path)
    _output.line(f"Picture: {path}")
    return 0


@execute.register
def _(options: ZooCheck) -> int:
    from geartrain.zoo.checking import check_all, plan

    toys = [make(name, ()) for name in options.names] or None
    seconds = None if options.budget is None else _checks.seconds(options.budget)
    folder = _checks.folder(options.out)
    earlier = _earlier(folder, needed=options.resume)
    with _output.aside():
        planned = plan(toys, quick=options.quick, seed=options.seed, earlier=earlier, resume=options.resume)
    _output.note(planned.sentence)
    with _output.progress("Checking the zoo") as progress, _output.aside():
        found = check_all(planned, seconds=seconds, progress=progress, keep=lambda c: _write_json(c, folder))
    _write(found, folder)
    if options.json:
        _output.as_json(found.to_dict())
    else:
        _tell(found)
        _output.line(f"Certificate: {folder / _PAGE}")
    if found.interrupted:
        _output.note("Interrupted; what was done is kept. Go on with --resume.")
    return int(found.interrupted or not found.cells or not found.passed)


def _tell(found: Certificate) -> None:
    """The result, and what did not agree."""
    _output.line(found.sentence)
    for cell in found.failures[:_MOST_FAILURES]:
        what = f"{cell.quantity} = {_short(cell.value)}, truth {_short(cell.truth)}"
        how = "" if cell.unexplained else " (says so itself)"
        _output.line(f"  {cell.toy}: {what}{how}. {cell.explanation}")
    if len(found.failures) > _MOST_FAILURES:
        _output.line(f"  ... and {len(found.failures) - _MOST_FAILURES} more; --json prints them all")


def _earlier(folder: Path, *, needed: bool) -> Certificate | None:
    """The certificate that lies there.

    Raises:
        InputError: It is needed, and there is none or it cannot be read.
    """
    from geartrain.zoo.certificate import Certificate

    path = folder / _JSON
    try:
        return Certificate.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, InputError) as error:
        if not needed:
            return None
        why = "there is none" if isinstance(error, FileNotFoundError) else str(error)
        raise InputError(
            f"--resume goes on with {path}, but {why}. Leave --resume out to begin anew."
        ) from None


def _write(found: Certificate, folder: Path) -> None:
    from geartrain.report import certificate as page

    _write_json(found, folder)
    (folder / _PAGE).write_text(page.render(found), encoding="utf-8")


def _write_json(found: Certificate, folder: Path) -> None:
    """All or nothing: a process that dies meanwhile leaves the file as it was."""
    fresh = folder / f".{_JSON}.{os.getpid()}"
    fresh.write_text(json.dumps(found.to_dict(), indent=1), encoding="utf-8")
    fresh.replace(folder / _JSON)


def make(name: str, words: Iterable[str]) -> Toy:
    """The toy that was named, with the parameters that were written PARAMETER=VALUE.

    Raises:
        UsageError: There is no such toy or parameter, or a word is not of that form.
    """
    from geartrain import zoo

    chosen: dict[str, Any] = {}
    for word in words:
        parameter, equals, value = word.partition("=")
        if not (parameter and equals and value):
            raise UsageError(f"--set {word!r} is not PARAMETER=VALUE, such as seed=1.")
        try:
            chosen[parameter] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            chosen[parameter] = value
    try:
        return zoo.get(name, **chosen)
    except InputError as error:
        raise UsageError(str(error)) from None


def picture(toy: Toy, path: Path) -> None:
    """Draw a toy into a file.

    Raises:
        InputError: matplotlib is missing, or it cannot write such a file.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError(
            'Pictures need matplotlib; install it with: pip install "geartrain[plot]".'
        ) from None
    # A fixed salt and no date: the same toy gives the same bytes.
    with mpl.rc_context({"svg.hashsalt": toy.label, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(8.4, 3.6), layout="constrained")
        toy.draw(figure)
        metadata = {"Date": None} if path.suffix == ".svg" else None
        try:
            figure.savefig(path, metadata=metadata, dpi=140)
        except ValueError as error:
            raise InputError(f"--out {path}: {error}") from None


def _trained() -> list[str]:
    """Names of the toys that have a run."""
    from geartrain import zoo

    return [name for name in zoo.names() if zoo.kind(name).make_run is not zoo.Toy.make_run]


def _row(family: str, name: str) -> dict[str, str]:
    """What the list says of a toy; one of another package that cannot be loaded does not spoil the list."""
    from geartrain import zoo

    try:
        kind = zoo.kind(name)
        title, summary = kind.title, _summary(kind)
    except Exception as error:
        title, summary = "", f"cannot be loaded: {type(error).__name__}: {complain(error)}"
    return {"family": family, "name": name, "title": title, "summary": summary}


def _text(kind: type[Toy]) -> str:
    """What the toy's file says about it."""
    return inspect.getdoc(inspect.getmodule(kind)) or ""


def _summary(kind: type[Toy]) -> str:
    first = _text(kind).partition("\n")[0].lstrip("# ")
    return first.rstrip(".")


def _described(name: str, truth: Truth) -> dict[str, Any]:
    return {
        "value": jsonable(truth.value),
        "tolerance": truth.tolerance,
        "assumptions": truth.assumptions,
        "source": truth.source,
        "instrument": None if truth.trial is not None else truth.instrument or name.partition(".")[0],
    }


def _short(value: Any) -> str:
    array = np.ravel(np.asarray(value, dtype=float))
    if array.size == 1:
        return "none" if math.isnan(array[0]) else format_number(float(array[0]), 5)
    head = ", ".join(format_number(float(v), 4) for v in array[:4])
    return f"[{head}{', ...' if array.size > 4 else ''}]"

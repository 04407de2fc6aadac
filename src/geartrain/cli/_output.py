"""What the command line prints: results on standard output, everything else on standard error."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def console(*, error: bool = False) -> Console:
    """A console on standard output or error; plain text where that is no terminal."""
    from rich.console import Console

    return Console(stderr=error, soft_wrap=True, highlight=False, markup=False, emoji=False)


def error(message: str) -> None:
    """One line that says what went wrong and what to do."""
    sys.stderr.write(f"geartrain: {message}\n")


def note(message: str) -> None:
    """A line beside the result."""
    sys.stderr.write(f"{message}\n")


def line(message: str = "") -> None:
    """A line of the result."""
    sys.stdout.write(f"{message}\n")


def as_json(thing: Any) -> None:
    """The result for machines, and nothing else on standard output."""
    from geartrain.records import jsonable

    sys.stdout.write(json.dumps(jsonable(thing), indent=1) + "\n")


@contextlib.contextmanager
def aside() -> Iterator[None]:
    """Whatever a user's code prints in the block goes to standard error: standard output is for results."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


@contextlib.contextmanager
def progress(title: str) -> Iterator[Callable[[float, str], None]]:
    """A bar on standard error; where that is no terminal, a plain line at every tenth."""
    if not sys.stderr.isatty():
        yield _PlainProgress(title)
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn(title), BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console(error=True), transient=True) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda share, words: bar.update(task, completed=min(max(share, 0.0), 1.0), description=words)


class _PlainProgress:
    """A line at every tenth: readable in a log file."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.tenths = -1

    def __call__(self, share: float, words: str) -> None:
        tenths = int(10 * min(max(share, 0.0), 1.0))
        if tenths > self.tenths:
            self.tenths = tenths
            note(f"{self.title}: {10 * tenths:3d} % {words}")

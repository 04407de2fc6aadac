"""How far a sweep is and how long it will take: a bar on a terminal, a plain line at every tenth elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import Any

_RECENT = 200


class Progress:
    """Shows counts of settled units on standard error.

    Args:
        title: What is going on.
        total: Number of units.
        done: Units that were settled before.
        show: False for silence.
    """

    def __init__(self, title: str, total: int, done: int, *, show: bool) -> None:
        self.title = title
        self.total = total
        self.show = show
        self._times: deque[tuple[float, int]] = deque([(time.monotonic(), done)], maxlen=_RECENT)
        self._tenth = -1
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        if self.show and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
            from rich.progress import Progress as Bar

            columns = (
                TextColumn(self.title),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.description}"),
            )
            self._bar = Bar(*columns, console=Console(stderr=True))
            self._bar.start()
            self._task = self._bar.add_task("", total=self.total)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: int, failed: int) -> None:
        """Say that ``done`` units are settled, ``failed`` of them without a result."""
        if done != self._times[-1][1]:
            self._times.append((time.monotonic(), done))
        if not self.show:
            return
        words = ", ".join(w for w in (f"{failed} failed" if failed else "", self._left(done)) if w)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, description=words)
            return
        tenth = 10 * done // max(self.total, 1)
        if tenth > self._tenth:
            self._tenth = tenth
            sys.stderr.write(
                f"{self.title}: {10 * tenth:3d} % ({done} of {self.total}{', ' if words else ''}{words})\n"
            )
            sys.stderr.flush()

    def _left(self, done: int) -> str:
        (then, before), now = self._times[0], time.monotonic()
        if done <= before or done >= self.total:
            return ""
        return f"{duration((now - then) / (done - before) * (self.total - done))} left"


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(42), duration(600), duration(9000), duration(400000)
    ('42 s', '10 min', '2.5 h', '4.6 days')
    """
    for size, unit in ((86400.0, "days"), (3600.0, "h")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"

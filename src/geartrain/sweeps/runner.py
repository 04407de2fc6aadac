"""Drives a sweep: claims units, has them computed, writes what comes back, and leaves the rest to others."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence

from geartrain.store import DiskFullError, Locks
from geartrain.sweeps.executors._base import Executor, Outcome
from geartrain.sweeps.folder import Folder
from geartrain.sweeps.progress import Progress
from geartrain.sweeps.reference import Reference
from geartrain.sweeps.unit import Failure, Unit

_POLL = 0.5


def drive(
    folder: Folder,
    function: Reference,
    units: Sequence[Unit],
    executor: Executor,
    *,
    progress: bool,
    title: str,
    deadline: float | None = None,
) -> None:
    """Settle every unit that is not settled yet; return when all are, whoever settled them.

    After ``deadline`` (on the clock of `time.perf_counter`) no further unit is begun; those that are out are awaited.

    Raises:
        DiskFullError: There is no room for a result; says how to go on. What was finished stays.
        KeyboardInterrupt: Ctrl-C; what was out is abandoned and given back, what was finished stays.
    """
    settled = folder.finished() | folder.without_result()
    todo = deque(u for u in units if u.name not in settled)
    if not todo:
        return
    failed = len({u.name for u in units} & folder.without_result())
    try:
        with (
            Locks(folder.locks) as locks,
            Progress(title, len(units), len(units) - len(todo), show=progress) as shown,
        ):
            try:
                executor.start(function)
                _Drive(folder, executor, locks, todo, shown, len(units), failed, deadline).run()
            finally:
                executor.stop()
    except DiskFullError as error:
        done = len(folder.finished() & {u.name for u in units})
        raise DiskFullError(
            f"{error} {done} of {len(units)} units are finished. Then: geartrain sweep resume {folder.path}"
        ) from error


class _Drive:
    """State of one call of `drive`."""

    def __init__(
        self,
        folder: Folder,
        executor: Executor,
        locks: Locks,
        todo: deque[Unit],
        shown: Progress,
        total: int,
        failed: int,
        deadline: float | None,
    ) -> None:
        self.deadline = math.inf if deadline is None else deadline
        self.dropped = 0  # not begun because time was over
        self.folder = folder
        self.executor = executor
        self.locks = locks
        self.todo = todo
        self.elsewhere: list[Unit] = []  # claimed by another process
        self.out: dict[str, float] = {}  # when each was submitted
        self.shown = shown
        self.total = total
        self.failed = failed

    def run(self) -> None:
        while self.todo or self.elsewhere or self.out:
            if time.perf_counter() >= self.deadline:
                self.dropped += len(self.todo) + len(self.elsewhere)
                self.todo, self.elsewhere = deque(), []
                if not self.out:
                    break
            self._fill()
            self._show()
            if self.out:
                for unit, outcome in self.executor.wait(_POLL):
                    self._settle(unit, outcome)
            elif self.elsewhere and not self.todo:
                time.sleep(_POLL)
            if not self.todo:
                self.todo, self.elsewhere = deque(self.elsewhere), []
        self._show()

    def _fill(self) -> None:
        while self.todo and len(self.out) < self.executor.slots:
            unit = self.todo.popleft()
            if self.folder.settled(unit.name):
                continue
            if not self.locks.claim(unit.name):
                self.elsewhere.append(unit)
                continue
            if self.folder.settled(unit.name):  # by somebody who gave the claim back just before
                self.locks.release(unit.name)
                continue
            self.executor.submit(unit)
            self.out[unit.name] = time.perf_counter()

    def _settle(self, unit: Unit, outcome: Outcome) -> None:
        seconds = time.perf_counter() - self.out.pop(unit.name)
        if isinstance(outcome, Failure):
            self.folder.keep_failure(outcome)
            self.failed += 1
        else:
            self.folder.keep(unit.name, outcome)
        self.locks.release(unit.name)
        event = "failed" if isinstance(outcome, Failure) else "finished"
        self.folder.log(
            {"time": round(time.time(), 3), "unit": unit.name, "event": event, "seconds": round(seconds, 3)}
        )

    def _show(self) -> None:
        left = len(self.todo) + len(self.elsewhere) + len(self.out) + self.dropped
        self.shown.update(self.total - left, self.failed)

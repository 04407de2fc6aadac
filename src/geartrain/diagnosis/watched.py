"""Watching: the run is executed as declared, with checkpoints and probe losses at marks along the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from geartrain.run import Checkpoint, Run

NUM_MARKS = 17
SHARES = np.linspace(0, 1, NUM_MARKS) ** 1.5
CHECKPOINT_BYTES = 2**30
"""Checkpoints together may take this much memory; beyond it, every other one is dropped."""


@dataclass
class Watched:
    """The original, as far as it was watched.

    Attributes:
        marks: Steps at which the probes were evaluated, the start included.
        losses: Training probe losses there, one row of chunks per mark.
        validation: The same on the validation probe (rows may be ``None``).
        checkpoints: State of the run at the marks (the last one is the last at which everything was finite).
        total: Steps that the whole run has, where it is known.
        complete: Whether the run was watched to its end (or to where it broke).
    """

    marks: list[int] = field(default_factory=list)
    losses: list[np.ndarray] = field(default_factory=list)
    validation: list[np.ndarray | None] = field(default_factory=list)
    checkpoints: dict[int, Checkpoint] = field(default_factory=dict)
    total: int | None = None
    complete: bool = False
    seconds: float = 0.0

    @property
    def steps(self) -> int:
        """Steps from the start to the last mark."""
        return self.marks[-1] - self.marks[0] if self.marks else 0

    def point(self, name: str) -> Checkpoint:
        """The checkpoint that ``"start"``, ``"middle"`` or ``"end"`` stands for."""
        steps = sorted(self.checkpoints)
        if name == "start":
            return self.checkpoints[steps[0]]
        if name == "end":
            return self.checkpoints[steps[-1]]
        half = steps[0] + (steps[-1] - steps[0]) / 2
        return self.checkpoints[min(steps, key=lambda s: abs(s - half))]

    def reference(self, step: int, *, validation: bool = False) -> np.ndarray | None:
        """Probe losses of the original at a step, interpolated between marks; shape (chunks,)."""
        rows = self.validation if validation else self.losses
        if not self.marks or any(row is None for row in rows):
            return None
        table = np.array(rows, dtype=float)
        return np.array([np.interp(step, self.marks, column) for column in table.T])

    def level(self, *, validation: bool = False, last: int = 3) -> float:
        """Mean probe loss over the last marks."""
        rows = [r for r in (self.validation if validation else self.losses)[-last:] if r is not None]
        return float(np.mean(rows)) if rows else float("nan")


def watch(
    run: Run,
    *,
    deadline: float,
    limit: int | None = None,
    progress: Callable[[float, str], None] | None = None,
    into: Watched,
) -> None:
    """Execute the run from where it stands, as declared, and fill in ``into``.

    Filling in as it goes means that whatever was seen survives an interruption.

    Args:
        run: The run; it stands at its end afterwards.
        deadline: Stop at this time of `time.perf_counter`.
        limit: Take at most that many steps.
        progress: Called with (share done, words).
        into: What is filled in.
    """
    started, start = time.perf_counter(), run.step_count
    for step in _marks(run, limit):
        wanted = step - run.step_count
        taken = run.advance(wanted, deadline=deadline) if wanted else 0
        into.total = run.total_steps
        _note(run, into)
        if progress:
            end = into.total or start + 2 * (run.step_count - start)  # unknown length: halfway, ever again
            progress(min((run.step_count - start) / max(end - start, 1), 1.0), f"step {run.step_count}")
        if run.history.failure is not None or taken < wanted:
            break
    into.complete = run.history.failure is not None or run.epochs_done >= run.epochs
    into.seconds = time.perf_counter() - started


def _marks(run: Run, limit: int | None) -> Iterator[int]:
    """Dense at first, where most happens, then wider; doubling until the length is known (after the first epoch).

    Doubling to the end would leave the last marks, by which a run is judged, far apart.
    """
    start = run.step_count
    last = start + (limit if limit is not None else 10**9)
    yield start
    step = 1
    while run.total_steps is None and start + step <= last:
        yield start + step
        step *= 2
    while run.step_count < last and run.epochs_done < run.epochs:
        begin = run.step_count
        end = min(max(run.total_steps or 0, begin + 1), last)
        yield from sorted(
            {start + round((end - start) * share) for share in SHARES} - {*range(start, begin + 1)}
        )


def _note(run: Run, into: Watched) -> None:
    losses = None if run.history.failure is not None else run.probe_losses("train")
    if run.history.failure is None and losses is None:
        column = run.history.column("loss")
        if not len(column):
            into.checkpoints[run.step_count] = run.checkpoint()
            return  # its loss is that of the first batch, which is still to come
        if not into.marks:
            into.marks.append(min(into.checkpoints))
            into.losses.append(column[:1])
            into.validation.append(None)
        losses = np.array([float(np.mean(column[-20:]))])
    if losses is None or not np.isfinite(losses).all() or (into.marks and into.marks[-1] == run.step_count):
        return
    into.marks.append(run.step_count)
    into.losses.append(losses)
    into.validation.append(run.probe_losses("validation"))
    into.checkpoints[run.step_count] = run.checkpoint()
    while len(into.checkpoints) > 3 and sum(c.nbytes for c in into.checkpoints.values()) > CHECKPOINT_BYTES:
        for step in sorted(into.checkpoints)[1:-1:2]:
            del into.checkpoints[step]

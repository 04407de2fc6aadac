"""Training once more, on the run itself and undone exactly, while noting which examples are answered right."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from geartrain._torch import batches as _batches
from geartrain._torch.loss import SupervisedLoss
from geartrain.budget import Clock
from geartrain.errors import InputError
from geartrain.instruments._decisions import decisions
from geartrain.instruments._layers import first_tensor
from geartrain.instruments._predictions import raw_outputs_of
from geartrain.records import Cost
from geartrain.run import History, Run

Start = Literal["origin", "here"]
POINTS = 32
LIMIT = 512
FEWEST, MOST = 64, 512
NO_CLASSES = "The run has no loss_fn whose outputs name a class, so no example is right or wrong."


@dataclass(frozen=True)
class Learning:
    """Which items were right at which step.

    Attributes:
        steps: Optimizer steps at which the examples were asked, shape (points,).
        correct: Shape (points, items); an item is an example, or an asked place of a sequence.
        examples: Number in the training data of the example that each item belongs to (in the probe, where the
            data cannot be indexed), shape (items,).
        complete: Whether all steps were taken.
        sentence: Why not, or nothing.
    """

    steps: np.ndarray
    correct: np.ndarray
    examples: np.ndarray
    complete: bool
    sentence: str = ""


def steps_of(run: Any, steps: int | None) -> int:
    """As many steps as the run has taken, within bounds, unless told."""
    return min(max(run.step_count, FEWEST), MOST) if steps is None else steps


def price(run: Any, *, steps: int | None = None, every: int | None = None, **options: Any) -> Cost:
    """A gradient per step and a forward pass over the probe per point."""
    taken = steps_of(run, steps)
    spacing = every or max(1, taken // POINTS)
    per_batch = min(LIMIT, run.stream.num_examples or LIMIT) / max(run.stream.batch_size, 1)
    return Cost(gradients=taken, forwards=(taken // spacing + 1) * per_batch)


def check(steps: int | None, every: int | None, start: str) -> None:
    """Refuse settings that cannot be.

    Raises:
        InputError: One is out of range.
    """
    if start not in ("origin", "here"):
        raise InputError(f"start is {start!r}; allowed: 'origin' (the run before its first step), 'here'.")
    if (steps is not None and steps < 1) or (every is not None and every < 1):
        raise InputError(f"steps is {steps} and every {every}; both must be at least 1, or None.")


@contextlib.contextmanager
def aside(run: Run, start: Start) -> Iterator[None]:
    """Inside the block the run may be trained, from its first state or from here; afterwards it is put back.

    Args:
        run: The run.
        start: From where.

    Yields:
        Nothing.
    """
    epochs, origin = run.epochs, run.origin
    with run.preserved() as here:
        try:
            # A run that was never trained would take the first step in here, on whatever data, for its beginning.
            run.origin = origin or here
            if start == "origin":
                run.restore(run.origin)
            run.epochs, run.history = 10**9, History()
            yield
        finally:
            run.epochs, run.origin = epochs, origin


def replay(
    run: Run, steps: int | None, every: int | None, start: Start, limit: int, clock: Clock
) -> Learning | None:
    """Train the run again for some steps, asking the same examples every few steps; then put everything back.

    Args:
        run: The run.
        steps: How many; as many as it has taken (64 to 512) if ``None``.
        every: Steps between two looks; a 32nd of all if ``None``.
        start: From before its first step, or from where it stands.
        limit: Examples asked.
        clock: Ends it early.

    Returns:
        What was right when; ``None`` where answers are no classes.
    """
    if not isinstance(run.batch_loss, SupervisedLoss):
        return None
    total = steps_of(run, steps)
    spacing = every or max(1, total // POINTS)
    marks, rows, sentence = [], [], ""
    with aside(run, start):
        first = run.step_count
        while True:
            row = correct_now(run, limit)
            if row is None:
                return None
            rows.append(row)
            marks.append(run.step_count - first)
            left = total - marks[-1]
            if left <= 0:
                break
            if clock.exhausted(marks[-1] // 2):
                sentence = f"The budget ended after {marks[-1]} of {total} steps."
                break
            run.advance(min(spacing, left), deadline=clock.deadline)
            if run.history.failure is not None or run.step_count - first == marks[-1]:
                sentence = f"Training ended after {run.step_count - first} of {total} steps."
                break
    asked = rows[0][1]
    examples = np.repeat(numbers_of(run, limit, len(asked)), asked.sum(1))
    correct = np.stack([r[0][asked] for r in rows])
    return Learning(np.array(marks), correct, examples, not sentence, sentence)


def correct_now(run: Run, limit: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Whether each place of each probe example is right, and is asked at all; both of shape (examples, places)."""
    batch = run.probe("train", limit)
    outputs = first_tensor(raw_outputs_of(run, batch[0]))
    # A forward pass over the probe, in units of a training batch like everything on a run's meter.
    more = _batches.size_of(batch) / max(run.stream.batch_size, 1) - 1
    run.work = run.work + Cost(forwards=more)
    found = decisions(outputs, batch[1], run.loss_fn)
    return None if found is None else (found.correct, found.labels >= 0)


def numbers_of(run: Run, limit: int, size: int) -> np.ndarray:
    """Numbers, in the training data, of the examples in the probe; 0, 1, ... where the data cannot be indexed."""
    source = run.stream.source
    if source is None or source.size <= limit:
        return np.arange(size)
    # As `batches.materialise` chooses a probe.
    order = torch.randperm(source.size, generator=torch.Generator().manual_seed(run.seed))
    return order[:limit].sort().values.numpy()

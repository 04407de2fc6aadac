"""Whom the instruments of this family ask: an objective as it is, or a run on the data that it holds out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from geartrain._torch import batches as _batches
from geartrain.budget import Budget
from geartrain.errors import UnsupportedError
from geartrain.instruments._answers import no_answer, not_applicable
from geartrain.instruments._examples import split_batch, tokens
from geartrain.instruments._layers import in_evaluation
from geartrain.objective import Objective
from geartrain.records import Cost, Measurement, State
from geartrain.run import Run

EXAMPLES = 2048
"""Examples of a run that are asked at most; one of sequences is asked for its ``probe_size``."""


@dataclass(frozen=True)
class View:
    """A model in evaluation mode, and the data that it is asked about.

    Attributes:
        objective: Both together.
        split: ``"validation"``, ``"train"`` or ``"given"`` (an objective brings its own data).
    """

    objective: Objective
    split: str

    @property
    def words(self) -> str:
        """The data in words, ``"512 validation examples"``."""
        count = self.objective.num_examples
        kind = {"train": "training", "given": "given"}.get(self.split, self.split)
        return f"{count} {kind} example{'' if count == 1 else 's'}"


class _RunMeter:
    """What an objective of a run spends, on the meter of the run."""

    def __init__(self, run: Run) -> None:
        self.run = run

    @property
    def spent(self) -> Cost:
        return self.run.work

    @spent.setter
    def spent(self, cost: Cost) -> None:
        self.run.work = cost


def view_of(subject: Objective | Run, split: str | None = None, limit: int = EXAMPLES) -> View | str:
    """The model of an objective or a run in evaluation mode; or a sentence that says why there is no such view.

    Args:
        subject: An objective (its own data are taken) or a run.
        split: Of a run: ``"train"`` or ``"validation"``; the latter if omitted, where the run has it.
        limit: Examples of a run at most.

    Returns:
        The view, or the reason.
    """
    if isinstance(subject, Objective):
        return View(in_evaluation(subject), "given")
    if split is None:
        split = "train" if subject.validation_data is None else "validation"
    if subject.batch_loss is None:
        return "The run has only a step(batch), no loss function; pass loss_fn or batch_loss to Run as well."
    words = tokens(split_batch(subject.probe(split, 1))[0]) is not None
    limit, piece = (min(limit, subject.probe_size), 32) if words else (limit, 256)
    try:
        objective = subject.objective(split, probe=limit, micro_batch=piece)
    except UnsupportedError:  # normalisation over the batch even in evaluation mode
        objective = subject.objective(split, probe=limit)
    objective._meter = _RunMeter(subject)  # type: ignore[assignment]
    return View(objective, split)


def began(
    name: str, subject: Any, budget: Budget | int | str | None, *, unit: str = "1", **options: Any
) -> View | Measurement:
    """The view, unless the time is over or there is none: then the answer that says so."""
    if replace(Budget.of(budget).start(), products=None).exhausted():
        return no_answer(name, "There was no time to begin.", unit=unit, state=State.OUT_OF_BUDGET)
    found = view_of(subject, **options)
    return found if isinstance(found, View) else not_applicable(name, found, unit=unit)


def inputs_of(batch: Any) -> Any:
    """The inputs of a batch, in any of the usual forms."""
    return split_batch(batch)[0]


def with_inputs(batch: Any, inputs: Any) -> Any:
    """The same batch with other inputs."""
    if isinstance(batch, dict):
        old = inputs_of(batch)
        return {key: inputs if value is old else value for key, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        return type(batch)([inputs, *batch[1:]])
    return inputs


def size_of(batch: Any) -> int:
    """Number of examples of a batch."""
    return _batches.size_of(batch)

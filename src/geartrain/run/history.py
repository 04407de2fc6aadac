"""What a run leaves behind while it is watched: columns over steps, evaluations, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Failure:
    """The step at which the loss stopped being a number.

    Attributes:
        step: Step, counted from 0.
        what: ``"loss"`` or ``"gradient"``.
        module: First module whose output was not finite, where it is known.
    """

    step: int
    what: str
    module: str | None

    def __str__(self) -> str:
        origin = f", first in {self.module}" if self.module else ""
        return f"the {self.what} stopped being finite at step {self.step}{origin}"


@dataclass
class History:
    """Columns that grow with the run.

    Attributes:
        columns: Per optimizer step: ``loss`` (of the batch, before the step), ``lr``, ``grad_norm`` (of the gradient
            handed to the optimizer, before the run's own ``clip_grad_norm``), ``update_norm``, ``param_norm``,
            ``cosine`` (of successive updates), ...
        evaluations: Rows of ``{"step", "train_loss", "validation_loss", "metric", ...}``.
        failure: How it broke, or ``None``.
    """

    columns: dict[str, list[float]] = field(default_factory=dict)
    evaluations: list[dict[str, float]] = field(default_factory=list)
    failure: Failure | None = None

    def add(self, step: int, **values: float) -> None:
        """Append one step; a column that misses steps holds NaN there."""
        rows = len(self)
        for name, value in {"step": float(step), **values}.items():
            column = self.columns.setdefault(name, [])
            column.extend([float("nan")] * (rows - len(column)))
            column.append(value)

    def column(self, name: str) -> np.ndarray:
        """One column as an array, shape (steps,); empty if it was never recorded."""
        values = self.columns.get(name, [])
        return np.array(values + [float("nan")] * (len(self) - len(values))) if values else np.array([])

    def evaluation(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps and values of one evaluated quantity."""
        rows = [(row["step"], row[name]) for row in self.evaluations if name in row]
        steps, values = zip(*rows, strict=True) if rows else ((), ())
        return np.asarray(steps, dtype=float), np.asarray(values, dtype=float)

    def truncated(self, steps: int, evaluations: int) -> History:
        """A copy with the first rows only."""
        columns = {k: v[:steps] for k, v in self.columns.items()}
        return History(columns, [dict(row) for row in self.evaluations[:evaluations]])

    def __len__(self) -> int:
        return len(self.columns.get("step", ()))

    def to_dict(self) -> dict[str, Any]:
        """Plain lists."""
        return {"columns": self.columns, "evaluations": self.evaluations, "failure": self.failure}

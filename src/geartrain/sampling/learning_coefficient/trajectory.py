"""Learning coefficients along a training run, with common random numbers."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.records import Cost, Measurement, State, Status, format_number
from geartrain.sampling.learning_coefficient.result import LearningCoefficient

Checkpoint = nn.Module | Mapping[str, Tensor] | Tensor


@dataclass(frozen=True)
class Trajectory:
    """Estimates at checkpoints that were sampled with the same random numbers.

    Attributes:
        labels: Of the checkpoints.
        estimates: One each.
    """

    labels: tuple[Any, ...]
    estimates: tuple[LearningCoefficient, ...]

    @property
    def values(self) -> np.ndarray:
        """Learning coefficients, shape (points,)."""
        return np.array([float(e.value) for e in self.estimates])

    @property
    def errors(self) -> np.ndarray:
        """Their standard errors, shape (points,)."""
        return np.array([float(e.standard_error) for e in self.estimates])

    def difference(self, later: int, earlier: int) -> tuple[float, float]:
        """Value at one point minus that at another, with its error chain by chain: common noise cancels."""
        a, b = self.estimates[later], self.estimates[earlier]
        one, other = a.details.get("by_chain"), b.details.get("by_chain")
        if one is None or other is None or len(one) != len(other) or len(one) < 2:
            error = math.hypot(float(a.standard_error), float(b.standard_error))
        else:
            error = float(np.std(one - other, ddof=1)) / math.sqrt(len(one))
        return float(a.value) - float(b.value), error

    def to_measurement(self) -> Measurement:
        """The values over the axis ``point``."""
        warned = sum(bool(e.warnings) for e in self.estimates)
        sentence = f"{len(self.estimates)} checkpoints with common random numbers; {warned} with warnings."
        cost = Cost()
        for e in self.estimates:
            cost = cost + e.cost
        return Measurement(
            "learning_coefficient", self.values, "1", Status(State.ESTIMATE, sentence),
            standard_error=self.errors, dims=("point",), coords={"point": list(self.labels)}, cost=cost,
        )  # fmt: skip

    def __str__(self) -> str:
        lines = []
        for label, e in zip(self.labels, self.estimates, strict=True):
            told = ", ".join(w.name for w in e.warnings)
            lines.append(
                f"{label}: {format_number(float(e.value))} ± {format_number(float(e.standard_error))}"
                + (f" ({told})" if told else "")
            )
        return "\n".join(lines)

    __repr__ = __str__


def at(objective: Objective, checkpoint: Checkpoint) -> Objective:
    """The objective at a checkpoint: a module, a state dict, or a vector of the objective's parameters.

    Raises:
        InputError: It is none of these, or does not fit.
    """
    if isinstance(checkpoint, nn.Module):
        model = checkpoint
    else:
        model = copy.deepcopy(objective.model)
        if isinstance(checkpoint, Tensor):
            if checkpoint.shape != (objective.num_params,):
                raise InputError(
                    f"The checkpoint has shape {tuple(checkpoint.shape)}; it must be ({objective.num_params},), the "
                    "parameters of the objective in their order."
                )
            own = dict(model.named_parameters())
            with torch.no_grad():
                for name, value in zip(
                    objective.layout.names, objective.layout.unflatten(checkpoint), strict=True
                ):
                    own[name].copy_(value)
        elif isinstance(checkpoint, Mapping):
            model.load_state_dict(checkpoint)
        else:
            raise InputError(
                f"The checkpoint is a {type(checkpoint).__name__}; allowed: a module, a state dict, or a vector."
            )
    twin = objective.of(model)
    return (
        twin if twin.layout.names == objective.layout.names else twin.restrict(list(objective.layout.names))
    )


def labelled(
    checkpoints: Sequence[Checkpoint] | Mapping[Any, Checkpoint],
) -> tuple[tuple[Any, ...], list[Checkpoint]]:
    """Labels and checkpoints; numbers from 0 where there are no names."""
    if isinstance(checkpoints, Mapping):
        return tuple(checkpoints), list(checkpoints.values())
    return tuple(range(len(checkpoints))), list(checkpoints)

"""Calls the user's loss on outputs of our own making, to learn how it behaves rather than what it is called."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geartrain._torch import batches as _batches
from geartrain.instruments._examples import TargetKind, target_kind
from geartrain.instruments._layers import Head, first_tensor, head_of
from geartrain.objective import Objective


@dataclass(frozen=True)
class LossProbe:
    """The loss of an objective as a function of the outputs, on some of its targets.

    Attributes:
        objective: Whose loss.
        inputs: The inputs that belong to the outputs.
        targets: The targets.
        outputs: What the model says on them (a tensor, detached).
        head: The model's output activation.
        kind: What the targets are.
    """

    objective: Objective
    inputs: Any
    targets: Tensor
    outputs: Tensor
    head: Head
    kind: TargetKind

    def loss(self, outputs: Tensor, targets: Tensor | None = None) -> float:
        """The loss of such outputs; NaN where it refuses them."""
        targets = self.targets if targets is None else targets
        outputs = outputs.to(self.outputs.dtype)
        try:
            with self.objective._quiet(), torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return float(self.objective.loss_fn(outputs, targets))  # type: ignore[misc]
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError):
            return math.nan

    def warns(self) -> bool:
        """Whether the loss warns about the shapes that it is given."""
        with self.objective._quiet(), torch.no_grad(), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self.objective.loss_fn(self.outputs, self.targets)  # type: ignore[misc]
        return any("size" in str(w.message) for w in caught)

    def random(self, seed: int = 0) -> Tensor:
        """Outputs of the model's shape that the loss accepts: normal like the targets, or in (0, 1) if it insists."""
        source = torch.Generator().manual_seed(seed)
        normal = torch.randn(self.outputs.shape, generator=source, dtype=torch.float64)
        centre, spread = self.scale
        normal = (centre + spread * normal).to(self.outputs)
        return normal if math.isfinite(self.loss(normal)) else torch.sigmoid(normal) * 0.98 + 0.01

    @property
    def scale(self) -> tuple[float, float]:
        """Mean and spread of numeric targets, at which the loss should be tried; 0 and 1 for classes."""
        if self.kind != "values":
            return 0.0, 1.0
        values = self.targets.double()
        spread = float(values.std(correction=0))
        return float(values.mean()), spread if spread > 0 else max(abs(float(values.mean())), 1.0)

    @property
    def class_axis(self) -> int | None:
        """Axis of the outputs that numbers the classes, where the targets are class numbers; else ``None``."""
        shape, wanted = self.outputs.shape, self.targets.shape
        if self.kind not in ("classes", "sequence") or self.outputs.ndim < 2:
            return None
        if shape[:-1] == wanted or (self.kind == "classes" and self.outputs.ndim == 2):
            return self.outputs.ndim - 1
        return 1 if shape[:1] + shape[2:] == wanted else None

    def one_hot(self) -> Tensor | None:
        """1 in the column of the right class, 0 elsewhere, in the shape of the outputs."""
        axis = self.class_axis
        if axis is None:
            return None
        places = self.targets.reshape([s for i, s in enumerate(self.outputs.shape) if i != axis]).unsqueeze(
            axis
        )
        valid = (places >= 0) & (places < self.outputs.shape[axis])
        filled = torch.zeros_like(self.outputs)
        return filled.scatter_(
            axis, places.clamp(0, self.outputs.shape[axis] - 1).long(), valid.to(filled.dtype)
        )


def loss_probe(objective: Objective, limit: int = 128) -> LossProbe | None:
    """A probe of the loss on a few examples; ``None`` where the loss hides outputs or targets.

    Args:
        objective: Whose loss.
        limit: How many examples, evenly spread over the first batch.
    """
    if objective.loss_fn is None:
        return None
    batch = objective.batches[0]
    size = _batches.size_of(batch)
    index = torch.from_numpy(np.unique(np.linspace(0, size - 1, min(size, limit)).astype(int))).to(
        objective.device
    )
    inputs, targets = _batches.take((batch[0], batch[1]), index)
    head, outputs = head_of(objective, inputs, limit)
    objective.charge(forwards=len(index) / objective.num_examples)
    found = first_tensor(outputs) if isinstance(outputs, Tensor) else None
    if found is None or not isinstance(targets, Tensor) or not found.ndim:
        return None
    return LossProbe(objective, inputs, targets, found.detach(), head, target_kind(targets))


HIDDEN = "The loss hides the model's outputs or the targets, so it cannot be called on others."

"""Which class a model names, item by item: an item is an example, or a place of a sequence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geartrain._torch import batches as _batches
from geartrain.errors import UnsupportedError
from geartrain.instruments._examples import target_kind
from geartrain.instruments._layers import first_tensor
from geartrain.instruments._outputs import class_axis, is_bernoulli
from geartrain.objective import Objective


@dataclass(frozen=True)
class Decisions:
    """Classes named and true classes.

    Attributes:
        predicted: Shape (examples, places); one place unless the targets are sequences.
        labels: Likewise; negative where nothing is asked (padding).
        margins: Score of the true class minus the best other one, likewise; NaN where nothing is asked.
    """

    predicted: np.ndarray
    labels: np.ndarray
    margins: np.ndarray

    @property
    def correct(self) -> np.ndarray:
        """Whether each item is right, shape (examples, places)."""
        return self.predicted == self.labels


def decisions(outputs: Any, targets: Any, loss_fn: Any) -> Decisions | None:
    """What the outputs decide; ``None`` where the targets are not classes.

    One column of scores is cut at 0 for logits and targets of -1 and 1, at 1/2 for targets of 0 and 1 otherwise.
    """
    if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor) or not targets.numel():
        return None
    outputs, size = outputs.detach().double(), len(targets)
    if outputs.numel() == targets.numel():
        return _two_classes(outputs.reshape(size, -1), targets, loss_fn)
    axis = class_axis(outputs, targets)
    if target_kind(targets) == "one-hot" and outputs.shape == targets.shape:
        axis, targets = 1, targets.argmax(1)
    if axis is None:
        return None
    scores = outputs.movedim(axis, -1).reshape(-1, outputs.shape[axis])
    labels = targets.reshape(-1).long()
    if len(scores) != len(labels) or int(labels.max()) >= scores.shape[1]:
        return None
    return _many_classes(scores, labels, size)


def decided(objective: Objective, params: Tensor | None = None) -> Decisions | None:
    """What an objective's model decides on its data; ``None`` where that does not exist. **Cost**: a forward pass."""
    if not may_decide(objective):
        return None
    try:
        outputs = first_tensor(objective.outputs(params))
        targets = _batches.join([batch[1] for batch in objective.batches])
    except (UnsupportedError, RuntimeError):  # batches padded to different lengths
        return None
    return decisions(outputs, targets, objective.loss_fn)


def may_decide(objective: Objective) -> bool:
    """Whether the targets look like classes, so that asking for decisions is worth a forward pass."""
    batch = objective.batches[0]
    if objective.loss_fn is None or not isinstance(batch, (tuple, list)) or len(batch) < 2:
        return False
    targets = batch[1]
    if target_kind(targets) in {"classes", "binary", "one-hot", "sequence"}:
        return True
    return isinstance(targets, Tensor) and bool(((targets == 1) | (targets == -1)).all())


def _many_classes(scores: Tensor, labels: Tensor, size: int) -> Decisions:
    asked = labels >= 0
    true = scores.gather(1, labels.clamp_min(0)[:, None])[:, 0]
    others = scores.scatter(1, labels.clamp_min(0)[:, None], -torch.inf).amax(1)
    margins = torch.where(asked, true - others, torch.nan)
    parts = (scores.argmax(1), labels, margins)
    predicted, truth, gaps = (t.reshape(size, -1).cpu().numpy() for t in parts)
    return Decisions(predicted, truth, gaps)


def _two_classes(scores: Tensor, targets: Tensor, loss_fn: Any) -> Decisions | None:
    values = targets.reshape(len(targets), -1).double()
    if values.shape[1] != 1:
        return None
    if bool(((values == 1) | (values == -1)).all()):
        cut, labels = 0.0, (values > 0).long()
    elif bool(((values == 0) | (values == 1)).all()):
        cut, labels = (0.0 if is_bernoulli(loss_fn) else 0.5), values.long()
    else:
        return None
    margins = (scores - cut) * (2 * labels - 1)
    return Decisions(*(t.cpu().numpy() for t in ((scores > cut).long(), labels, margins)))

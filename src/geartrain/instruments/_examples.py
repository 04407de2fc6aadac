"""The examples behind an objective or a run: inputs as features or tokens, targets as classes or values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from geartrain._torch import batches as _batches
from geartrain.errors import UnsupportedError
from geartrain.objective import Objective
from geartrain.run import Run

TargetKind = Literal["classes", "binary", "one-hot", "multi-label", "sequence", "values", "none"]
INPUT_KEYS = ("inputs", "x", "input_ids", "pixel_values", "inputs_embeds", "features")
TARGET_KEYS = ("targets", "y", "labels", "label", "target")


@dataclass(frozen=True)
class Examples:
    """Inputs and targets of some examples, as the model and the loss get them.

    Attributes:
        inputs: A tensor, or a structure of tensors.
        targets: A tensor, or ``None`` where the batches hold none.
        size: How many.
    """

    inputs: Any
    targets: Any
    size: int


def examples_of(subject: Objective | Run, limit: int = 1024, split: str = "train") -> Examples | None:
    """The examples of an objective, or of a split of a run; at most ``limit`` of them, always the same.

    ``None`` where the batches cannot be put together (their shapes differ) or a run has no such data.
    """
    try:
        batch = subject.probe(split, limit) if isinstance(subject, Run) else _batches.join(subject.batches)
    except UnsupportedError:
        return None
    except RuntimeError:  # batches padded to different lengths
        batch = subject.batches[0] if isinstance(subject, Objective) else None
    if batch is None:
        return None
    _batches.check_finite(batch, f"{split} data")
    if (size := _batches.size_of(batch)) > limit:
        order = torch.randperm(size, generator=torch.Generator().manual_seed(subject.seed))
        batch = _batches.take(batch, order[:limit].sort().values)
    inputs, targets = split_batch(batch)
    return Examples(inputs, targets, _batches.size_of(batch))


def split_batch(batch: Any) -> tuple[Any, Any]:
    """(inputs, targets) of a batch in the usual forms; targets are ``None`` where there are none."""
    if isinstance(batch, Mapping):
        inputs = next((batch[k] for k in INPUT_KEYS if k in batch), None)
        targets = next((batch[k] for k in TARGET_KEYS if k in batch), None)
        return inputs, targets
    if isinstance(batch, (tuple, list)):
        return batch[0], batch[1] if len(batch) > 1 else None
    return batch, None


def tokens(inputs: Any) -> Tensor | None:
    """The inputs where they are a table of token numbers, shape (examples, places); else ``None``."""
    found = [t for t in tree_leaves(inputs) if isinstance(t, Tensor)]
    if len(found) != 1 or found[0].is_floating_point() or found[0].ndim > 2 or found[0].dtype == torch.bool:
        return None
    return found[0].reshape(found[0].shape[0], -1)


def features(inputs: Any) -> np.ndarray | None:
    """The inputs as numbers, float64, shape (examples, features); ``None`` where they are tokens.

    Integer images (four axes, or bytes) count as numbers; other integers name things and have no scale.
    """
    found = [t for t in tree_leaves(inputs) if isinstance(t, Tensor) and t.ndim]
    if not found or not all(_numeric(t) for t in found):
        return None
    rows = [t.detach().reshape(t.shape[0], -1).to(torch.float64).cpu().numpy() for t in found]
    return np.concatenate(rows, axis=1) if len({len(r) for r in rows}) == 1 else None


def _numeric(tensor: Tensor) -> bool:
    return (
        tensor.is_floating_point() or tensor.ndim >= 4 or (tensor.dtype == torch.uint8 and tensor.ndim >= 2)
    )


def channels(inputs: Any, model: nn.Module | None) -> np.ndarray | None:
    """Like `features`, but a feature that is one quantity at many places keeps one column.

    Shape (examples x places, features). Images that meet convolutions have channels as features, sequences of
    vectors their last axis (their second one where the model convolves over time); everything else is flattened.
    """
    found = [t for t in tree_leaves(inputs) if isinstance(t, Tensor)]
    if len(found) != 1 or found[0].ndim < 3 or not _numeric(found[0]):
        return features(inputs)
    tensor = found[0].detach().to(torch.float64).cpu()
    if convolves(model):
        return tensor.movedim(1, -1).reshape(-1, tensor.shape[1]).numpy()
    if tensor.ndim == 3:
        return tensor.reshape(-1, tensor.shape[-1]).numpy()
    return features(inputs)


def convolves(model: nn.Module | None) -> bool:
    """Whether a convolution is among the model's layers."""
    return model is not None and any(isinstance(m, nn.modules.conv._ConvNd) for m in model.modules())


# ---------------------------------------------------------------------- targets


def target_kind(targets: Any) -> TargetKind:
    """What the targets are: classes, numbers, one class per place of a sequence, ..."""
    if not isinstance(targets, Tensor) or targets.ndim == 0:
        return "none"
    width = targets[0].numel()
    if not targets.is_floating_point() and targets.dtype != torch.bool:
        return "classes" if width == 1 else "sequence"
    if not bool(((targets == 0) | (targets == 1)).all()):
        return "values"
    if width == 1:
        return "binary"
    ones = targets.reshape(len(targets), -1).sum(1)
    return "one-hot" if targets.ndim == 2 and bool((ones == 1).all()) else "multi-label"


def class_labels(targets: Any) -> np.ndarray | None:
    """Class of each example, shape (examples,); ``None`` where the targets are not one class per example.

    Whole numbers that are nearly all different are counts or measurements, not classes.
    """
    kind = target_kind(targets)
    if kind == "one-hot":
        return targets.reshape(len(targets), -1).argmax(1).cpu().numpy()
    if kind not in ("classes", "binary"):
        return None
    labels = targets.detach().reshape(-1).to(torch.int64).cpu().numpy()
    if len(labels) >= 20 and len(np.unique(labels)) > len(labels) / 2:
        return None
    return labels


def target_values(targets: Any) -> np.ndarray | None:
    """Targets that are numbers, float64, shape (examples, outputs); ``None`` where they are classes."""
    kind = target_kind(targets)
    counts = kind == "classes" and class_labels(targets) is None
    if kind not in ("values", "multi-label") and not counts:
        return None
    return targets.detach().reshape(len(targets), -1).to(torch.float64).cpu().numpy()


def target_columns(targets: Any) -> np.ndarray | None:
    """Targets as columns to regress on: one indicator per class, or the numbers; centred by nobody."""
    labels = class_labels(targets)
    if labels is not None:
        return (labels[:, None] == np.unique(labels)[None, :]).astype(float)
    return target_values(targets)


# ---------------------------------------------------------------------- scales


def feature_spreads(table: np.ndarray) -> np.ndarray:
    """Size of the variation of each feature, shape (features,); 0 for a constant one.

    The standard deviation; for a feature that sits at one value in more than half of the rows (a pixel that is
    mostly background, an indicator) the rms departure from that value over the *other* rows: how large it is
    when it is there, not how rarely that happens.
    """
    usual = np.median(table, axis=0)
    away = table != usual
    share = away.mean(0)
    departure = np.sqrt(((table - usual) ** 2).sum(0) / np.maximum(away.sum(0), 1))
    spread = np.where(share < 0.5, departure, table.std(0))
    # Rounding of a constant column is no variation.
    return np.where(spread <= 1e-9 * np.abs(table).max(0, initial=0.0), 0.0, spread)


def standardised(table: np.ndarray) -> np.ndarray:
    """Centred features divided by their spread; constant ones are dropped."""
    spread = feature_spreads(table)
    kept = spread > 0
    return (table[:, kept] - table[:, kept].mean(0)) / spread[kept]

"""How kernels are compared with one another, and with the targets."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from geartrain._torch import batches as _batches
from geartrain.instruments import _outputs


def target_gram(objective: Any) -> Tensor | None:
    """Gram matrix of the targets, (examples, examples), float64; classes one-hot; ``None`` if there are none to use.

    Of sequences of classes: in how many places two examples have the same class.
    """
    batch = _batches.join(list(objective.batches))
    targets = batch[1] if isinstance(batch, (tuple, list)) and len(batch) > 1 else None
    if not isinstance(targets, Tensor) or targets.ndim == 0 or targets.is_complex():
        return None
    rows = targets.reshape(len(targets), -1)
    if _outputs.class_axis(objective.outputs(), targets) is None:
        return rows.double() @ rows.double().T
    same = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
    for column in rows.T:
        same += column[:, None] == column[None]
    return same


def relative_change(now: Tensor, before: Tensor) -> float:
    """|now - before| / |before|; infinite if there was nothing before."""
    norm = float(before.norm())
    return float((now - before).norm()) / norm if norm > 0 else float("inf")


def distance(first: Tensor, second: Tensor) -> float:
    """One minus the cosine between two kernels; NaN if one is zero."""
    size = float(first.norm() * second.norm())
    return max(0.0, 1 - float((first * second).sum()) / size) if size > 0 else float("nan")


def centred(kernel: Tensor) -> Tensor:
    """The kernel of features whose mean over the examples is taken off."""
    return kernel - kernel.mean(0, keepdim=True) - kernel.mean(1, keepdim=True) + kernel.mean()

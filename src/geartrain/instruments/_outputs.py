"""What the outputs of a model mean: classes or numbers, and how far two sets of outputs are apart."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_BERNOULLI = {"binary_cross_entropy_with_logits", "BCEWithLogitsLoss"}


def class_axis(outputs: Any, targets: Any) -> int | None:
    """Axis of the outputs along which classes lie; ``None`` if the targets are no class numbers.

    Language models put classes last, ``cross_entropy`` on images puts them at axis 1.
    """
    if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor):
        return None
    if targets.is_floating_point() or not outputs.is_floating_point():
        return None
    if outputs.shape[:-1] == targets.shape:
        return outputs.ndim - 1
    if outputs.ndim == targets.ndim + 1 and outputs.shape[2:] == targets.shape[1:]:
        return 1
    # Labels of shape (examples, 1) are as good as (examples,).
    return 1 if outputs.ndim == 2 and targets.numel() == len(outputs) else None


def is_bernoulli(loss_fn: Any) -> bool:
    """Whether the outputs are logits of independent yes-or-no answers."""
    return bool({getattr(loss_fn, "__name__", ""), type(loss_fn).__name__} & _BERNOULLI)


def kullback_leibler(old: Tensor, new: Tensor, axis: int | None) -> float:
    """Mean KL(old || new) of the distributions that the logits stand for; ``axis=None``: yes-or-no logits."""
    if axis is None:
        old, new = (torch.stack([torch.zeros_like(t), t], dim=-1) for t in (old, new))
        axis = old.ndim - 1
    first, second = (functional.log_softmax(t.double(), dim=axis) for t in (old, new))
    terms = torch.where(first.exp() > 0, first.exp() * (first - second), torch.zeros_like(first))
    return float(terms.sum(axis).mean())


def squared_change(old: Tensor, new: Tensor) -> float:
    """Mean squared change over the variance of the old outputs (over examples; NaN if they do not vary)."""
    old, new = old.double(), new.double()
    variance = float(old.reshape(len(old), -1).var(dim=0, correction=0).mean())
    return float(((new - old) ** 2).mean()) / variance if variance > 0 else float("nan")

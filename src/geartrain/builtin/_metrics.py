"""Metrics that several built-in runs report; higher is better."""

from __future__ import annotations

from torch import Tensor


def accuracy(outputs: Tensor, targets: Tensor) -> float:
    """Share of the targets whose class has the largest output (classes along the last axis)."""
    return float((outputs.argmax(-1) == targets).float().mean())


def explained_variance(outputs: Tensor, targets: Tensor) -> float:
    """One minus the squared error over the variance of the targets."""
    return 1 - float((outputs - targets).square().mean() / targets.var(unbiased=False))

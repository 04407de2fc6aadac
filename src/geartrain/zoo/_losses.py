"""Losses of toys, without the factors that would clutter their formulas."""

from __future__ import annotations

from torch import Tensor


def half_square(outputs: Tensor, targets: Tensor) -> Tensor:
    """½‖f - y‖² per example, averaged over the examples: its Hessian in the outputs is the identity."""
    return 0.5 * (outputs - targets).square().reshape(len(outputs), -1).sum(1).mean()

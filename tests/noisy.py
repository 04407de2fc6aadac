"""Objectives whose per-example gradients and Hessian are prescribed."""

from __future__ import annotations

import numpy as np
import torch
from tests.made import linear
from torch import Tensor, nn

from geartrain.objective import Objective


def pulled_by(rows: Tensor) -> Objective:
    """Losses x_i·w: the per-example gradients are the rows of x, whatever w is."""
    model = linear([0.0] * rows.shape[1])
    return Objective(
        model, lambda f, y: (f * y).mean(), (rows, torch.ones(len(rows), 1, dtype=torch.float64))
    )


def shaken_bowl(curvatures: Tensor, at: Tensor, noise: Tensor) -> Objective:
    """Losses ½ Σ h w² + ξ_i·w: gradient h w + ξ_i, Hessian diag(h) for every example."""
    model = linear(at.tolist())

    def loss(model: nn.Module, xi: Tensor) -> Tensor:
        w = model.weight[0]
        return 0.5 * (curvatures * w**2).sum() + (xi @ w).mean()

    return Objective(model, batch_loss=loss, data=[noise])


def coverage(values: np.ndarray, errors: np.ndarray, truth: float, width: float = 2.0) -> int:
    """How many intervals of that many standard errors hold the truth."""
    return int((np.abs(values - truth) <= width * errors).sum())

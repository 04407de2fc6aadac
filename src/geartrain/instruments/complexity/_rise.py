"""How much worse a compressed model may be: the loss rise that pruning and quantisation are allowed."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from geartrain.errors import InputError, NonFiniteError
from geartrain.objective import Objective

SHARE = 0.05


def loss_at(objective: Objective, params: Tensor) -> float:
    """The loss at some parameters; infinite where it is not finite (a badly broken model is merely very bad)."""
    try:
        return float(objective.value(params))
    except NonFiniteError:
        return math.inf


def allowed_rise(objective: Objective, loss: float, rise: float | None) -> float:
    """The rise in units of the loss that counts as the same.

    Args:
        objective: Whose loss.
        loss: The present one.
        rise: What the user allows; if ``None``, one twentieth of what the model gains over itself with all measured
            parameters at zero, or of |loss| where it gains nothing. **Cost**: then one forward pass.

    Returns:
        A positive number.

    Raises:
        InputError: ``rise`` is not positive.
    """
    if rise is not None:
        if not rise > 0 or not math.isfinite(rise):
            raise InputError(f"rise is {rise}; it must be a positive number, in units of the loss.")
        return float(rise)
    zero = loss_at(objective, torch.zeros_like(objective.parameters()))
    gain = zero - loss
    if math.isfinite(gain) and gain > 0:
        return SHARE * gain
    return SHARE * max(abs(loss), 1e-12)

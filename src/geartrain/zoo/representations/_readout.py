"""A linear read-out under half the squared error: what every instrument must find on it, for the toys that have one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from geartrain.objective import Objective
from geartrain.zoo._base import Truth
from geartrain.zoo._descent import motion_truths
from geartrain.zoo._linear import (
    LinearModel,
    data_truths,
    function_truths,
    local_truths,
    minimum_truths,
    pair_truths,
)

_KERNEL_ROWS = 992
"""Outputs of all examples together, beyond which instruments of the tangent kernel take only some examples."""


def stable_step(model: LinearModel) -> float:
    """0.5/λmax, a quarter of the largest step at which gradient descent is stable: no mode dies out in a step."""
    return 0.5 / float(np.linalg.eigvalsh(model.moments)[-1])


def readout_truths(
    model: LinearModel,
    silent: Callable[[Any], Objective],
    fitted: Callable[[Any], Objective],
) -> dict[str, Truth]:
    """Curvature, noise, kernel, motion, signal, data and comparisons of f = Wx.

    Args:
        model: At its weights, on its data.
        silent: From the toy to the same model at W = 0.
        fitted: From the toy to the same model at the least-squares fit.
    """
    truths = local_truths(model) | function_truths(model) | data_truths(model)
    if model.targets.size > _KERNEL_ROWS:
        del truths["ntk_spectrum"], truths["jacobian_rank"]
    truths |= motion_truths(model.descent(stable_step(model)), len(model.inputs))
    truths |= pair_truths(model, np.zeros_like(model.weights), silent)
    if len(model.weights) == 1 and np.linalg.cond(model.moments) < 1e6:
        truths |= minimum_truths(model, fitted)
    return truths | {
        "output_reach": Truth(0.0, source="The output is unbounded."),
        "dead_units": Truth(math.nan, source="There is no rectifier."),
        "saturated_units": Truth(math.nan, source="There is no sigmoid."),
    }

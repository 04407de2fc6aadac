"""Critical batch size: the batch at which half of the best possible progress per step is reached.

Below it twice the batch allows nearly twice the step; above it twice the batch buys little. On the quadratic
approximation of the loss it is exactly the Hessian-weighted noise scale; the simple noise scale is the same number
only where all directions curve alike, and ``simple_over_weighted`` says how far off it is here.

References:
    McCandlish, Kaplan, Amodei et al. (2018), "An Empirical Model of Large-Batch Training", arXiv:1812.06162, eqs.
    (2.4) to (2.8); Zhang et al. (2019), arXiv:1907.04164, for what momentum and preconditioning change.

Ledger: 4.5
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from geartrain.budget import Budget
from geartrain.errors import InputError
from geartrain.instruments._answers import answer
from geartrain.instruments._base import instrument
from geartrain.instruments.noise import _forms, _rows, hessian_noise_scale
from geartrain.objective import Objective
from geartrain.records import Measurement, State


@instrument(needs="objective", unit="examples", price=hessian_noise_scale.price)
def critical_batch_size(
    objective: Objective,
    *,
    batch_size: int | None = None,
    groups: int = _forms.BLOCKS,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the batch B_crit at which a step of SGD gets half of what it gets without noise.

    A step ε along the gradient of B examples changes the quadratic loss by
    -ε|G|² + ½ε²(GᵀHG + tr(HΣ)/B) on average. The best step is ε_max/(1 + B_crit/B) with ε_max = |G|²/GᵀHG, the decrease
    ½ε_max|G|²/(1 + B_crit/B), and B_crit = tr(HΣ)/GᵀHG: the Hessian-weighted noise scale. With H a multiple of the
    identity it is trΣ/|G|², the simple one.

    **Cost** that of `hessian_noise_scale`: ``groups`` Hessian products; the simple noise scale comes from the same
    blocks.

    **Assumes** plain SGD, the best step at every batch size, a loss that is quadratic over the length of a step, and
    positive curvature along the gradient. Examples drawn independently.

    **Misleads** as advice for Adam or momentum (which have larger critical batches), for a step size that is not tuned
    to the batch, at the edge of stability (where the loss is not quadratic along a step), and as a number for a whole
    run: it usually grows by orders of magnitude while the loss falls.

    Args:
        objective: What to measure.
        batch_size: Your own; the details then say what it achieves.
        groups: Blocks; at least 4 (see `hessian_noise_scale`).
        generator: Draws the blocks; seeded by the objective if omitted.
        budget: Limit: products, ``"5s"`` or a `Budget`.

    Returns:
        The critical batch size, in examples, with its standard error; infinite where the curvature along the gradient
        is not positive. ``details``: ``interval`` (95 %), ``simple`` (noise scale trΣ/|G|² from the same blocks) with
        ``simple_error`` and ``simple_interval``, ``simple_over_weighted`` (their ratio: 1 where noise and gradient meet
        the same curvature), ``max_step`` (ε_max, θ²/ℓ), ``max_decrease`` (½ε_max|G|², ℓ: the most that one step can
        gain), ``num_groups``, ``group_size``; with ``batch_size``: ``progress`` (share of the largest decrease per
        step, 1/(1 + B_crit/B)), ``efficiency`` (decrease per example over that of the smallest batches,
        1/(1 + B/B_crit)), ``best_step`` (ε at that batch).

    Raises:
        InputError: The batch is smaller than 1, or fewer than four groups were asked for.

    References:
        McCandlish et al. (2018), arXiv:1812.06162, eqs. (2.4)-(2.8).

    Example:
        Losses ½w² + ξ w with ξ = ±1 at w = 2: Σ = 8/7 and GᵀHG = |G|² = 4 - 1/7, so B = (8/7)/(27/7) = 8/27, both ways.

        >>> import torch
        >>> model = torch.nn.Linear(1, 1, bias=False).double()
        >>> _ = torch.nn.init.constant_(model.weight, 2.0)
        >>> noise = torch.tensor([1.0, -1.0] * 4).double()[:, None]
        >>> loss = lambda f, xi: (0.5 * f**2 + xi * f).mean()
        >>> result = critical_batch_size(Objective(model, loss, (torch.ones(8, 1).double(), noise)), batch_size=8)
        >>> round(27 * float(result), 9), round(27 * result.details["simple"], 9)
        (8.0, 8.0)
        >>> round(28 * result.details["progress"], 9)
        27.0
    """
    name = "critical_batch_size"
    if batch_size is not None and batch_size < 1:
        raise InputError(f"{name}: batch_size is {batch_size}; it must be at least 1.")
    found = hessian_noise_scale.measured(objective, groups, generator, Budget.of(budget), name)
    return found if isinstance(found, Measurement) else _answer(found, batch_size)


def _answer(forms: _forms.Forms, batch_size: int | None) -> Measurement:
    trace, curved, covariance = (x for x in _forms.estimates(forms.table))
    noise, signal, size = float(trace), float(curved), forms.size
    value = size * max(noise, 0.0) / signal if signal > 0 else math.inf
    low, high = _forms.interval(noise, signal, covariance)
    details = {
        "interval": (size * low, size * high),
        **_simple(forms, value),
        **_steps(forms, signal),
        "num_groups": forms.blocks,
        "group_size": size,
    }
    if batch_size is not None:
        details |= _at(value, batch_size, details["max_step"])
    state = State.ESTIMATE if forms.complete else State.OUT_OF_BUDGET
    sentence = _sentence(details, value, signal)
    if not forms.complete:
        sentence = f"The budget reached {len(forms.table)} of {forms.blocks} Hessians. {sentence}"
    error = size * _rows.ratio_error(noise, signal, covariance)
    return answer(
        "critical_batch_size", value, sentence, unit="examples", error=error, state=state, details=details
    )


def _simple(forms: _forms.Forms, weighted: float) -> dict[str, Any]:
    noise, signal, covariance = hessian_noise_scale.simple_parts(forms)
    size = forms.size
    simple = size * noise / signal if signal > 0 else math.inf
    ends = np.array(_rows.fieller(noise, signal, covariance))
    both = weighted > 0 and math.isfinite(weighted) and math.isfinite(simple)
    return {
        "simple": simple,
        "simple_error": size * _rows.ratio_error(noise, signal, covariance),
        "simple_interval": (float(size * ends[0]), float(size * ends[1])),
        "simple_over_weighted": simple / weighted if both else math.nan,
    }


def _steps(forms: _forms.Forms, curved: float) -> dict[str, float]:
    _, squared, _ = hessian_noise_scale.simple_parts(forms)
    known = squared > 0 and curved > 0
    step = squared / curved if known else math.nan
    return {"max_step": step, "max_decrease": 0.5 * step * squared if known else math.nan}


def _at(critical: float, batch_size: int, max_step: float) -> dict[str, float]:
    progress = batch_size / (batch_size + critical)
    return {"progress": progress, "efficiency": 1 - progress, "best_step": max_step * progress}


def _sentence(details: dict[str, Any], value: float, curved: float) -> str:
    if not curved > 0:
        return (
            "The loss does not curve upwards along the mean gradient, as far as the data show, so no batch is "
            f"critical; the simple noise scale is {details['simple']:.3g} examples."
        )
    low, high = details["interval"]
    if not math.isfinite(high):
        return (
            f"The mean gradient is lost in noise: at least {low:.3g} examples; the simple noise scale is "
            f"{details['simple']:.3g}."
        )
    known = (
        f"95 % interval {low:.3g} to {high:.3g} examples; the simple noise scale is {details['simple']:.3g}"
    )
    return f"{known}; half of the best step's progress is had at {value:.3g}."

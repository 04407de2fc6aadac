"""Hessian-weighted noise scale: how many examples until noise costs a step as much as curvature does.

The simple noise scale counts noise in every direction alike; this one weighs each direction by its curvature, because
noise in flat directions costs nothing. Where gradients and noise share the curved directions the two agree; where the
curvature sits mostly in noisy directions without signal, this one is the larger.

References:
    McCandlish, Kaplan, Amodei et al. (2018), "An Empirical Model of Large-Batch Training", arXiv:1812.06162, eq. (2.8).

Ledger: 4.5
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch

from geartrain.budget import Budget
from geartrain.errors import InputError, NonFiniteError, UnsupportedError
from geartrain.instruments._answers import estimate, no_answer, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments._curvature import bytes_of
from geartrain.instruments.noise import _forms, _rows
from geartrain.objective import Objective
from geartrain.records import Cost, Measurement, State, Status


def price(objective: Objective, *, groups: int = _forms.BLOCKS, budget: Any = None, **options: Any) -> Cost:
    """One product per group, and three passes besides."""
    blocks = _forms.blocks_of(objective, groups)
    if blocks < _forms.LEAST:
        return Cost()
    limit = Budget.of(budget).products
    products = blocks if limit is None else min(blocks, limit)
    return Cost(
        forwards=2,
        gradients=2 if products else 0,
        products=products,
        peak_bytes=bytes_of(objective, 3 * blocks),
    )


@instrument(needs="objective", unit="examples", price=price)
def hessian_noise_scale(
    objective: Objective,
    *,
    groups: int = _forms.BLOCKS,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure B = tr(HΣ) / GᵀHG, the Hessian-weighted noise scale, in examples.

    The data are cut into random blocks with gradients g_k and Hessians h_k. GᵀHG is the mean of g_iᵀ h_k g_j over
    different blocks i, j, k; tr(HΣ)/b is the mean of g_iᵀ h_k g_i over i ≠ k less that. Both are unbiased U-statistics:
    no block meets itself. Errors by the jackknife over blocks; the interval is Fieller's for a ratio.

    **Cost** ``groups`` Hessian products, two gradients and two forward passes; memory of 3 ``groups`` vectors.

    **Assumes** that the loss is a mean over independent examples, twice differentiable, and that its curvature along
    the gradient is positive. With batch normalisation in training mode, it is that of blocks of this size.

    **Misleads** where GᵀHG is near zero or negative (a saddle, an early plateau): the quadratic picture then has no
    best step and the value is infinite. Few or heavy-tailed examples: the parts are skewed and two standard errors
    of tr(HΣ) then hold only eight times in ten (16 blocks of 10); the interval of the ratio keeps its 95 %.

    Args:
        objective: What to measure.
        groups: Blocks; at least 4. More of them give smaller errors, at one product each.
        generator: Draws the blocks; seeded by the objective if omitted.
        budget: Limit: products, ``"5s"`` or a `Budget`.

    Returns:
        The noise scale, in examples; infinite where the unbiased GᵀHG is not positive. ``details``: ``interval``
        (95 %), ``hessian_trace_noise`` (tr(HΣ), ℓ³/θ⁴) and ``gradient_curvature`` (GᵀHG, ℓ³/θ⁴) with their
        ``..._error``, ``max_step`` (|G|²/GᵀHG, the best step of a noiseless gradient, θ²/ℓ), ``grad_sq_norm`` and
        ``covariance_trace`` from the same blocks, ``group_size``, ``num_groups``, ``hessians`` (blocks whose Hessian
        was reached).

    Raises:
        InputError: Fewer than four groups were asked for.

    References:
        McCandlish et al. (2018), arXiv:1812.06162, eq. (2.8) and App. A.

    Example:
        Losses ½w² + ξ w with ξ = ±1 at w = 2: G = 2, H = 1, Σ = 8/7 (unbiased, n = 8), GᵀHG = 4 - (8/7)/8.

        >>> import torch
        >>> model = torch.nn.Linear(1, 1, bias=False).double()
        >>> _ = torch.nn.init.constant_(model.weight, 2.0)
        >>> noise = torch.tensor([1.0, -1.0] * 4).double()[:, None]
        >>> loss = lambda f, xi: (0.5 * f**2 + xi * f).mean()
        >>> result = hessian_noise_scale(Objective(model, loss, (torch.ones(8, 1).double(), noise)))
        >>> round(result.details["hessian_trace_noise"], 10), round(result.details["gradient_curvature"], 10)
        (1.1428571429, 3.8571428571)
    """
    name = "hessian_noise_scale"
    found = measured(objective, groups, generator, Budget.of(budget), name)
    return found if isinstance(found, Measurement) else _answer(found, groups)


def measured(
    objective: Objective, groups: int, generator: torch.Generator | None, budget: Budget, name: str
) -> _forms.Forms | Measurement:
    """The quadratic forms, or the measurement that says why there are none."""
    if groups < _forms.LEAST:
        raise InputError(
            f"{name}: groups is {groups}; at least {_forms.LEAST} are needed to keep three apart and leave one out."
        )
    if _forms.blocks_of(objective, groups) < _forms.LEAST:
        sentence = f"{objective.num_examples} examples are too few; at least {_forms.LEAST} are needed."
        return not_applicable(name, sentence, unit="examples")
    clock = budget.start()
    if clock.exhausted():
        return no_answer(
            name, "The budget allows no Hessian product.", unit="examples", state=State.OUT_OF_BUDGET
        )
    try:
        blocks = _forms.split(objective, groups, generator)
        if len(blocks) < _forms.LEAST:
            return not_applicable(
                name, "Batches of different lengths leave too few equal groups.", unit="examples"
            )
        _forms.check_mean(objective, blocks)
        forms = _forms.forms_of(objective, blocks, clock)
    except NonFiniteError as error:
        return no_answer(name, str(error), unit="examples", state=State.NON_FINITE)
    except UnsupportedError as error:
        return not_applicable(name, str(error), unit="examples")
    if len(forms.table) < 2:
        return no_answer(
            name,
            f"The budget allowed the Hessian of {len(forms.table)} of {forms.blocks} blocks; 2 are needed.",
            unit="examples",
            state=State.OUT_OF_BUDGET,
        )
    if not forms.gradients.any():
        return not_applicable(name, "Every group's gradient is zero.", unit="examples")
    return forms


def _answer(forms: _forms.Forms, asked: int) -> Measurement:
    trace, curved, covariance = (x for x in _forms.estimates(forms.table))
    noise, signal = float(trace), float(curved)
    size = forms.size
    ratio = max(noise, 0.0) / signal if signal > 0 else math.inf
    error = _rows.ratio_error(noise, signal, covariance)
    low, high = _forms.interval(noise, signal, covariance)
    plain, squared, _ = simple_parts(forms)
    details = {
        "interval": (size * low, size * high),
        "hessian_trace_noise": size * noise,
        "hessian_trace_noise_error": size * math.sqrt(covariance[0, 0]),
        "gradient_curvature": signal,
        "gradient_curvature_error": math.sqrt(covariance[1, 1]),
        "max_step": squared / signal if signal > 0 else math.nan,
        "grad_sq_norm": squared,
        "covariance_trace": size * plain,
        "group_size": size,
        "num_groups": forms.blocks,
        "hessians": len(forms.table),
    }
    sentence = (
        f"From {forms.blocks} groups of {size}; 95 % interval {size * low:.3g} to {size * high:.3g} examples."
    )
    if not math.isfinite(high):
        sentence = f"From {forms.blocks} groups of {size}; GᵀHG is lost in noise: at least {size * low:.3g} examples."
    if not signal > 0:
        sentence = (
            "The loss does not curve upwards along the mean gradient, as far as the data show: no such scale."
        )
    result = estimate(
        "hessian_noise_scale", size * ratio, size * error, sentence, unit="examples", details=details
    )
    if forms.complete:
        return result
    cut = f"The budget reached {len(forms.table)} of {forms.blocks} Hessians. {sentence}"
    return dataclasses.replace(result, status=Status(State.OUT_OF_BUDGET, cut))


def simple_parts(forms: _forms.Forms) -> tuple[float, float, Any]:
    """Unbiased trace of the covariance of a block's gradient, |G|², and their covariance, from the same blocks."""
    inner = forms.gradients
    noise, signal, covariance = _rows.parts_of(inner.diagonal(), inner.sum(1), inner.sum())
    return float(noise), float(signal), covariance

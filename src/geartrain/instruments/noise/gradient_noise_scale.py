"""Gradient noise scale: how many examples it takes until the mean gradient is as large as its noise.

Batches far below it waste no example (twice the batch allows nearly twice the step); batches far above it waste
most of them. It says nothing about which directions are noisy, it changes along the run (usually it grows), and
near the end of training, where the mean gradient vanishes, it can only be bounded from below.

Both parts are unbiased (the squared norm of a mean gradient over n examples contains trΣ/n of pure noise) and the
result is in examples: tools that forget the size of the groups they compare are off by that factor.

References:
    McCandlish, Kaplan, Amodei et al. (2018), "An Empirical Model of Large-Batch Training", arXiv:1812.06162, App. A.

Ledger: 4.5
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from geartrain.budget import Budget
from geartrain.errors import UnsupportedError
from geartrain.instruments._answers import estimate, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments.noise import _rows
from geartrain.objective import Objective
from geartrain.records import Cost, Measurement


def price(objective: Objective, **options: Any) -> Cost:
    """One pass of per-example gradients, or two where the rows do not fit in memory."""
    rows = 8 * objective.num_params * objective.num_examples
    return Cost(gradients=1 if rows <= _rows.KEEP_BYTES else 2, peak_bytes=min(rows, _rows.KEEP_BYTES))


@instrument(needs="objective", unit="examples", price=price)
def gradient_noise_scale(
    objective: Objective,
    *,
    groups: int | None = None,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure B = trΣ / |G|², the simple noise scale, in examples.

    With gradients g_i of single examples: trΣ = Σ|g_i - ḡ|² / (n - 1), |G|² = |ḡ|² - trΣ / n. With gradients of
    groups of b examples, the covariance of a group mean is Σ / b, which is undone. Standard errors by the
    jackknife; the interval is Fieller's for a ratio, so its upper end is infinite where |G|² is not clearly above 0.

    **Cost**: one pass of per-example gradients (a few gradients where the model can be vectorised), a second one
    where they do not fit in memory; or one gradient in ``groups`` pieces.

    **Assumes** that the loss is a mean over independent examples.

    **Misleads** as the critical batch size where noise and curvature share directions (`hessian_noise_scale` weighs
    them), and late in training, where |G|² vanishes and only the lower end of the interval means anything.

    Args:
        objective: What to measure.
        groups: Take gradients of that many random groups instead of single examples; 2 is the comparison of two
            half batches (no error is known then), many are that of B_small with B_big. By default only where single
            examples are undefined (batch normalisation in training mode) or too dear (recurrent or large models).
        generator: Draws the groups; seeded by the objective if omitted.
        budget: With a time limit under two seconds, groups are used as well.

    Returns:
        The noise scale, in examples; infinite where the unbiased |G|² is not positive. Details: ``interval`` (95 %),
        ``grad_sq_norm`` and ``covariance_trace`` with their standard errors, ``signal_to_noise`` per layer
        (|G|²/trΣ, per example, unbiased), ``group_size``, ``num_groups``.

    Raises:
        NonFiniteError: A gradient is not finite.

    Example:
        Two opposite gradients, -1 and 3: ḡ = 1, trΣ = 8, |G|² = 1 - 8/2 < 0, so the data show no mean gradient.

        >>> import torch
        >>> model = torch.nn.Linear(1, 1, bias=False).double()
        >>> loss = lambda outputs, targets: (outputs * targets).mean()
        >>> x, y = torch.ones(2, 1).double(), torch.tensor([[-1.0], [3.0]]).double()
        >>> gradient_noise_scale(Objective(model, loss, (x, y))).details["covariance_trace"]
        8.0
    """
    name = "gradient_noise_scale"
    try:
        sums, size = _rows.sums_of(objective, groups, generator, Budget.of(budget), name)
    except UnsupportedError as error:
        return not_applicable(name, str(error), unit="examples")
    if sums.count < (4 if size > 1 and groups is None else 2):
        return not_applicable(
            name, f"{sums.count} groups of examples are too few to see noise.", unit="examples"
        )
    noise, signal, covariance = _rows.parts_of(
        sums.squares.sum(1), sums.products.sum(1), sums.layer_totals.sum()
    )
    if noise == 0 and signal == 0:
        return not_applicable(name, "Every example's gradient is zero.", unit="examples")
    return _answer(sums, float(noise), float(signal), covariance, size)


def _answer(sums: _rows.Sums, noise: float, signal: float, covariance: np.ndarray, size: int) -> Measurement:
    low, high = _rows.fieller(noise, signal, covariance)
    ratio = noise / signal if signal > 0 else math.inf
    error = _rows.ratio_error(noise, signal, covariance)
    details = {
        "interval": (size * low, size * high),
        "grad_sq_norm": signal,
        "grad_sq_norm_error": math.sqrt(covariance[1, 1]),
        "covariance_trace": size * noise,
        "covariance_trace_error": size * math.sqrt(covariance[0, 0]),
        "signal_to_noise": _by_layer(sums, size),
        "group_size": size,
        "num_groups": sums.count,
    }
    what = "examples" if size == 1 else f"groups of {size}"
    sentence = f"From {sums.count} {what}; 95 % interval {size * low:.3g} to {size * high:.3g} examples."
    if not math.isfinite(high):
        sentence = f"From {sums.count} {what}; the mean gradient is lost in noise: at least {size * low:.3g} examples."
    return estimate(
        "gradient_noise_scale", size * ratio, size * error, sentence, unit="examples", details=details
    )


def _by_layer(sums: _rows.Sums, size: int) -> dict[str, float]:
    noise, signal, _ = _rows.parts_of(sums.squares, sums.products, sums.layer_totals)
    ratios = np.divide(signal, size * noise, out=np.full(len(noise), math.nan), where=noise > 0)
    return {layer or "(model)": float(r) for layer, r in zip(sums.layers, ratios, strict=True)}

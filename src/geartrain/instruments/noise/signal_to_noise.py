"""Signal to noise of every layer's gradient: how much of a single example's gradient is common to all examples.

A layer far below the others takes steps that are mostly noise: averaging (a larger batch, a smaller step there) is
worth more for it than for the rest. Late in training all layers fall, because the signal vanishes and the noise
does not. The reciprocal is the layer's own noise scale, in examples.

References:
    McCandlish, Kaplan, Amodei et al. (2018), arXiv:1812.06162, App. A.

Ledger: 4.5
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from geartrain.budget import Budget
from geartrain.errors import UnsupportedError
from geartrain.instruments._answers import not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments.noise import _rows
from geartrain.instruments.noise.gradient_noise_scale import price
from geartrain.objective import Objective
from geartrain.records import Measurement, State, Status


@instrument(needs="objective", unit="1", price=price)
def signal_to_noise(
    objective: Objective,
    *,
    groups: int | None = None,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure |G_l|² / trΣ_l of every layer l, per example.

    With gradients g_i of single examples, restricted to the layer: trΣ = Σ|g_i - ḡ|² / (n - 1),
    |G|² = |ḡ|² - trΣ / n, both unbiased, so the ratio may come out below 0 where the signal is lost in noise.
    A batch of B examples has B times this ratio.

    **Cost** one pass of per-example gradients (two where the rows do not fit in memory), or one gradient in
    ``groups`` pieces.

    **Assumes** that the loss is a mean over independent examples.

    **Misleads** when layers are compared by it as if they mattered equally: a layer with a clear signal may have a tiny
    one. Layers are correlated, so their errors are not independent of one another.

    Args:
        objective: What to measure.
        groups: Take gradients of that many random groups instead of single examples (see `gradient_noise_scale`).
        generator: Draws the groups; seeded by the objective if omitted.
        budget: With a time limit under two seconds, groups are used as well.

    Returns:
        The ratio, dims ``("layer",)``, a pure number per example, with jackknife standard errors; NaN for a layer
        whose gradients do not vary. ``details``: ``low``, ``high`` (95 %, Fieller, not below 0), ``grad_sq_norm`` and
        ``covariance_trace`` (per layer), ``noise_scale`` (per layer, in examples, infinite where |G|² is not
        positive), ``weakest`` (name of the layer with the lowest ratio), ``total`` (of all layers together),
        ``group_size``, ``num_groups``.

    Raises:
        InputError: Fewer than two groups were asked for.
        NonFiniteError: A gradient is not finite.

    References:
        McCandlish et al. (2018), arXiv:1812.06162, App. A.1.

    Example:
        Gradients 1 and 3: trΣ = 2, |G|² = 4 - 2/2 = 3.

        >>> import torch
        >>> model = torch.nn.Linear(1, 1, bias=False).double()
        >>> loss = lambda outputs, targets: (outputs * targets).mean()
        >>> x, y = torch.ones(2, 1).double(), torch.tensor([[1.0], [3.0]]).double()
        >>> signal_to_noise(Objective(model, loss, (x, y))).value.tolist()
        [1.5]
    """
    name = "signal_to_noise"
    try:
        sums, size = _rows.sums_of(objective, groups, generator, Budget.of(budget), name)
    except UnsupportedError as error:
        return not_applicable(name, str(error))
    if sums.count < (4 if size > 1 and groups is None else 2):
        return not_applicable(name, f"{sums.count} groups of examples are too few to see noise.")
    noise, signal, covariance = _rows.parts_of(sums.squares, sums.products, sums.layer_totals)
    # Rows of groups have the covariance Σ / size.
    noise, scale = size * noise, np.array([size, 1.0])
    return _answer(sums, size, noise, signal, covariance * scale[:, None] * scale)


def _answer(
    sums: _rows.Sums, size: int, noise: np.ndarray, signal: np.ndarray, covariance: np.ndarray
) -> Measurement:
    value = _over(signal, noise)
    swapped = covariance[:, ::-1, ::-1]
    each = list(zip(signal, noise, swapped, strict=True))
    error = np.array([_rows.ratio_error(s, t, c) if t > 0 else math.nan for s, t, c in each])
    ends = np.array([_rows.fieller(s, t, c) if t > 0 else (math.nan, math.nan) for s, t, c in each])
    names = [layer or "(model)" for layer in sums.layers]
    known = np.flatnonzero(np.isfinite(value))
    if not len(known):
        return not_applicable("signal_to_noise", "No layer's gradient varies from example to example.")
    weakest = int(known[np.argmin(value[known])])
    details: dict[str, Any] = {
        "low": ends[:, 0],
        "high": np.maximum(ends[:, 1], 0.0),
        "grad_sq_norm": signal,
        "covariance_trace": noise,
        "noise_scale": np.where(signal > 0, _over(noise, signal), np.inf),
        "weakest": names[weakest],
        "total": float(signal.sum() / noise.sum()),
        "group_size": size,
        "num_groups": sums.count,
    }
    what = "examples" if size == 1 else f"groups of {size}"
    sentence = f"From {sums.count} {what}; weakest in {names[weakest]} ({value[weakest]:.3g} per example)."
    status = Status(State.ESTIMATE, sentence)
    return Measurement(
        "signal_to_noise", value, "1", status, error, ("layer",), {"layer": names}, details=details
    )


def _over(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.divide(top, bottom, out=np.full(np.shape(top), math.nan), where=bottom > 0)

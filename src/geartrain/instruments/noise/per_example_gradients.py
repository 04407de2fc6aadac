"""Distribution of the norms of single examples' gradients: who pulls, how hard, and how heavy the tail is.

A few examples that pull a hundred times harder than the rest decide every batch they are in: they are mislabelled,
mis-scaled, or the only ones not yet learnt. Clipping per example, or a look at them, is then worth more than any
step size.

Heavy tails of *gradient noise* have been claimed to drive SGD (Simsekli et al. 2019) and the claim contested: an
estimator that assumes a power law finds one in any data. Here the tail index comes with its interval and beside the
extreme-value index, which is 0 for tails that fall like an exponential.

References:
    Hill (1975), Annals of Statistics 3; Dekkers, Einmahl, de Haan (1989), Annals of Statistics 17; Maritz, Jarrett
    (1978), JASA 73; Simsekli, Sagun, Gürbüzbalaban (2019), arXiv:1901.06053.

Ledger: 4.5
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy import stats

from geartrain.budget import Budget
from geartrain.errors import InputError, UnsupportedError
from geartrain.instruments._answers import gradient_price, not_applicable
from geartrain.instruments._base import instrument
from geartrain.objective import Objective
from geartrain.records import Measurement, State, Status

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_TAIL = 0.1
_LEAST_TAIL = 10


@instrument(needs="objective", unit="ℓ/θ", price=gradient_price)
def per_example_gradients(
    objective: Objective,
    *,
    quantiles: Sequence[float] = QUANTILES,
    tail: float = _TAIL,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure quantiles of the per-example gradient norms |g_i|, and the index of their tail.

    Quantiles by linear interpolation between order statistics; errors by Maritz and Jarrett (the exact variance of the
    order statistic under the empirical distribution). With the k largest norms x_(1) ≥ ... ≥ x_(k) above u = x_(k+1):
    Hill's 1/α̂ = mean ln(x_(j)/u), whose interval is exact for a power law, P(|g| > x) ∝ x^(-α).

    **Cost** one pass of per-example gradients.

    **Assumes** that the loss is a mean over independent examples.

    **Misleads** in the tail index wherever the tail is no power law (Hill's estimator then drifts with ``tail``: try
    several) or holds fewer than some ten examples; and in the extreme quantiles of small samples, whose error is taken
    from the sample itself.

    Args:
        objective: What to measure.
        quantiles: Which, each between 0 and 1.
        tail: Share of the examples that count as the tail, above 0 and at most one half.
        generator: Not used: nothing is drawn.
        budget: Not used: one pass is the least that can be spent.

    Returns:
        The quantiles, dims ``("quantile",)``, unit ℓ/θ, with standard errors (NaN for a single example).
        ``details``: ``mean``, ``rms``, ``largest`` and ``largest_example`` (its place in the data),
        ``share_of_largest`` (of the sum of squares; 1/n if all are alike), ``effective_examples``
        ((Σ|g|²)²/Σ|g|⁴), ``tail_index`` (α̂), ``tail_interval`` (95 %), ``tail_index_error``, ``tail_count`` (k; the
        index is NaN below 10), ``extreme_value_index`` and its ``extreme_value_error`` (moment estimator: 1/α for
        power laws, 0 for exponential tails, negative for bounded ones), ``zero`` (examples without any gradient).

    Raises:
        InputError: A quantile or the tail is out of range.
        NonFiniteError: A gradient is not finite.

    References:
        Hill (1975); Dekkers, Einmahl, de Haan (1989), eq. (1.7); Maritz, Jarrett (1978).

    Example:
        Gradients 1, 2, 3, 4, 5 of one parameter:

        >>> import torch
        >>> model = torch.nn.Linear(1, 1, bias=False).double()
        >>> loss = lambda outputs, targets: (outputs * targets).mean()
        >>> x, y = torch.ones(5, 1).double(), torch.arange(1.0, 6.0).double()[:, None]
        >>> per_example_gradients(Objective(model, loss, (x, y)), quantiles=[0.5, 1.0]).value.tolist()
        [3.0, 5.0]
    """
    name, levels = "per_example_gradients", np.asarray(quantiles, dtype=float)
    if not len(levels) or not bool(np.all((levels >= 0) & (levels <= 1))):
        raise InputError(f"{name}: quantiles are {list(quantiles)}; give one or more between 0 and 1.")
    if not 0 < tail <= 0.5:
        raise InputError(f"{name}: tail is {tail}; allowed: above 0 and at most 0.5.")
    try:
        norms = objective.per_example_gradient_norms().double().cpu().numpy()
    except UnsupportedError as error:
        return not_applicable(name, str(error), unit="ℓ/θ")
    if not norms.any():
        return not_applicable(name, "Every example's gradient is zero.", unit="ℓ/θ")
    details = _details(norms, tail)
    middle = float(np.median(norms))
    sentence = (
        f"{len(norms)} examples; the largest norm is {details['largest']:.3g}, the median {middle:.3g} ℓ/θ."
    )
    return Measurement(
        name,
        np.quantile(norms, levels),
        "ℓ/θ",
        Status(State.ESTIMATE, sentence),
        quantile_errors(np.sort(norms), levels),
        ("quantile",),
        {"quantile": [float(q) for q in levels]},
        details=details,
    )


def _details(norms: np.ndarray, tail: float) -> dict[str, Any]:
    squares = (norms / norms.max()) ** 2
    index = tail_index(np.sort(norms)[::-1], max(int(tail * len(norms)), 1))
    return {
        "mean": float(norms.mean()),
        "rms": float(np.sqrt(np.mean(norms**2))),
        "largest": float(norms.max()),
        "largest_example": int(norms.argmax()),
        "share_of_largest": float(squares.max() / squares.sum()),
        "effective_examples": float(squares.sum() ** 2 / (squares**2).sum()),
        **index,
        "zero": int((norms == 0).sum()),
    }


def quantile_errors(ordered: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Maritz-Jarrett standard errors of quantiles.

    The quantile q of n values is the order statistic m = q(n - 1) + 1, whose law under the empirical distribution puts
    the weight B(i/n) - B((i-1)/n) on the i-th value, B the beta distribution with parameters m and n + 1 - m.

    Args:
        ordered: Values in ascending order, shape (..., n).
        levels: Quantiles, shape (q,).

    Returns:
        Errors, shape (..., q).
    """
    n = ordered.shape[-1]
    if n < 2:
        return np.full((*ordered.shape[:-1], len(levels)), math.nan)
    places = np.clip(levels * (n - 1) + 1, 1, n)
    grid = np.arange(n + 1) / n
    weights = np.diff([stats.beta.cdf(grid, m, n + 1 - m) for m in places], axis=1)
    mean = ordered @ weights.T
    variance = (ordered**2) @ weights.T - mean**2
    return np.sqrt(np.maximum(variance, 0.0))


def tail_index(descending: np.ndarray, count: int) -> dict[str, Any]:
    """Hill's tail index and the moment estimator of the extreme-value index from the ``count`` largest values."""
    count = min(count, len(descending) - 1)
    nothing = {
        "tail_index": math.nan,
        "tail_index_error": math.nan,
        "tail_interval": (math.nan, math.nan),
        "tail_count": max(count, 0),
        "extreme_value_index": math.nan,
        "extreme_value_error": math.nan,
    }
    if count < _LEAST_TAIL or not descending[count] > 0:
        return nothing
    logs = np.log(descending[:count] / descending[count])
    first, second = float(logs.mean()), float(np.mean(logs**2))
    if first == 0 or second <= first**2:  # ties
        return nothing
    # Above a power law's threshold the logs are exponential, so their sum is a gamma variable.
    low, high = (stats.chi2.ppf(p, 2 * count) / (2 * count * first) for p in (0.025, 0.975))
    extreme = first + 1 - 0.5 / (1 - first**2 / second)
    return {
        "tail_index": 1 / first,
        "tail_index_error": 1 / (first * math.sqrt(count)),
        "tail_interval": (float(low), float(high)),
        "tail_count": count,
        "extreme_value_index": extreme,
        "extreme_value_error": math.sqrt(_moment_variance(extreme) / count),
    }


def _moment_variance(index: float) -> float:
    """Asymptotic variance of √k times the moment estimator (Dekkers, Einmahl, de Haan 1989, theorem 3.1)."""
    if index >= 0:
        return 1 + index**2
    g = index
    inner = 4 - 8 * (1 - 2 * g) / (1 - 3 * g) + (5 - 11 * g) * (1 - 2 * g) / ((1 - 3 * g) * (1 - 4 * g))
    return (1 - g) ** 2 * (1 - 2 * g) * inner

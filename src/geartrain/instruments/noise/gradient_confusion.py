"""Gradient confusion: do single examples agree on where to go, or does learning one unlearn the other?

The cosine between the gradients of two examples is positive where a step on one also helps the other. Confusion in
the narrow sense is the smallest constant η with g_i·g_j ≥ -η for all pairs; plain SGD with a constant step converges
quickly to a neighbourhood of size η (Sankararaman et al. 2020, theorem 3.1), and wider networks have less of it,
deeper ones more.

References:
    Sankararaman, De, Xu, Huang, Goldstein (2020), "The Impact of Neural Network Overparameterization on Gradient
    Confusion and Stochastic Gradient Descent", arXiv:1904.06963. Fort, Nowak, Jastrzębski, Narayanan (2019),
    arXiv:1901.09491, for the mean cosine ("stiffness").

Ledger: 4.5
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geartrain._torch import batches as _batches
from geartrain.budget import Budget
from geartrain.errors import InputError, UnsupportedError
from geartrain.instruments._answers import estimate, not_applicable
from geartrain.instruments._base import instrument
from geartrain.objective import Objective
from geartrain.records import Cost, Measurement

_EXAMPLES = 256
_KEEP_BYTES = 2**28


def _price(objective: Objective, *, examples: int = _EXAMPLES, **options: Any) -> Cost:
    count = _affordable(objective, examples)
    width = torch.finfo(objective.dtype).bits // 8
    peak = count * objective.num_params * width + 3 * 8 * count**2
    return Cost(gradients=count / objective.num_examples, peak_bytes=peak)


@instrument(needs="objective", unit="1", price=_price)
def gradient_confusion(
    objective: Objective,
    *,
    examples: int = _EXAMPLES,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the mean cosine between the gradients of two different examples.

    With unit vectors u_i = g_i/|g_i| of n examples: Σ_{i≠j} u_i·u_j / (n(n-1)), unbiased over pairs (an example
    is never compared with itself); the standard error is the jackknife's over examples, because pairs that share an
    example are not independent.

    **Cost** per-example gradients of ``examples`` examples, and their n x n inner products.

    **Assumes** that the loss is a mean over independent examples.

    **Misleads** in its minimum, which falls with every further pair looked at, and across widths: in many dimensions
    gradients that have nothing in common are nearly orthogonal, so a mean near 0 is neither agreement nor conflict.

    Args:
        objective: What to measure.
        examples: At most so many, drawn at random (fewer where their gradients would not fit in 256 MB).
        generator: Draws them; seeded by the objective if omitted.
        budget: Not used: one pass is the least that can be spent.

    Returns:
        The mean cosine, a pure number from -1/(n-1) to 1, with its standard error. ``details``: ``minimum`` (of the
        cosines seen), ``share_negative`` and ``share_negative_error``, ``confusion`` (η = -min g_i·g_j, at least 0,
        unit ℓ²/θ²), ``std`` (of the cosines over pairs), ``quantiles`` (5, 25, 50, 75, 95 % of the cosines),
        ``within_class`` and ``between_classes`` (mean cosines, where targets are classes; else NaN), ``examples``,
        ``pairs``, ``zero`` (examples without any gradient, left out).

    Raises:
        InputError: Fewer than two examples were asked for.
        NonFiniteError: A gradient is not finite.

    References:
        Sankararaman et al. (2020), arXiv:1904.06963, definition 2.1; Fort et al. (2019), arXiv:1901.09491.

    Example:
        Gradients (1, 0), (1, 0), (0, 1): one pair of three agrees, the others are orthogonal.

        >>> import torch
        >>> model = torch.nn.Linear(2, 1, bias=False).double()
        >>> x, y = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]).double(), torch.ones(3, 1).double()
        >>> round(float(gradient_confusion(Objective(model, lambda f, t: (f * t).mean(), (x, y)))), 12)
        0.333333333333
    """
    name = "gradient_confusion"
    if examples < 2:
        raise InputError(f"{name}: examples is {examples}; at least 2 are needed to compare them.")
    chosen = _draw(objective, _affordable(objective, examples), generator)
    try:
        rows = chosen.per_example_gradients()
    except UnsupportedError as error:
        return not_applicable(name, str(error))
    norms = rows.norm(dim=1).double()
    keep = norms > 0
    if int(keep.sum()) < 2:
        return not_applicable(name, f"Only {int(keep.sum())} of {len(rows)} examples has a gradient.")
    inner = (rows[keep] @ rows[keep].T).double().cpu().numpy()
    lengths = norms[keep].cpu().numpy()
    cosines = np.clip(inner / np.outer(lengths, lengths), -1.0, 1.0)
    return _answer(cosines, inner, _labels(chosen, keep), int((~keep).sum()))


def _answer(cosines: np.ndarray, inner: np.ndarray, labels: np.ndarray | None, zero: int) -> Measurement:
    value, error = (float(x) for x in pair_mean(cosines))
    negative, negative_error = (float(x) for x in pair_mean((cosines < 0).astype(float)))
    n = len(cosines)
    upper = np.triu_indices(n, 1)
    pairs = cosines[upper]
    alike = labels[upper[0]] == labels[upper[1]] if labels is not None else np.zeros(len(pairs), bool)
    known = labels is not None
    details = {
        "minimum": float(pairs.min()),
        "share_negative": negative,
        "share_negative_error": negative_error,
        "confusion": max(0.0, -float(inner[upper].min())),
        "std": float(pairs.std()),
        "quantiles": np.quantile(pairs, [0.05, 0.25, 0.5, 0.75, 0.95]),
        "within_class": float(pairs[alike].mean()) if known and alike.any() else math.nan,
        "between_classes": float(pairs[~alike].mean()) if known and not alike.all() else math.nan,
        "examples": n,
        "pairs": len(pairs),
        "zero": zero,
    }
    sentence = f"{len(pairs)} pairs of {n} examples; {negative:.1%} disagree, the worst at {pairs.min():.3g}."
    return estimate("gradient_confusion", value, error, sentence, details=details)


def pair_mean(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over pairs i ≠ j of a symmetric table, and its jackknife standard error over i.

    Args:
        table: Shape (..., n, n); the diagonal is ignored. Further axes are separate problems.

    Returns:
        Mean and error, shape (...); the error is NaN below three.

    >>> pair_mean(np.array([[9.0, 1.0], [1.0, 9.0]]))[0].item()
    1.0
    """
    n = table.shape[-1]
    each = table.sum(-1) - np.diagonal(table, axis1=-2, axis2=-1)
    total = each.sum(-1)
    mean = total / (n * (n - 1))
    if n < 3:
        return mean, np.full(np.shape(mean), math.nan)
    left_out = (total[..., None] - 2 * each) / ((n - 1) * (n - 2))
    centred = left_out - left_out.mean(-1, keepdims=True)
    return mean, np.sqrt((n - 1) / n * (centred**2).sum(-1))


def _affordable(objective: Objective, examples: int) -> int:
    width = torch.finfo(objective.dtype).bits // 8
    return max(2, min(examples, objective.num_examples, _KEEP_BYTES // (width * objective.num_params)))


def _draw(objective: Objective, count: int, generator: torch.Generator | None) -> Objective:
    """The objective on ``count`` of its examples."""
    if count >= objective.num_examples:
        return objective
    source = generator or torch.Generator().manual_seed(objective.seed)
    order = torch.randperm(objective.num_examples, generator=source)[:count].sort().values
    parts, start = [], 0
    for batch in objective.batches:
        size = _batches.size_of(batch)
        mine = order[(order >= start) & (order < start + size)] - start
        if len(mine):
            parts.append(_batches.take(batch, mine.to(objective.device)))
        start += size
    return objective.on(parts)


def _labels(objective: Objective, keep: Tensor) -> np.ndarray | None:
    from geartrain.instruments._examples import class_labels, examples_of

    found = examples_of(objective, limit=objective.num_examples)
    labels = None if found is None else class_labels(found.targets)
    return labels[keep.cpu().numpy()] if labels is not None and len(labels) == len(keep) else None

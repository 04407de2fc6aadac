"""Function distance: how far apart two networks are as functions, whatever their parameters.

Distances in weight space mean nothing across symmetries and scales; this one compares what is said. It sees
differences in confidence that `prediction_disagreement` does not, and is zero only for equal outputs.

References:
    Lin (1991), for the Jensen-Shannon divergence; Benjamin, Rolnick, Kording (2019), arXiv:1805.08289.

Ledger: 1.27, 0.20
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geartrain.budget import Budget
from geartrain.errors import InputError
from geartrain.instruments._answers import estimate, exact, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments._pair import other_objective
from geartrain.instruments.function._errors import influence_error, mean_of
from geartrain.instruments.function._said import Said, broken, hear, is_broken
from geartrain.instruments.function._view import began
from geartrain.objective import Objective
from geartrain.records import Cost, Measurement

NAME = "function_distance"
KINDS = ("auto", "js", "kl", "l2")


def _price(objective: Any, **options: Any) -> Cost:
    return Cost(forwards=2)


@instrument(needs="pair", unit="1", price=_price)
def function_distance(
    objective: Objective,
    other: Any,
    *,
    kind: str = "auto",
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the distance of two networks as functions: divergence of their distributions, or relative L2 of outputs.

    ``"js"``: mean over answers of ½KL(p‖m) + ½KL(q‖m), m = (p + q)/2, in nats (0 to ln 2; its root is a metric).
    ``"kl"``: mean KL(p‖q), p of the first network. ``"l2"``: ‖f - g‖ / √(½‖f‖² + ½‖g‖²), 0 to 2; √2 = orthogonal.

    **Cost**: one forward pass of each. The data are those of the first objective, in evaluation mode.

    **Assumes** for ``"js"`` and ``"kl"`` that the scores are logits.

    **Misleads** off the data: it says nothing about inputs that are not like these. ``"l2"`` of raw logits counts a
    constant added to all logits, which changes no probability; ``"kl"`` is dominated by the answers that the second
    network rules out.

    Args:
        objective: The first network, and the data.
        other: The second one: an objective, a model, or a vector of parameters, shape (params,).
        kind: ``"js"``, ``"kl"``, ``"l2"``, or ``"auto"``: ``"js"`` for probabilities, else ``"l2"``.
        generator: Not used: nothing is drawn.
        budget: Time to begin in; two forward passes are the least that can be spent.

    Returns:
        The distance (a pure number; nats for divergences), with its standard error over examples. Details: ``kind``,
        and for distributions ``js``, ``kl``, ``kl_reverse``, ``total_variation``, each with ``..._error``; for outputs
        ``rms_difference`` (in their own unit) and ``relative_to_other`` (‖f - g‖/‖g‖).

    Raises:
        InputError: ``kind`` or ``other`` is none of these.

    Example:
        One network says 3, the other 4, so ‖f - g‖ = 1 and the mean square norm is 12.5:

        >>> three, four = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
        >>> three.weight.data.fill_(3.0), four.weight.data.fill_(4.0)
        (tensor([[3.]]), tensor([[4.]]))
        >>> data = torch.ones(5, 1), torch.zeros(5, 1)
        >>> round(function_distance(Objective(three, torch.nn.functional.mse_loss, data), four).value, 6)
        0.282843
    """
    if kind not in KINDS:
        raise InputError(f"kind is {kind!r}; allowed: {', '.join(map(repr, KINDS))}. 'auto' picks what fits.")
    view = began(NAME, objective, budget)
    if isinstance(view, Measurement):
        return view
    first, second = hear(view.objective), hear(other_objective(view.objective, other, NAME))
    if first is None or second is None or first.scores.shape != second.scores.shape:
        return not_applicable(NAME, "The outputs of the two networks cannot be compared entry by entry.")
    if is_broken(first) or is_broken(second):
        return broken(NAME)
    probable = first.probable and second.probable
    if kind in ("js", "kl") and not probable:
        return not_applicable(NAME, "The outputs stand for no probabilities; use kind='l2'.")
    if kind == "l2" or not probable:
        return of_outputs(first, second)
    return of_distributions(first, second, "js" if kind == "auto" else kind)


def divergences(first: Tensor, second: Tensor) -> dict[str, np.ndarray]:
    """JS, KL both ways and total variation of the softmax of each row of logits, shape (rows,)."""
    p, q = first.log_softmax(1), second.log_softmax(1)
    middle = torch.logaddexp(p, q) - math.log(2)
    return {
        "js": (0.5 * _kl(p, middle) + 0.5 * _kl(q, middle)).clamp_min(0).numpy(),
        "kl": _kl(p, q).clamp_min(0).numpy(),
        "kl_reverse": _kl(q, p).clamp_min(0).numpy(),
        "total_variation": (0.5 * (p.exp() - q.exp()).abs().sum(1)).numpy(),
    }


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """KL of rows of log-probabilities; what p rules out adds nothing."""
    return torch.where(p > -math.inf, p.exp() * (p - q), torch.zeros_like(p)).sum(1)


def of_distributions(first: Said, second: Said, kind: str) -> Measurement:
    """The answer from what both say, as distributions."""
    details: dict[str, Any] = {"kind": kind, "rows": first.rows}
    for name, rows in divergences(first.scores, second.scores).items():
        details[name], details[f"{name}_error"] = mean_of(rows, first.groups)
    sentence = (
        f"Mean {'Jensen-Shannon' if kind == 'js' else 'Kullback-Leibler'} divergence in nats over {first.words}; "
        f"total variation {details['total_variation']:.3g}."
    )
    return estimate(NAME, details[kind], details[f"{kind}_error"], sentence, details=details)


def of_outputs(first: Said, second: Said) -> Measurement:
    """The answer from what both say, as vectors."""
    gap = ((first.scores - second.scores) ** 2).sum(1).numpy()
    size = 0.5 * ((first.scores**2).sum(1) + (second.scores**2).sum(1)).numpy()
    details = {
        "kind": "l2",
        "rows": first.rows,
        "rms_difference": math.sqrt(gap.mean() / first.scores.shape[1]),
    }
    if not size.sum() > 0:
        return not_applicable(
            NAME, "Both networks say zero everywhere, so their distance has no scale.", **details
        )
    length = float((second.scores**2).sum())
    details["relative_to_other"] = math.sqrt(gap.sum() / length) if length > 0 else math.inf
    if not gap.any():
        return exact(NAME, 0.0, f"All {first.rows} outputs are equal.", details=details)
    square = float(gap.sum() / size.sum())
    value = math.sqrt(square)
    # Delta method: the square is a ratio of means.
    error = influence_error((gap - square * size) / size.mean(), first.groups) / (2 * value)
    return estimate(
        NAME, value, error, f"Relative L2 distance of the outputs over {first.words}.", details=details
    )

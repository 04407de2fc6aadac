"""Prediction disagreement: how often two networks answer differently, beside what two independent ones would.

Two networks with the same accuracy can be the same function or two different ones. Disagreement far below the
independent level says that they make the *same* mistakes (the hard examples, or a shared bias); at the independent
level their mistakes have nothing in common, and averaging them pays most.

References:
    Kuncheva and Whitaker (2003), Machine Learning 51; Jiang et al. (2021), arXiv:2106.13799.

Ledger: 1.27, 3.17, 3.27
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from geartrain.budget import Budget
from geartrain.instruments._answers import estimate, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments._pair import other_objective
from geartrain.instruments.function._errors import mean_of, share_of
from geartrain.instruments.function._said import Said, broken, hear, is_broken
from geartrain.instruments.function._view import began
from geartrain.objective import Objective
from geartrain.records import Cost, Measurement

NAME = "prediction_disagreement"
MOST_CLASSES = 4096
"""Tables of confusion grow with the square of the number of classes that occur."""


def _price(objective: Any, **options: Any) -> Cost:
    return Cost(forwards=2)


@instrument(needs="pair", unit="1", price=_price)
def prediction_disagreement(
    objective: Objective,
    other: Any,
    *,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the share of answers on which two networks name different classes (for numbers: how far apart they are).

    d = mean of [argmax f ≠ argmax g], per token for language models. With accuracies a and b it lies between |a - b|
    and min(1, 2 - a - b); independent mistakes that fall evenly on the C - 1 wrong classes give
    1 - ab - (1 - a)(1 - b)/(C - 1). For numbers d = mean (f - g)² / variance of the targets, and independent errors
    e, h give (mean e² + mean h² - 2 mean e · mean h) / variance.

    **Cost**: one forward pass of each. The data are those of the first objective, in evaluation mode.

    **Assumes** that examples are independent (places of one sequence need not be).

    **Misleads** as a distance of functions where both are right nearly always: d is then bounded by the errors that
    are left; compare with the expected values in the details, or use `function_distance`.

    Args:
        objective: The first network, and the data.
        other: The second one: an objective, a model, or a vector of parameters, shape (params,).
        generator: Not used: nothing is drawn.
        budget: Time to begin in; two forward passes are the least that can be spent.

    Returns:
        The share (a pure number), with a binomial standard error (over sequences where there are any). Details:
        ``expected_independent`` (with ``expected_independent_error``), ``expected_by_class`` (independent given the
        true class: the confusion tables multiplied), ``ratio`` (d over the independent level; 1 = nothing in common),
        ``accuracies``, ``least``, ``most``, ``both_wrong`` (share), ``same_mistake`` (share of those with the same
        wrong class), ``rows``. For numbers ``mse`` instead of the accuracies; without targets no expectation.

    Raises:
        InputError: ``other`` is none of these.

    Example:
        >>> up, down = torch.nn.Linear(1, 2, bias=False), torch.nn.Linear(1, 2, bias=False)
        >>> up.weight.data, down.weight.data = torch.tensor([[1.0], [0.0]]), torch.tensor([[0.0], [1.0]])
        >>> data = torch.tensor([[1.0], [2.0], [-1.0], [-3.0]]), torch.tensor([0, 0, 1, 1])
        >>> loss = torch.nn.functional.cross_entropy
        >>> prediction_disagreement(Objective(up, loss, data), down).value
        1.0
    """
    view = began(NAME, objective, budget)
    if isinstance(view, Measurement):
        return view
    first, second = hear(view.objective), hear(other_objective(view.objective, other, NAME))
    if first is None or second is None or first.scores.shape != second.scores.shape:
        return not_applicable(NAME, "The outputs of the two networks cannot be compared entry by entry.")
    if is_broken(first) or is_broken(second):
        return broken(NAME)
    return of_classes(first, second) if first.kind == "classes" else of_numbers(first, second)


def of_classes(first: Said, second: Said) -> Measurement:
    """The answer from what both say, where that is classes."""
    differ = (first.predicted != second.predicted).double().numpy()
    value, error = share_of(differ, first.groups)
    a, b = first.right, second.right
    expected, expected_error = _independent(a, b, first.scores.shape[1], first.groups)
    both_wrong = (1 - a) * (1 - b)
    means = float(a.mean()), float(b.mean())
    details = {
        "expected_independent": expected,
        "expected_independent_error": expected_error,
        "expected_by_class": _by_class(first, second),
        "ratio": value / expected if expected > 0 else math.nan,
        "accuracies": means,
        "least": abs(means[0] - means[1]),
        "most": min(1.0, 2 - sum(means)),
        "both_wrong": float(both_wrong.mean()),
        "same_mistake": float((both_wrong * (1 - differ)).sum() / both_wrong.sum())
        if both_wrong.any()
        else math.nan,
        "rows": first.rows,
    }
    sentence = (
        f"{value:.1%} of {first.words} differ; networks that are right in {means[0]:.1%} and {means[1]:.1%} and err "
        f"independently would differ in {expected:.1%}."
    )
    return estimate(NAME, value, error, sentence, details=details)


def _independent(a: np.ndarray, b: np.ndarray, classes: int, groups: np.ndarray) -> tuple[float, float]:
    """1 - ab - (1-a)(1-b)/(C-1), and its error by the delta method from the paired accuracies."""
    p, q, wrong = a.mean(), b.mean(), max(classes - 1, 1)
    slopes = np.array([-q + (1 - q) / wrong, -p + (1 - p) / wrong])
    _, error = mean_of(slopes[0] * a + slopes[1] * b, groups)
    return float(1 - p * q - (1 - p) * (1 - q) / wrong), error


def _by_class(first: Said, second: Said) -> float:
    """Mean over true classes y of 1 - Σ_c P(f = c | y) P(g = c | y)."""
    assert first.labels is not None
    # Only the classes that occur: a table of all pairs of a large vocabulary would not fit.
    said = [first.labels.numpy(), first.predicted.numpy(), second.predicted.numpy()]
    names, codes = np.unique(np.concatenate(said), return_inverse=True)
    labels, *named = np.split(codes, 3)
    if len(names) > MOST_CLASSES:
        return math.nan
    tables = [_confusion(labels, n, len(names)) for n in named]
    counts = np.bincount(labels, minlength=len(tables[0]))
    agree = (tables[0] * tables[1]).sum(1) / np.maximum(counts, 1) ** 2
    return float(1 - (agree * counts).sum() / counts.sum())


def _confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def of_numbers(first: Said, second: Said) -> Measurement:
    """The answer from what both say, where that is numbers."""
    targets = first.values
    reference = first.scores if targets is None else targets
    variance = float(reference.var(dim=0, correction=0).mean())
    if not variance > 0:
        return not_applicable(NAME, "Neither targets nor outputs vary, so differences have no scale.")
    gaps = ((first.scores - second.scores) ** 2).mean(1).numpy() / variance
    value, error = mean_of(gaps, first.groups)
    details: dict[str, Any] = {"scale": math.sqrt(variance), "rows": first.rows}
    sentence = (
        f"Mean squared difference over the variance of {'the outputs' if targets is None else 'the targets'}"
    )
    if targets is not None:
        wrong = [(s.scores - targets).numpy() / math.sqrt(variance) for s in (first, second)]
        mse = tuple(float((w**2).mean()) for w in wrong)
        expected = sum(mse) - 2 * float((wrong[0].mean(0) * wrong[1].mean(0)).mean())
        details |= {"mse": mse, "expected_independent": expected}
        details["ratio"] = value / expected if expected > 0 else math.nan
        sentence += f"; independent errors of this size would give {expected:.3g}"
    return estimate(NAME, value, error, f"{sentence}, over {first.rows} examples.", details=details)

"""Selective risk: whether a network knows when it does not know.

If the least confident answers may be withheld, how fast do the errors go? The risk-coverage curve says it, and its
area (AURC) sums it up. It depends on accuracy; what confidence alone adds is the excess over the best order.

References:
    Geifman, Uziel, El-Yaniv (2019), arXiv:1805.08206; Traub et al. (2024), arXiv:2407.01032, on its pitfalls.

Ledger: 3.34
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from geartrain.budget import Budget
from geartrain.errors import InputError
from geartrain.instruments._answers import estimate, forward_price, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments.function._errors import influence_error
from geartrain.instruments.function._said import Said, hear, refusal
from geartrain.instruments.function._view import began
from geartrain.objective import Objective
from geartrain.records import Measurement
from geartrain.run import Run

NAME = "selective_risk"
CONFIDENCES = ("probability", "margin", "entropy")
POINTS = 20


@instrument(needs="data", unit="1", price=forward_price)
def selective_risk(
    subject: Objective | Run,
    confidence: str = "probability",
    *,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the area under the risk-coverage curve (AURC): mean error rate of the k most confident answers, over k.

    AURC = mean over k of (errors among the k most confident) / k; answers of equal confidence count as in random
    order. With error rate r: random order gives r, the best one r + (1 - r) ln(1 - r) (in the limit of many).

    **Cost**: one forward pass.

    **Assumes** that the confidence orders answers of different examples alike.

    **Misleads** between networks of different accuracy: AURC falls with r whatever confidence is worth; compare
    ``excess``, or ``auroc``, which knows of the order only.

    Args:
        subject: An objective, or a run (validation data where it has them).
        confidence: ``"probability"`` of the top class, ``"margin"`` (best score less the second) or ``"entropy"``
            (its negative).
        generator: Not used: nothing is drawn.
        budget: Time to begin in; one forward pass is the least that can be spent.

    Returns:
        AURC, 0 to 1, with its standard error (from the influence of each example). Details: ``excess`` (over the best
        order of the same answers) and ``excess_error``, ``best``, ``random`` (= error rate), ``auroc`` (chance that a
        right answer is more confident than a wrong one) and ``auroc_error``, ``coverage`` and ``risk`` (the curve at
        20 points), ``rows``, ``split``.

    Raises:
        InputError: There is no such confidence.

    Example:
        The one wrong answer of four is the least confident:

        >>> model = torch.nn.Linear(1, 2, bias=False)
        >>> model.weight.data = torch.tensor([[1.0], [0.0]])
        >>> data = torch.tensor([[4.0], [3.0], [2.0], [1.0]]), torch.tensor([0, 0, 0, 1])
        >>> selective_risk(Objective(model, torch.nn.functional.cross_entropy, data)).value  # (0 + 0 + 0 + 1/4) / 4
        0.0625
    """
    if confidence not in CONFIDENCES:
        allowed = ", ".join(map(repr, CONFIDENCES))
        raise InputError(f"confidence is {confidence!r}; allowed: {allowed}. 'probability' is usual.")
    view = began(NAME, subject, budget)
    if isinstance(view, Measurement):
        return view
    said = hear(view.objective)
    if (refused := refusal(NAME, said, probable=confidence != "margin")) is not None:
        return refused
    assert said is not None
    if said.scores.shape[1] < 2:
        return not_applicable(NAME, "There is one class only, so no answer can be wrong.")
    return of_answers(said, confidence, view.split, view.words)


def of_answers(
    said: Said, confidence: str = "probability", split: str = "given", words: str = "these answers"
) -> Measurement:
    """The answer from what was said."""
    wrong = 1 - said.right
    found = curve(_confidence(said.scores, confidence), wrong)
    excess_error = influence_error(found.influence - found.best_influence, said.groups)
    auroc, auroc_influence = _auroc(found.order_score, wrong)
    details = {
        "excess": found.value - found.best,
        "excess_error": excess_error,
        "best": found.best,
        "random": float(wrong.mean()),
        "auroc": auroc,
        "auroc_error": influence_error(auroc_influence, said.groups),
        "coverage": found.coverage,
        "risk": found.risk,
        "rows": said.rows,
        "split": split,
    }
    sentence = (
        f"Error rate {wrong.mean():.1%}; averaged over coverages {found.value:.2%}, at best {found.best:.2%}; right "
        f"answers are the more confident ones with chance {auroc:.1%}, on {words}."
    )
    return estimate(
        NAME, found.value, influence_error(found.influence, said.groups), sentence, details=details
    )


def _confidence(scores: Tensor, kind: str) -> np.ndarray:
    if kind == "margin":
        top = scores.topk(2, dim=1).values
        return (top[:, 0] - top[:, 1]).numpy()
    logs = scores.log_softmax(1)
    if kind == "entropy":
        return torch.where(logs > -math.inf, logs.exp() * logs, torch.zeros_like(logs)).sum(1).numpy()
    # As log-odds: probabilities next to 1 are all the same number, their odds are not.
    top = logs.topk(2, dim=1).indices[:, :1]
    rest = logs.scatter(1, top, -math.inf).logsumexp(1)
    return (logs.gather(1, top)[:, 0] - rest).numpy()


@dataclass(frozen=True)
class Curve:
    """A risk-coverage curve and its area, with the influence of every row on it, shape (rows,)."""

    value: float
    best: float
    influence: np.ndarray
    best_influence: np.ndarray
    order_score: np.ndarray
    coverage: np.ndarray
    risk: np.ndarray


def curve(confidence: np.ndarray, wrong: np.ndarray) -> Curve:
    """The curve of confidences and errors (0 or 1), both of shape (rows,)."""
    n = len(wrong)
    # Equal up to rounding is equal: a tie must not be broken by the last bit.
    rounded = np.round(confidence, 9)
    order = np.argsort(-rounded, kind="stable")
    _, ties = np.unique(-rounded[order], return_inverse=True)
    errors = (np.bincount(ties, wrong[order]) / np.bincount(ties))[ties]
    risk = np.cumsum(errors) / np.arange(1, n + 1)
    weights = np.cumsum((1 / np.arange(1, n + 1))[::-1])[::-1]  # of rank i: Σ_{k ≥ i} 1/k
    rate = float(wrong.mean())
    best = float(np.mean(np.maximum(0, np.arange(1, n + 1) - (n - wrong.sum())) / np.arange(1, n + 1)))
    influence = np.empty(n)
    # A new answer adds its own weight, and dilutes the risk of every coverage that includes it.
    tail = np.cumsum((errors / np.arange(1, n + 1))[::-1])[::-1]
    influence[order] = wrong[order] * weights - tail
    slope = -math.log1p(-rate) if rate < 1 else math.log(n) + 1
    at = np.unique(np.linspace(1, n, min(POINTS, n)).astype(int)) - 1
    return Curve(float(risk.mean()), best, influence, slope * wrong, rounded, (at + 1) / n, risk[at])


def _auroc(confidence: np.ndarray, wrong: np.ndarray) -> tuple[float, np.ndarray]:
    """Chance that a right answer is more confident than a wrong one, and the influence of each row (DeLong)."""
    bad = wrong > 0.5
    good_count, bad_count = int((~bad).sum()), int(bad.sum())
    if not good_count or not bad_count:
        return math.nan, np.full(len(wrong), math.nan)
    ranks = rankdata(confidence)
    among = np.empty(len(wrong))
    among[~bad] = (ranks[~bad] - rankdata(confidence[~bad])) / bad_count
    among[bad] = 1 - (ranks[bad] - rankdata(confidence[bad])) / good_count
    value = float(among[~bad].mean())
    n = len(wrong)
    return value, np.where(bad, n / bad_count, n / good_count) * (among - value)

"""Two experts and the weight between them: a model with one parameter, differentiated by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from geartrain.objective import Objective
from geartrain.zoo import _matrices
from geartrain.zoo._base import Truth

_SOURCE = "m = s q₂ + (1 - s) q₁, s = logistic(w), differentiated twice."


class TwoExperts(nn.Module):
    """Logit of the mixture s q₂ + (1 - s) q₁ with s = logistic(w); inputs are the experts' probabilities of a one."""

    def __init__(self, log_odds: float) -> None:
        super().__init__()
        self.log_odds = nn.Parameter(torch.tensor([log_odds], dtype=torch.float64))

    def forward(self, experts: Tensor) -> Tensor:
        """Shape (examples, 1), for experts of shape (examples, 2)."""
        share = torch.sigmoid(self.log_odds)
        return torch.logit(share * experts[:, 1:] + (1 - share) * experts[:, :1])


def mixture_objective(experts: np.ndarray, labels: np.ndarray, log_odds: float) -> Objective:
    """Mean log-loss of the mixture on labels of 0 and 1; experts of shape (examples, 2)."""
    data = torch.from_numpy(experts), torch.from_numpy(labels)[:, None]
    return Objective(TwoExperts(log_odds), binary_cross_entropy_with_logits, data)


def mixture_truths(
    experts: np.ndarray, labels: np.ndarray, log_odds: float, uninformed: Callable[[Any], Any]
) -> dict[str, Truth]:
    """What derivatives of the mixture's loss decide.

    Args:
        experts: Probabilities of a one, shape (examples, 2).
        labels: 0 or 1, shape (examples,).
        log_odds: w.
        uninformed: Makes the second state, w = 0, for comparisons.

    Returns:
        Truths by quantity.
    """
    s = 1 / (1 + np.exp(-log_odds))
    m = s * experts[:, 1] + (1 - s) * experts[:, 0]
    first = s * (1 - s) * (experts[:, 1] - experts[:, 0])
    pull = (1 - labels) / (1 - m) - labels / m  # derivative of the loss in m
    rows = (pull * first)[:, None]
    hessian = np.array([[(first**2 * pull**2 + pull * first * (1 - 2 * s)).mean()]])
    slopes = first / (m * (1 - m))  # of the logit
    varied = bool(np.ptp(slopes) > 1e-9)  # else the kernel is constant, and has no alignment
    right = (m > 0.5) == (labels > 0.5)
    confidence = np.maximum(m, 1 - m)
    share = float(labels.mean())
    truths = {
        "loss_slice": Truth(
            np.array([_loss(experts, labels, log_odds + t) for t in np.linspace(-1, 1, 21)]),
            source=_SOURCE,
            options={"direction": torch.ones(1, dtype=torch.float64)},
        ),
        "weight_norm": Truth(np.array([abs(log_odds)]), source="Definition."),
        "distance_from_init": Truth(abs(log_odds), source="Definition.", other=uninformed),
        "label_balance": Truth(max(share, 1 - share), source="Definition.", strict=True),
        "output_probability": Truth(0.0, source="Outputs are scores."),
        "loss_match": Truth(1.0, source="Cross-entropy suits yes-or-no labels."),
        "output_target_match": Truth(1.0, source="One score for each label."),
        "calibration_error.accuracy": Truth(
            float(right.mean()), reading="accuracy", source=_SOURCE, strict=True
        ),
        "calibration_error.overconfidence": Truth(
            float((confidence - right).mean()), reading="overconfidence", source=_SOURCE, strict=True
        ),
        **_matrices.curvature_truths(hessian, rows.mean(0), layers=[1], source=_SOURCE),
        **_matrices.example_truths(rows, layers=[1], source=_SOURCE),
        **_matrices.kernel_truths(slopes[:, None, None], labels[:, None] if varied else None, source=_SOURCE),
    }
    if 0 < share < 1:
        entropy = -(share * np.log(share) + (1 - share) * np.log(1 - share))
        truths["constant_loss"] = Truth(float(entropy), 1e-5, source="Entropy of the labels.")
    return truths


def _loss(experts: np.ndarray, labels: np.ndarray, log_odds: float) -> float:
    s = 1 / (1 + np.exp(-log_odds))
    m = s * experts[:, 1] + (1 - s) * experts[:, 0]
    return float(-(labels * np.log(m) + (1 - labels) * np.log(1 - m)).mean())

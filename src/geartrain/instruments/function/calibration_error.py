"""Calibration error: whether answers given with 80 % confidence are right in 80 % of the cases.

The usual expected calibration error (ECE) is an average of absolute gaps, so that noise alone makes it positive: a
perfectly calibrated network on 500 examples scores 0.04 to 0.06. The value here is corrected for that and is 0 on
average where the truth is 0; the usual number stands beside it in the details.

References:
    Bröcker (2012), Clim. Dyn. 39, 655; Kumar, Liang, Ma (2019), arXiv:1909.10155; Roelofs et al. (2022),
    arXiv:2012.08668 (the sweep); Guo et al. (2017), arXiv:1706.04599.

Ledger: 3.30, 3.34
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from geartrain.budget import Budget
from geartrain.errors import InputError
from geartrain.instruments._answers import estimate, forward_price, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments.function._errors import group_sums, mean_of
from geartrain.instruments.function._said import Said, hear, refusal
from geartrain.instruments.function._view import began
from geartrain.objective import Objective
from geartrain.records import Measurement
from geartrain.run import Run

NAME = "calibration_error"
FEWEST = 10
"""Examples per bin at least: with fewer the correction is itself mostly noise."""


@instrument(needs="data", unit="1", price=forward_price)
def calibration_error(
    subject: Objective | Run,
    bins: int = 15,
    *,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the root-mean-square calibration error of the top class, corrected for the noise of finite bins.

    With c_i the confidence, r_i = [right] - c_i, and bins of equal mass, E² = Σ_b (n_b/n) · mean of r_i r_j over pairs
    i ≠ j in bin b: unbiased for the squared gaps of the bins, so it is as often negative as positive where there are
    none. The value is sign(E²)·√|E²|, in units of probability.

    **Cost**: one forward pass.

    **Assumes** scores that are logits (the loss is a cross-entropy), and independent examples; pairs within one
    sequence are left out.

    **Misleads** on training data (an overfitted network looks calibrated or even underconfident there); and a
    constant that ignores the input is perfectly calibrated: read it beside the accuracy or `selective_risk`. Gaps
    that cancel within a bin are not seen.

    Args:
        subject: An objective, or a run (validation data where it has them).
        bins: Bins of equal mass; fewer where they would hold less than 10 examples.
        generator: Not used: nothing is drawn.
        budget: Time to begin in; one forward pass is the least that can be spent.

    Returns:
        The signed root-mean-square gap (a pure number, 0 to 1 apart from noise); the standard error is a quarter of
        the width of the 95 % interval, which it turns into near 0. Details: ``squared`` and ``squared_error`` (E²),
        ``ece_plugin`` (the usual one, biased upward), ``ece_debiased`` (Kumar et al.'s correction of it),
        ``ece_sweep`` (as many bins as keep the accuracies monotone), ``overconfidence`` (mean confidence - accuracy)
        and ``overconfidence_error``, ``accuracy``, ``confidence``, ``reliability`` (per bin ``confidence``,
        ``accuracy``, ``accuracy_error``, ``count``), ``rows``, ``split``.

    Raises:
        InputError: Fewer than 1 bin.

    Example:
        Twenty examples, always 88 % sure, always wrong:

        >>> model = torch.nn.Linear(1, 2, bias=False)
        >>> model.weight.data = torch.tensor([[2.0], [0.0]])
        >>> data = torch.ones(20, 1), torch.ones(20, dtype=torch.long)
        >>> round(calibration_error(Objective(model, torch.nn.functional.cross_entropy, data)).value, 4)
        0.8808
    """
    if bins < 1:
        raise InputError(f"bins is {bins}; allowed: 1 or more. 15 is usual.")
    view = began(NAME, subject, budget)
    if isinstance(view, Measurement):
        return view
    said = hear(view.objective)
    if (refused := refusal(NAME, said, probable=True)) is not None:
        return refused
    assert said is not None
    if said.rows < 4:
        return not_applicable(
            NAME, f"{said.rows} answers are too few for a calibration error; give 4 or more."
        )
    return of_answers(said, bins, view.split, view.words)


def of_answers(said: Said, bins: int = 15, split: str = "given", words: str = "these answers") -> Measurement:
    """The answer from what was said."""
    confidence = said.scores.softmax(1).max(1).values.numpy()
    found = of_confidences(confidence, said.right, said.groups, bins)
    over, over_error = mean_of(confidence - said.right, said.groups)
    details = {
        "squared": found.squared,
        "squared_error": found.squared_error,
        **usual_errors(confidence, said.right, found.codes),
        "overconfidence": over,
        "overconfidence_error": over_error,
        "accuracy": float(said.right.mean()),
        "confidence": float(confidence.mean()),
        "reliability": _reliability(confidence, said.right, found.codes),
        "rows": said.rows,
        "split": split,
    }
    word = "over" if over > 0 else "under"
    sentence = (
        f"Confidence {confidence.mean():.1%}, accuracy {said.right.mean():.1%} ({word}confident on average) on "
        f"{words}, in {found.codes.max() + 1} bins; the uncorrected ECE is {details['ece_plugin']:.3f}."
    )
    return estimate(NAME, found.value, found.error, sentence, details=details)


@dataclass(frozen=True)
class Gaps:
    """The corrected calibration error: signed root, its error, the square and its error, and the bin of each row."""

    value: float
    error: float
    squared: float
    squared_error: float
    codes: np.ndarray


def of_confidences(confidence: np.ndarray, right: np.ndarray, groups: np.ndarray, bins: int) -> Gaps:
    """The corrected calibration error of rows, all arguments of shape (rows,).

    With R_gb the sum of the gaps of group g in bin b and v_gb = R_gb √(w_b/N_b), N_b the number of ordered pairs of
    rows of different groups, E² = |Σ_g v_g|² - Σ_g |v_g|². Its variance is that of a U-statistic: 4 times the spread
    of the projections h_g = v_g·Σ_{h≠g} v_h, less the part that pairs count twice.
    """
    codes = equal_mass(confidence, min(bins, max(len(confidence) // FEWEST, 1)))
    count = int(codes.max()) + 1
    member = (codes[:, None] == np.arange(count)).astype(float)
    sizes = group_sums(member, groups)
    pairs = member.sum(0) ** 2 - (sizes**2).sum(0)
    weight = np.where(pairs > 0, member.mean(0) / np.maximum(pairs, 1.0), 0.0)
    vectors = group_sums(member * (right - confidence)[:, None], groups) * np.sqrt(weight)
    own = (vectors**2).sum(1)
    total = vectors.sum(0)
    squared = float(total @ total - own.sum())
    projections = vectors @ total - own
    pairwise = max(float(((vectors.T @ vectors) ** 2).sum() - (own**2).sum()), 0.0)
    spread = float(((projections - projections.mean()) ** 2).sum())
    tau = math.sqrt(max(4 * spread - 2 * pairwise, 2 * pairwise, 1e-300))
    error = (_root(squared + 2 * tau) - _root(squared - 2 * tau)) / 4
    return Gaps(_root(squared), error, squared, tau, codes)


def _root(square: float) -> float:
    return math.copysign(math.sqrt(abs(square)), square)


def equal_mass(confidence: np.ndarray, bins: int) -> np.ndarray:
    """Bin of each row, shape (rows,): bins of equal mass; rows of equal confidence share one."""
    edges = np.unique(np.sort(confidence)[(np.arange(1, bins) * len(confidence)) // bins])
    codes = np.searchsorted(edges, confidence, side="right")
    return np.unique(codes, return_inverse=True)[1]


def usual_errors(confidence: np.ndarray, right: np.ndarray, codes: np.ndarray) -> dict[str, float]:
    """The plug-in ECE, Kumar et al.'s correction of it (their §4.3, in closed form), and the sweep."""
    shares, gaps, spread = _gaps(confidence, right, codes)
    plugin = float(shares @ np.abs(gaps))
    # Mean of |N(gap, spread²)|: what the plug-in would be if the gaps seen were the true ones.
    ratio = gaps / np.where(spread > 0, spread, 1.0)
    folded = np.where(
        spread > 0,
        spread * math.sqrt(2 / math.pi) * np.exp(-0.5 * ratio**2)
        + gaps * np.array([math.erf(r / math.sqrt(2)) for r in ratio]),
        np.abs(gaps),
    )
    return {
        "ece_plugin": plugin,
        "ece_debiased": 2 * plugin - float(shares @ folded),
        "ece_sweep": _sweep(confidence, right),
    }


def _gaps(
    confidence: np.ndarray, right: np.ndarray, codes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per bin: share of the rows, accuracy - confidence, and the standard error of that."""
    counts = np.bincount(codes)
    residual = right - confidence
    mean = np.bincount(codes, residual) / counts
    variance = np.bincount(codes, (residual - mean[codes]) ** 2) / np.maximum(counts - 1, 1)
    return counts / len(codes), mean, np.sqrt(variance / counts)


def _sweep(confidence: np.ndarray, right: np.ndarray) -> float:
    """ECE with the largest number of equal-mass bins whose accuracies still rise with confidence."""
    best = np.zeros(len(right), dtype=int)
    for bins in range(2, min(len(np.unique(confidence)), 100) + 1):
        codes = equal_mass(confidence, bins)
        accuracy = np.bincount(codes, right) / np.bincount(codes)
        if np.any(np.diff(accuracy) < 0):
            break
        best = codes
    shares, gaps, _ = _gaps(confidence, right, best)
    return float(shares @ np.abs(gaps))


def _reliability(confidence: np.ndarray, right: np.ndarray, codes: np.ndarray) -> dict[str, Any]:
    counts = np.bincount(codes)
    hits = np.bincount(codes, right)
    smoothed = (hits + 1) / (counts + 2)
    return {
        "confidence": np.bincount(codes, confidence) / counts,
        "accuracy": hits / counts,
        "accuracy_error": np.sqrt(smoothed * (1 - smoothed) / counts),
        "count": counts,
    }

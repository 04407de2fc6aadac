"""Input conditioning: how much longer gradient descent takes because of how the inputs are scaled and correlated.

For a linear model with a bias, gradient descent learns the direction v of input space at a speed given by the
eigenvalue λ of E[x̃x̃ᵀ] (x̃: the inputs and a constant 1), while the step is limited by the largest one. Small
eigenvalues matter only if the targets depend on those directions: so the condition number is taken down to the
direction at which nine tenths of what a linear model can explain are explained. Nonlinear models have other
curvatures further up; adaptive and preconditioned optimizers feel less of it; targets that no linear function
predicts leave the number undetermined (then the spectrum alone is used, and said so).

References:
    LeCun, Kanter, Solla (1991), "Eigenvalues of covariance matrices: application to neural-network learning".

Ledger: 0.1, 0.2
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from geartrain.budget import Budget
from geartrain.instruments._answers import data_price, estimate, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments._examples import (
    channels,
    convolves,
    examples_of,
    feature_spreads,
    features,
    target_columns,
)
from geartrain.objective import Objective
from geartrain.records import Measurement
from geartrain.run import Run

EXPLAINED = 0.9
"""Share of the linearly explainable part of the targets down to which eigenvalues count."""

MOST_FEATURES = 8192


@instrument(needs="data", unit="1", price=data_price)
def input_conditioning(
    subject: Objective | Run,
    *,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure λ_max / λ_k of the inputs' second-moment matrix, k where 90 % of the linear signal is covered.

    Along eigenvector v_i of E[x̃x̃ᵀ] a linear least-squares model explains (v_i·E[x̃y])² / λ_i of the targets'
    variance; these shares (less what noise alone would explain; classes as indicator columns) are summed from the
    largest eigenvalue down until nine tenths of their total are reached. Gradient descent with the largest stable
    step needs about that many steps to get there.

    **Cost** six singular-value decompositions of the inputs, n·d·min(n, d); the model is not run.

    **Assumes** that the inputs are numbers; classes count as indicator columns.

    **Misleads** beyond the first layer: nonlinear models have other curvatures further up, adaptive optimizers
    feel less of it, and targets that no linear function predicts leave the direction undetermined (then the
    spectrum alone is used, and said so).

    Args:
        subject: An objective or a run.
        generator: Not used: nothing is drawn.
        budget: Not used.

    Returns:
        The condition number, 1 or more. Details: ``standardised_condition`` (after centring every feature and
        dividing it by its standard deviation), ``gain_from_standardising`` (raw / standardised),
        ``raw_condition`` (λ_max over the smallest eigenvalue above 1e-7 of it), ``linear_share`` (of the targets'
        variance that a linear model explains, less noise), ``label_aware`` (False where the targets gave no hold
        and eigenvalues down to 99 % of the standardised variance were used). Not applicable to tokens.

    Example:
        The target is the second feature, a hundred times smaller:

        >>> import torch
        >>> x = torch.randn(500, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 0.01])
        >>> objective = Objective(torch.nn.Linear(2, 1), torch.nn.functional.mse_loss, (x, 100 * x[:, 1:]))
        >>> result = input_conditioning(objective)
        >>> 5e3 < result.value < 2e4, result.details["standardised_condition"] < 1.5
        (True, True)
    """
    found = examples_of(subject)
    table = None if found is None else features(found.inputs)
    if found is None or table is None or len(table) < 10:
        return not_applicable(
            "input_conditioning", "The inputs are tokens, or too few: they have no second moments."
        )
    table = table[:, :: -(-table.shape[1] // MOST_FEATURES)]
    targets = target_columns(found.targets)
    spread = _spread_columns(subject, found.inputs, table)
    kept = spread[1] > 0
    if not kept.any():
        return not_applicable("input_conditioning", "Every input feature is constant.")
    equal = (table[:, kept] - spread[0][kept]) / spread[1][kept]
    raw, standardised = _spectrum(table, targets), _spectrum(equal, targets)
    details = {
        "standardised_condition": standardised.condition,
        "gain_from_standardising": raw.condition / standardised.condition,
        "raw_condition": raw.largest / raw.smallest,
        "linear_share": raw.linear_share,
        "label_aware": raw.label_aware,
    }
    how = "that carry the linear signal" if raw.label_aware else "that hold 99 % of the variance"
    sentence = f"Largest eigenvalue over the smallest of those {how}, on {found.size} examples."
    error = raw.condition * _log_error(table, targets)
    return estimate("input_conditioning", raw.condition, error, sentence, details=details)


@dataclass(frozen=True)
class _Spectrum:
    largest: float
    smallest: float
    condition: float
    linear_share: float
    label_aware: bool


def _spread_columns(
    subject: Objective | Run, inputs: object, table: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and spread that standardising would use for each column; one per channel where the model convolves."""
    by_channel = channels(inputs, subject.model) if convolves(subject.model) else None
    if by_channel is None or table.shape[1] % by_channel.shape[1] or table.shape[1] == by_channel.shape[1]:
        spread = np.maximum(table.std(0), 0.2 * feature_spreads(table))  # rare pixels must not be blown up
        return table.mean(0), spread
    places = table.shape[1] // by_channel.shape[1]
    return np.repeat(by_channel.mean(0), places), np.repeat(by_channel.std(0), places)


def _spectrum(table: np.ndarray, targets: np.ndarray | None) -> _Spectrum:
    augmented = np.concatenate([table, np.ones((len(table), 1))], axis=1)
    left, singular, _ = np.linalg.svd(augmented / math.sqrt(len(table)), full_matrices=False)
    values = singular**2
    solid = values > 1e-7 * values[0]
    values, left = values[solid], left[:, solid]
    shares, total = _explained(left, targets)
    if total > 0:
        last = int(np.searchsorted(np.cumsum(shares) / total, EXPLAINED))
    else:
        last = int(np.searchsorted(np.cumsum(values[1:]) / max(values[1:].sum(), 1e-300), 0.99)) + 1
    last = min(last, len(values) - 1)
    return _Spectrum(float(values[0]), float(values[-1]), float(values[0] / values[last]), total, total > 0)


def _explained(left: np.ndarray, targets: np.ndarray | None) -> tuple[np.ndarray, float]:
    """Share of the targets' variance explained along each eigenvector, noise taken off; and their sum."""
    if targets is None or not targets.std(0).any():
        return np.zeros(left.shape[1]), 0.0
    centred = targets - targets.mean(0)
    raw = (left.T @ centred) ** 2 / (centred**2).sum()
    rank = left.shape[1]
    rest = max(1 - float(raw.sum()), 0.0) / max(len(left) - rank, 1) if rank < len(left) else 1 / len(left)
    # A direction that explains nothing still picks up about `rest` by chance (chi-squared, one part per column);
    # only what is five standard deviations above that counts.
    bar = rest * (1 + 5 * math.sqrt(2 / max(targets.shape[1] - 1, 1)))
    shares = np.where(raw.sum(1) > bar, raw.sum(1) - rest, 0.0)
    return shares, float(shares.sum())


def _log_error(table: np.ndarray, targets: np.ndarray | None, parts: int = 5) -> float:
    """Standard error of the log of the condition number, by the jackknife over fifths of the examples."""
    where = np.arange(len(table)) % parts
    logs = []
    for part in range(parts):
        rows = where != part
        logs.append(math.log(_spectrum(table[rows], None if targets is None else targets[rows]).condition))
    return float(np.sqrt((parts - 1) / parts * ((np.array(logs) - np.mean(logs)) ** 2).sum()))

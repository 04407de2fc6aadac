"""Feature leak: whether a single input feature gives the target away.

An honest feature can be excellent as well (a tumour's size); what betrays a leak is one feature that is nearly
perfect and far ahead of the next one. A leak spread over several features (a one-hot code of the label) shows in
``one_class_power``. Copies of training examples in the validation data are counted too.

References:
    Kaufman, Rosset, Perlich, Stitelman (2012), "Leakage in data mining"; Kapoor and Narayanan (2023).

Ledger: 0.13
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from geartrain._torch import batches as _batches
from geartrain.budget import Budget
from geartrain.instruments._answers import data_price, estimate, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments._examples import class_labels, examples_of, features, split_batch, target_values
from geartrain.records import Measurement
from geartrain.run import Run

BINS = 32


@instrument(needs="run", unit="1", price=data_price)
def feature_leak(
    run: Run,
    *,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure how well the best single input feature predicts the target, on examples not used to fit.

    Every feature is cut into up to 32 bins of equal numbers; each bin predicts the class most over-represented in it
    (classes) or its mean (numbers); fitted on one half of the training probe, scored on the other, both ways.
    Classes: (balanced accuracy - 1/C) / (1 - 1/C); numbers: R², the best output counts.

    **Cost** features x examples; the model is not run.

    **Assumes** that every example is one row of numbers and one target.

    **Misleads** where one feature is honestly excellent (a tumour's size); what betrays a leak is one that is
    nearly perfect and far ahead of the next. With many features and few examples the best of them looks good by
    chance, which the split into halves lessens.

    Args:
        run: A run.
        generator: Draws the halves; seeded by the run if omitted.
        budget: Not used.

    Returns:
        The power of the best feature, 0 to 1. Details: ``feature`` (its index after flattening), ``runner_up``
        (power of the next one), ``lead`` (the gap), ``one_class_power`` (mean over classes of the best
        single-feature Youden index for that class against the rest; NaN for numbers), ``duplicate_share`` (of
        validation inputs that occur verbatim among the training inputs; NaN without validation data). Tokens, and
        targets that are the inputs (autoencoders): not applicable, but ``duplicate_share`` is given.

    Example:
        The last of three features is the label:

        >>> g = torch.Generator().manual_seed(0)
        >>> y = torch.randint(3, (300,), generator=g)
        >>> x = torch.cat([torch.randn(300, 2, generator=g), y[:, None]], dim=1)
        >>> model = torch.nn.Linear(3, 3)
        >>> run = Run(model, torch.nn.functional.cross_entropy, torch.optim.SGD(model.parameters(), lr=0.1), (x, y))
        >>> leak = feature_leak(run)
        >>> leak.value, leak.details["feature"]
        (1.0, 2)
    """
    name = "feature_leak"
    found = examples_of(run)
    copies = _duplicate_share(run)
    table = None if found is None else features(found.inputs)
    if found is None or table is None:
        return not_applicable(
            name, "The inputs are tokens: single features mean nothing.", duplicate_share=copies
        )
    labels, values = class_labels(found.targets), target_values(found.targets)
    halves = _halves(len(table), generator, run.seed)
    if values is not None and _is_reconstruction(table, values):
        return not_applicable(
            name,
            "The targets are the inputs themselves, or nearly: that is the task.",
            duplicate_share=copies,
        )
    if (
        labels is not None
        and np.unique(labels, return_counts=True)[1].min() >= 1
        and len(np.unique(labels)) > 1
    ):
        power = _class_power(table, labels, halves)
    elif values is not None and values.std() > 0:
        power = _number_power(table, values, halves)
    else:
        return not_applicable(
            name, "The targets are neither classes nor numbers that vary.", duplicate_share=copies
        )
    ranked = np.argsort(-power.each, kind="stable")
    best, second = float(power.each[ranked[0]]), float(power.each[ranked[1]]) if len(ranked) > 1 else 0.0
    details = {
        "feature": int(ranked[0]),
        "runner_up": second,
        "lead": best - second,
        "one_class_power": power.one_class,
        "duplicate_share": copies,
    }
    error = math.sqrt(max(best * (1 - best), 1 / len(table)) / len(table))
    sentence = (
        f"Feature {ranked[0]} alone scores {best:.3f}, the next {second:.3f}, on {found.size} examples."
    )
    return estimate(name, best, error, sentence, details=details)


def _is_reconstruction(table: np.ndarray, values: np.ndarray) -> bool:
    """Whether most targets follow the input of the same place: autoencoders, denoising, the next frame."""
    if table.shape != values.shape or table.shape[1] < 2:
        return False
    first, second = table - table.mean(0), values - values.mean(0)
    scale = np.sqrt((first**2).sum(0) * (second**2).sum(0))
    varying = scale > 0
    return bool(varying.any() and np.median((first * second).sum(0)[varying] / scale[varying]) > 0.5)


@dataclass(frozen=True)
class _Power:
    each: np.ndarray
    one_class: float


def _halves(size: int, generator: torch.Generator | None, seed: int) -> np.ndarray:
    source = generator or torch.Generator().manual_seed(seed)
    return torch.randperm(size, generator=source).numpy() % 2 == 0


def _binned(column: np.ndarray, fit: np.ndarray) -> np.ndarray:
    edges = np.unique(np.quantile(column[fit], np.linspace(0, 1, BINS + 1)[1:-1]))
    return np.searchsorted(edges, column, side="left")


def _class_power(table: np.ndarray, labels: np.ndarray, halves: np.ndarray) -> _Power:
    classes, codes = np.unique(labels, return_inverse=True)
    count = len(classes)
    powers, youden = np.zeros(table.shape[1]), np.zeros((table.shape[1], count))
    for fit in (halves, ~halves):
        shares = np.maximum(np.bincount(codes[fit], minlength=count), 1)
        tests = np.maximum(np.bincount(codes[~fit], minlength=count), 1)
        for j in np.flatnonzero(table.std(0) > 0):
            bins = _binned(table[:, j], fit)
            lifted = _table(bins[fit], codes[fit], count) / shares
            held = _table(bins[~fit], codes[~fit], count, rows=len(lifted)) / tests
            present = held.sum(0) > 0
            right = held[np.arange(len(lifted)), lifted.argmax(1)].sum() / max(present.sum(), 1)
            powers[j] += 0.5 * (right - 1 / count) / (1 - 1 / count)
            youden[j] += 0.5 * _youden(lifted, held)
    return _Power(powers, float(youden.max(0).mean()))


def _table(bins: np.ndarray, codes: np.ndarray, count: int, rows: int | None = None) -> np.ndarray:
    """Numbers of examples per (bin, class); bins beyond the fitted ones count as the last."""
    rows = rows or int(bins.max()) + 1
    return np.bincount(np.minimum(bins, rows - 1) * count + codes, minlength=rows * count).reshape(
        rows, count
    )


def _youden(fitted: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Per class against the rest: true-positive less false-positive rate of the bins where the class prevails."""
    count = fitted.shape[1]
    chosen = fitted > (fitted.sum(1, keepdims=True) - fitted) / max(count - 1, 1)
    hits = (held * chosen).sum(0)
    alarms = ((held.sum(1, keepdims=True) - held) * chosen).sum(0) / max(count - 1, 1)
    return hits - alarms


def _number_power(table: np.ndarray, values: np.ndarray, halves: np.ndarray) -> _Power:
    powers = np.zeros((table.shape[1], values.shape[1]))
    for fit in (halves, ~halves):
        centre = values[fit].mean(0)
        spread = ((values[~fit] - values[~fit].mean(0)) ** 2).mean(0)
        for j in np.flatnonzero(table.std(0) > 0):
            bins = _binned(table[:, j], fit)
            sizes = np.bincount(bins[fit], minlength=bins.max() + 1)[:, None]
            sums = np.stack(
                [np.bincount(bins[fit], v[fit], minlength=bins.max() + 1) for v in values.T], axis=1
            )
            means = np.where(sizes > 0, sums / np.maximum(sizes, 1), centre)
            left = ((values[~fit] - means[bins[~fit]]) ** 2).mean(0)
            powers[j] += 0.5 * (1 - left / np.where(spread > 0, spread, np.inf))
    return _Power(np.maximum(powers.max(1), 0.0), math.nan)


def _duplicate_share(run: Run) -> float:
    """Share of validation inputs that occur, byte for byte, among the training inputs."""
    held = None if run.validation_data is None else examples_of(run, 2048, "validation")
    if held is None:
        return math.nan
    size = _batches.size_of(run.train_data) if _batches.is_whole(run.train_data) else 2048
    train = split_batch(run.probe("train", size))[0]
    known = set(_rows(train))
    found = [row in known for row in _rows(held.inputs)]
    return float(np.mean(found)) if found else math.nan


def _rows(inputs: Any) -> list[bytes]:
    parts = [t.detach().cpu() for t in tree_leaves(inputs) if isinstance(t, Tensor) and t.ndim]
    if not parts or len({len(p) for p in parts}) != 1:
        return []
    flat = [np.ascontiguousarray(p.reshape(len(p), -1).to(torch.float64).numpy()) for p in parts]
    return [b"".join(f[i].tobytes() for f in flat) for i in range(len(parts[0]))]

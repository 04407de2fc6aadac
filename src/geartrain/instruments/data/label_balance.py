"""Label balance: whether one class dominates the data.

A dominant class makes accuracy look good while rare classes are ignored. Imbalance by itself is no fault: what
matters is whether the rare classes are learnt, see `class_recall`.

References:
    Johnson and Khoshgoftaar (2019), "Survey on deep learning with class imbalance".

Ledger: 0.13
"""

from __future__ import annotations

import math

import numpy as np
import torch

from geartrain.budget import Budget
from geartrain.instruments._answers import data_price, estimate, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments._examples import class_labels, examples_of
from geartrain.objective import Objective
from geartrain.records import Measurement
from geartrain.run import Run


@instrument(needs="data", unit="1", price=data_price)
def label_balance(
    subject: Objective | Run,
    *,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the share of the most frequent class.

    **Cost** a pass over the data; the model is not run.

    **Assumes** that the targets are classes, one per example.

    **Misleads** as a fault in itself: what matters is whether the rare classes are learnt, see `class_recall`.
    It says nothing about how hard the classes are to tell apart.

    Args:
        subject: An objective or a run.
        generator: Not used: nothing is drawn.
        budget: Not used.

    Returns:
        The share, from 1 / classes (balanced) to 1. Details: ``counts`` (by class), ``ratio`` (largest over smallest
        count), ``entropy`` (normalised: 1 = balanced), ``n_classes``, ``excess`` (share times classes: 1 = balanced).
        Not applicable to numbers, several labels per example, or sequences.

    Example:
        >>> import torch
        >>> x, y = torch.zeros(4, 1), torch.tensor([0, 0, 0, 1])
        >>> label_balance(Objective(torch.nn.Linear(1, 2), torch.nn.functional.cross_entropy, (x, y))).value
        0.75
    """
    found = examples_of(subject, 4096)
    labels = None if found is None else class_labels(found.targets)
    if labels is None:
        return not_applicable("label_balance", "The targets are not one class per example.")
    classes, counts = np.unique(labels, return_counts=True)
    shares = counts / counts.sum()
    share = float(shares.max())
    entropy = float(-(shares * np.log(shares)).sum() / math.log(len(classes))) if len(classes) > 1 else 0.0
    details = {
        "counts": {int(c): int(n) for c, n in zip(classes, counts, strict=True)},
        "ratio": float(counts.max() / counts.min()),
        "entropy": entropy,
        "n_classes": len(classes),
        "excess": share * len(classes),
    }
    sentence = f"{len(classes)} classes, the largest has {share:.1%} of {len(labels)} examples."
    error = math.sqrt(share * (1 - share) / len(labels))
    return estimate("label_balance", share, error, sentence, details=details)

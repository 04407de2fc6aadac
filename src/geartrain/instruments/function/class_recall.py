"""Class recall: whether any class is never recognised, whatever the overall accuracy says.

The smallest of many estimated recalls is lower than the truth by chance; with few examples of a class, look at the
standard error. A class can be missed because it is rare, because it is hard, or because training has just begun.

References:
    Kubat and Matwin (1997), "Addressing the curse of imbalanced training sets".

Ledger: 0.13
"""

from __future__ import annotations

import math

import numpy as np
import torch

from geartrain.budget import Budget
from geartrain.errors import NonFiniteError
from geartrain.instruments._answers import estimate, forward_price, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments._examples import class_labels, examples_of
from geartrain.instruments._predictions import outputs_of, predicted_classes
from geartrain.records import Measurement
from geartrain.run import Run

FEWEST = 5
"""Classes with fewer examples are not ranked (unless all are so small)."""


@instrument(needs="run", unit="1", price=forward_price)
def class_recall(
    run: Run,
    *,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the smallest recall over the classes (share of a class's examples that get its label).

    On up to 2,048 validation examples (training examples where there are none), in evaluation mode.

    **Cost**: one forward pass.

    **Assumes** one class per example, and independent examples.

    **Misleads** with few examples of a class (the smallest of many estimated recalls is low by chance) and at the
    start of training, when hardly any class is recognised.

    Args:
        run: A run that classifies.
        generator: Not used: nothing is drawn.
        budget: Not used: one forward pass is the least that can be spent.

    Returns:
        The smallest recall, 0 to 1; standard error binomial. Details: ``recalls`` by class, ``worst_class``,
        ``balanced_accuracy`` (mean recall), ``accuracy``, ``majority_share_of_predictions`` (1 = always the same
        class), ``majority_recall`` (of the most frequent class), ``split``. Not applicable to numbers or sequences.

    Raises:
        NonFiniteError: An output is not finite.

    Example:
        A model that always says 0:

        >>> model = torch.nn.Linear(1, 2)
        >>> for p, v in zip(model.parameters(), ([[0.0], [0.0]], [1.0, 0.0])): p.data = torch.tensor(v)
        >>> data = (torch.zeros(4, 1), torch.tensor([0, 0, 0, 1]))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> run = Run(model, torch.nn.functional.cross_entropy, optimizer, data, batch_size=4)
        >>> class_recall(run).value
        0.0
    """
    split = "train" if run.validation_data is None else "validation"
    found = examples_of(run, 2048, split)
    labels = None if found is None else class_labels(found.targets)
    if found is None or labels is None:
        return not_applicable("class_recall", "The targets are not one class per example.")
    outputs = outputs_of(run, found.inputs)
    predicted = None if outputs is None else predicted_classes(outputs, labels)
    if outputs is None or predicted is None:
        return not_applicable("class_recall", "The model's outputs are not one score per class.")
    if not bool(torch.isfinite(outputs).all()):
        raise NonFiniteError("The model's outputs are NaN or infinite, so no class can be read off them.")
    return _answer(labels, predicted, split)


def _answer(labels: np.ndarray, predicted: np.ndarray, split: str) -> Measurement:
    classes, counts = np.unique(labels, return_counts=True)
    recalls = {int(c): float((predicted[labels == c] == c).mean()) for c in classes}
    sizes = dict(zip(map(int, classes), map(int, counts), strict=True))
    ranked = [c for c in recalls if sizes[c] >= FEWEST] or list(recalls)
    worst = min(ranked, key=recalls.__getitem__)
    smoothed = (recalls[worst] * sizes[worst] + 1) / (sizes[worst] + 2)  # an error bar of 0 would be a boast
    details = {
        "recalls": recalls,
        "worst_class": worst,
        "balanced_accuracy": float(np.mean(list(recalls.values()))),
        "accuracy": float((predicted == labels).mean()),
        "majority_share_of_predictions": float(
            np.unique(predicted, return_counts=True)[1].max() / len(predicted)
        ),
        "majority_recall": recalls[int(classes[counts.argmax()])],
        "split": split,
    }
    error = math.sqrt(smoothed * (1 - smoothed) / sizes[worst])
    sentence = f"Class {worst}: {recalls[worst]:.1%} of its {sizes[worst]} {split} examples are recognised."
    return estimate("class_recall", recalls[worst], error, sentence, details=details)

"""Loads one of scikit-learn's tables with named columns."""

from __future__ import annotations

import importlib
from typing import Any

from geartrain.datasets._split import Split, missing, spread, standardised, stratified, tensors


def table(loader: str, num_train: int, seed: int, standardise: bool, **options: Any) -> Split:
    """A table of scikit-learn, split and, if asked for, standardised on its training part.

    Args:
        loader: Name of the function in ``sklearn.datasets``.
        num_train: Number of training examples.
        seed: Seed of the split, which is stratified by class or by tenths of the target.
        standardise: Give every input column, and targets that are no classes, mean 0 and deviation 1.
        **options: Handed to the loader.
    """
    try:
        module = importlib.import_module("sklearn.datasets")
    except ImportError:
        raise missing("scikit-learn") from None
    bunch = getattr(module, loader)(**options)
    classes = tuple(map(str, bunch.get("target_names", ())))
    inputs, targets = bunch.data, bunch.target
    if classes:
        train, validation = stratified(targets, num_train, seed)
    else:
        train, validation = spread(targets, num_train, seed)
        targets = targets[:, None]
    x, held_x, y, held_y = inputs[train], inputs[validation], targets[train], targets[validation]
    if standardise:
        x, held_x = standardised(x, held_x)
        if not classes:
            y, held_y = standardised(y, held_y)
    features = tuple(map(str, bunch.feature_names))
    return Split(tensors(x, y), tensors(held_x, held_y), "", "", features, classes)

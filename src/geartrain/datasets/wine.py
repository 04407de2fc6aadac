"""Wines of three growers, told apart by 13 chemical measurements."""

from __future__ import annotations

import dataclasses

from geartrain.datasets._split import Split
from geartrain.datasets._tables import table


def load(num_train: int = 120, *, seed: int = 0, standardise: bool = True) -> Split:
    """The 178 wines of scikit-learn.

    Args:
        num_train: Training examples; the rest, 58 by default, is held out.
        seed: Seed of the stratified split.
        standardise: Mean 0 and deviation 1 per column, measured on the training part.

    Returns:
        Inputs ``(example, 13)`` float32; targets ``(example,)`` int64 in 0..2.

    Raises:
        InputError: scikit-learn is missing, or ``num_train`` leaves one side empty.

    >>> load().validation[0].shape
    torch.Size([58, 13])
    """
    return dataclasses.replace(
        table("load_wine", num_train, seed, standardise),
        description="Thirteen chemical measurements of an Italian wine; which of three growers made it.",
        source="scikit-learn load_wine: Wine, S. Aeberhard and M. Forina 1992, "
        "UCI Machine Learning Repository, CC BY 4.0.",
    )

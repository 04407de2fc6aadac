"""Breast tumours, benign or malignant, from 30 measurements of cell nuclei."""

from __future__ import annotations

import dataclasses

from geartrain.datasets._split import Split
from geartrain.datasets._tables import table


def load(num_train: int = 400, *, seed: int = 0, standardise: bool = True) -> Split:
    """The 569 tumours of scikit-learn; in original units the columns differ 200,000-fold in scale.

    Args:
        num_train: Training examples; the rest, 169 by default, is held out.
        seed: Seed of the stratified split.
        standardise: Mean 0 and deviation 1 per column, measured on the training part.

    Returns:
        Inputs ``(example, 30)`` float32; targets ``(example,)`` int64, 0 malignant (37 %), 1 benign.

    Raises:
        InputError: scikit-learn is missing, or ``num_train`` leaves one side empty.

    >>> load().classes
    ('malignant', 'benign')
    """
    return dataclasses.replace(
        table("load_breast_cancer", num_train, seed, standardise),
        description="Thirty measurements of the cell nuclei of a breast tumour; malignant or benign.",
        source="scikit-learn load_breast_cancer: Breast Cancer Wisconsin (Diagnostic), W. Wolberg, "
        "O. Mangasarian and W. N. Street 1993, UCI Machine Learning Repository, CC BY 4.0.",
    )

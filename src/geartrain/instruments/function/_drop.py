"""What a change of the data costs: accuracy and loss before and after, with the error of the difference."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from geartrain.instruments.function._errors import difference_of, influence_error, mean_of, share_of
from geartrain.instruments.function._said import Said


@dataclass(frozen=True)
class Drop:
    """A drop with its error: of the accuracy, or for numbers the share of the loss afterwards that is new."""

    value: float
    error: float
    words: str
    details: dict[str, Any]


def compared(before: Said, after: Said, *, paired: bool = True) -> Drop:
    """The drop from one set of answers to another.

    Args:
        before: Answers to the original data.
        after: Answers to the changed data.
        paired: Whether the rows of both are about the same examples.
    """
    losses = [_losses(s) for s in (before, after)]
    details: dict[str, Any] = {}
    for word, said, rows in zip(("before", "after"), (before, after), losses, strict=True):
        details[f"loss_{word}"], details[f"loss_{word}_error"] = mean_of(rows, said.groups)
    if before.kind != "classes":
        return _of_numbers(before, after, losses, paired, details)
    rights = before.right, after.right
    details |= {"accuracy_before": float(rights[0].mean()), "accuracy_after": float(rights[1].mean())}
    if paired:
        value, error = difference_of(*rights, before.groups)
    else:
        shares = [share_of(r, s.groups) for r, s in zip(rights, (before, after), strict=True)]
        value, error = shares[0][0] - shares[1][0], math.hypot(shares[0][1], shares[1][1])
    words = f"Accuracy {rights[0].mean():.1%} becomes {rights[1].mean():.1%}"
    return Drop(value, error, words, details)


def _losses(said: Said) -> np.ndarray:
    """Cross-entropy in nats, or the squared error, of each row."""
    if said.kind == "classes":
        return said.losses.numpy()
    assert said.values is not None
    return ((said.scores - said.values) ** 2).mean(1).numpy()


def _of_numbers(
    before: Said, after: Said, losses: list[np.ndarray], paired: bool, details: dict[str, Any]
) -> Drop:
    first, second = (float(rows.mean()) for rows in losses)
    words = f"Squared error {first:.3g} becomes {second:.3g}"
    if not second > 0:
        return Drop(0.0, 0.0, words, details)
    # Delta method for 1 - first/second.
    if paired:
        error = influence_error((losses[0] - first / second * losses[1]) / second, before.groups)
    else:
        parts = [influence_error(rows, s.groups) for rows, s in zip(losses, (before, after), strict=True)]
        error = math.hypot(parts[0] / second, parts[1] * first / second**2)
    return Drop(1 - first / second, error, words, details)

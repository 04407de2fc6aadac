"""What geartrain says when it cannot do what was asked.

Every message follows one pattern: what failed, what was got, what is allowed, what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GeartrainError(Exception):
    """Base class of every error that geartrain raises on purpose."""


class InputError(GeartrainError, ValueError):
    """The model, loss, data or setting that was handed in cannot be used as it is."""


class NonFiniteError(GeartrainError, ArithmeticError):
    """A NaN or an infinity appeared where a number was needed.

    Attributes:
        module: Name of the first module whose output was not finite, where it is known.
        step: Training step at which it appeared, counted from 0, where it is known.
    """

    def __init__(self, message: str, *, module: str | None = None, step: int | None = None) -> None:
        super().__init__(message)
        self.module = module
        self.step = step


class UnsupportedError(GeartrainError, NotImplementedError):
    """The quantity is not defined for this model, or PyTorch cannot compute it."""


class UnknownNameError(InputError, KeyError):
    """A name that no registry holds; the message suggests the nearest ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else f"Known: {', '.join(known)}."
        super().__init__(f"There is no {kind} named {name!r}. {hint}")

    def __str__(self) -> str:
        # KeyError would show the repr of the message, quotes and all.
        return str(self.args[0])

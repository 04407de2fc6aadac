"""Bad usage: what was typed cannot be meant; told apart from what could not be done."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from geartrain.errors import GeartrainError


class UsageError(GeartrainError):
    """The command line names something that does not exist."""


def nearest(name: str, known: Iterable[str]) -> str:
    """``Did you mean 'x'?`` where something is near, else everything there is."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
    if near:
        return f"Did you mean {' or '.join(map(repr, near))}?"
    return f"Known: {', '.join(known)}." if known else "There are none."


def complain(error: BaseException) -> str:
    """The message of an exception as one line."""
    return " ".join(str(error).split()) or "no message"

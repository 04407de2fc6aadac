"""Bad usage: what was typed cannot be meant; told apart from what could not be done."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from geartrain.errors import GeartrainError

_BORDERS = str.maketrans("│─╭╰╮╯", " -----")


class UsageError(GeartrainError):
    """The command line names something that does not exist."""


def nearest(name: str, known: Iterable[str]) -> str:
    """``Did you mean 'x'?`` where something is near, else everything there is."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
    if near:
        return f"Did you mean {' or '.join(map(repr, near))}?"
    return f"Known: {', '.join(known)}." if known else "There are none."


def unboxed(text: str) -> str:
    r"""What the parser complains of, as one line, from the box that it draws around it.

    >>> unboxed("╭─ Value error ─╮\n│ Error parsing --seed: invalid literal for int() with base 10: 'x' │")
    "--seed is 'x'; it must be a whole number."
    >>> unboxed(" Required \n --- \n  Missing from geartrain measure:\n      NAME\n          An instrument.")
    'geartrain measure needs NAME.'
    """
    sections: list[list[str]] = [[]]
    for line in text.translate(_BORDERS).splitlines():
        if line.strip() and not line.strip().strip("-"):
            sections.append([])
        elif line.strip() and not line.startswith("-"):
            sections[-1].append(line[2:].rstrip())
    # Where the terminal knows no box characters, a title stands over the first rule.
    lines = sections["╭" not in text and len(sections) > 1]
    said = " ".join(" ".join(lines).split()) or " ".join(text.split())
    if missing := re.match(r"Missing from ([\w ]+):", said):
        # The names stand four columns in, what they mean eight.
        names = [line.strip() for line in lines if re.match(r" {4}\S", line)]
        return f"{missing[1]} needs {' and '.join(names)}."
    if number := re.match(r"Error parsing (\S+): invalid literal for int\(\) with base 10: (.+)", said):
        return f"{number[1]} is {number[2]}; it must be a whole number."
    return said.rstrip(".") + "."


def complain(error: BaseException) -> str:
    """The message of an exception as one line."""
    return " ".join(str(error).split()) or "no message"

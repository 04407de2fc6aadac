"""Characters of a play, to predict one from those before it."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor

from geartrain.datasets._split import Split
from geartrain.errors import InputError

_VARIABLE = "GEARTRAIN_TEXT"


def load(
    length: int = 64, *, path: str | os.PathLike[str] | None = None, train_fraction: float = 0.9
) -> Split:
    """Windows of a text beside the same windows moved on by one character.

    The windows do not overlap. Training windows come from the first part of the text, validation
    windows from the rest, so that no held-out passage has been read before.

    Args:
        length: Characters per window.
        path: Another UTF-8 text file. Without it: the file that the environment variable
            ``GEARTRAIN_TEXT`` names, else *Romeo and Juliet*, which ships with geartrain.
        train_fraction: Share of the characters to train on.

    Returns:
        Inputs and targets ``(example, length)`` int64; label ``i`` stands for the character
        ``classes[i]``, and ``targets[:, t]`` is the character after ``inputs[:, t]``.

    Raises:
        InputError: The file cannot be read, or is too short for one window on either side.
    """
    text, source = _read(path)
    classes = tuple(sorted(set(text)))
    label = {character: i for i, character in enumerate(classes)}
    codes = torch.tensor([label[character] for character in text])
    cut = int(len(codes) * train_fraction)
    if length < 1 or min(cut, len(codes) - cut) < length + 1:
        raise InputError(
            f"A window takes {length + 1} characters, but the two parts of the text have {cut} and "
            f"{len(codes) - cut}. Choose a length of 1 or more that fits into both, or a longer text."
        )
    return Split(
        train=_windows(codes[:cut], length),
        validation=_windows(codes[cut:], length),
        description=f"Windows of {length} characters of English verse; the next character at every place.",
        source=source,
        classes=classes,
    )


def _windows(codes: Tensor, length: int) -> tuple[Tensor, Tensor]:
    num_windows = (len(codes) - 1) // length
    inputs = codes[: num_windows * length].reshape(num_windows, length)
    targets = codes[1 : num_windows * length + 1].reshape(num_windows, length)
    return inputs.clone(), targets.clone()


def _read(path: str | os.PathLike[str] | None) -> tuple[str, str]:
    chosen = path or os.environ.get(_VARIABLE)
    if not chosen:
        shipped = resources.files("geartrain.datasets") / "romeo_and_juliet.txt"
        return (
            shipped.read_text(encoding="utf-8"),
            "William Shakespeare, Romeo and Juliet, as in the tiny Shakespeare corpus; public domain.",
        )
    try:
        return Path(chosen).read_text(encoding="utf-8"), f"The file {chosen}."
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"The text file {str(chosen)!r} could not be read ({error}). Give the path of a UTF-8 text file, "
            f"or leave both the argument and {_VARIABLE} out to use the play that ships with geartrain."
        ) from error

"""Checkpoints: one file, replaced in one stroke, so that a kill at any moment leaves the old or the new one whole."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from geartrain.errors import InputError

FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """Where and how often the state is saved.

    Results do not depend on when it is saved. If the file exists when training begins, training goes on from it.

    Attributes:
        path: The file.
        every: Save after every so many steps; ``None``: by the clock.
        seconds: Save when so many seconds have passed since the last time (looked at every few hundred steps).
    """

    path: str | Path
    every: int | None = None
    seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.every is not None and self.every < 1:
            raise InputError(
                f"every is {self.every}; it counts steps between checkpoints: at least 1, or None."
            )

    @staticmethod
    def of(given: Checkpoint | str | Path | None) -> Checkpoint | None:
        """A `Checkpoint`, or the path of its file."""
        return given if given is None or isinstance(given, Checkpoint) else Checkpoint(given)


def save(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write the file beside its place, flush it to disk, and put it there in one stroke."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save({"format": FORMAT, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


def load(path: str | Path, device: torch.device | str | None = None) -> dict[str, Any]:
    """Read a file written by `save`; nothing in it is executed.

    Raises:
        InputError: It does not exist, or is something else.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(
            f"There is no file {path}; pass the path that was given to save(...) or checkpoint=..."
        )
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        raise InputError(f"{path} is no ensemble ({type(error).__name__}); it cannot be read.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path} is no ensemble of format {FORMAT}; it was written by something else.")
    return content


def fingerprint(*things: Any) -> str:
    """A short hash of settings and data: checkpoints only go on under what they were made with."""
    digest = hashlib.blake2b(digest_size=16)
    for leaf in tree_leaves(things):
        if isinstance(leaf, Tensor):
            digest.update(f"{tuple(leaf.shape)}{leaf.dtype}".encode())
            raw = torch.empty(
                leaf.numel(), dtype=leaf.dtype
            )  # a lone element may have a stride that no view allows
            digest.update(raw.copy_(leaf.detach().reshape(-1)).view(torch.uint8).numpy().tobytes())
        elif callable(leaf):
            digest.update(getattr(leaf, "__qualname__", type(leaf).__qualname__).encode())
        else:
            digest.update(repr(leaf).encode())
        digest.update(b"|")
    return digest.hexdigest()

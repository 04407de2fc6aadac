"""Labelled arrays and their file: an ``.npz`` whose bytes depend on the numbers and on nothing else."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from geartrain.errors import InputError

_NO_DATE = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class LabelledArray:
    """An array whose axes have names.

    Attributes:
        dims: Name of each axis.
        values: The numbers (or words); shape as many axes as there are names.
        attrs: What else is known of it, such as its unit; plain JSON types.
    """

    dims: tuple[str, ...]
    values: np.ndarray
    attrs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.dims) != self.values.ndim:
            raise InputError(
                f"An array of shape {self.values.shape} was given {len(self.dims)} names of axes: {self.dims}. "
                "Name each axis once."
            )
        if len(set(self.dims)) != len(self.dims):
            raise InputError(f"Axes are named {self.dims}; each name may occur once. Rename one of them.")
        if self.values.dtype.hasobject:
            raise InputError(
                "An array of Python objects cannot be stored. Store numbers, truth values or words; "
                "put anything else in the metrics as plain JSON."
            )

    def described(self) -> dict[str, Any]:
        """Axes, shape, type and attributes, for the header of a record."""
        return {
            "dims": list(self.dims),
            "shape": list(self.values.shape),
            "dtype": self.values.dtype.str,
            "attrs": dict(self.attrs),
        }

    def digest(self) -> str:
        """A short fingerprint of type, shape and numbers."""
        head = f"{self.values.dtype.str}{self.values.shape}".encode()
        return hashlib.sha256(head + np.ascontiguousarray(self.values).tobytes()).hexdigest()[:16]


def pack(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The ``.npz`` file of these arrays: no compression and no dates, so equal numbers give equal bytes.

    >>> pack({"x": np.arange(3)}) == pack({"x": np.arange(3)})
    True
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as file:
        for name, values in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy", _NO_DATE)
            entry.create_system = 3  # the same on every system
            entry.external_attr = 0o644 << 16
            with file.open(entry, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(values, order="C"), allow_pickle=False)
    return buffer.getvalue()


def read(path: Path, name: str) -> np.ndarray:
    """One array of an ``.npz`` file; the others are not read."""
    with np.load(path, allow_pickle=False) as file:
        return file[name]

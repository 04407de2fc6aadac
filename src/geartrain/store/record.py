"""A record: one folder with ``run.json``, ``metrics.jsonl`` and ``arrays.npz``.

``run.json`` says what the record is and describes every array (axes, shape, type, attributes); ``metrics.jsonl`` has
one JSON object a line; ``arrays.npz`` holds the arrays. Python's ``json`` and ``numpy.load`` read all of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geartrain.errors import InputError
from geartrain.records import jsonable
from geartrain.store import arrays as _arrays
from geartrain.store.arrays import LabelledArray

FORMAT = 1
HEADER, METRICS, ARRAYS = "run.json", "metrics.jsonl", "arrays.npz"
_WORDS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


@dataclass(frozen=True)
class Header:
    """What ``run.json`` says.

    Attributes:
        folder: Where the record lies.
        about: Everything that whoever wrote the record said of it.
        arrays: Axes, shape, type and attributes of each array, by name.
        coords: The same of each array that labels an axis, with the fingerprint of its values (``digest``).
    """

    folder: Path
    about: Mapping[str, Any]
    arrays: Mapping[str, Mapping[str, Any]]
    coords: Mapping[str, Mapping[str, Any]]

    def read(self, name: str) -> np.ndarray:
        """The numbers of one array or label; only these are read."""
        return _arrays.read(self.folder / ARRAYS, name)


def pack_record(
    about: Mapping[str, Any],
    arrays: Mapping[str, LabelledArray],
    coords: Mapping[str, LabelledArray] | None = None,
    metrics: Iterable[Mapping[str, Any]] = (),
) -> dict[str, bytes]:
    """The files of a record, by name. Equal contents give equal bytes.

    Args:
        about: What the record is; plain JSON types.
        arrays: The arrays, by name.
        coords: Arrays that label the axes of others, by name.
        metrics: Rows for ``metrics.jsonl``; numbers, words, and lists and dicts of them.

    Raises:
        InputError: A name is used twice, or an axis has two lengths.
    """
    coords = dict(coords or {})
    if twice := sorted(arrays.keys() & coords.keys()):
        raise InputError(f"{', '.join(twice)}: named both as an array and as a label. Rename one of them.")
    _check_lengths({**arrays, **coords})
    rows = [_line(row) for row in metrics]
    header = {
        "format": FORMAT,
        **jsonable(dict(about)),
        "arrays": {name: jsonable(a.described()) for name, a in arrays.items()},
        "coords": {name: {**jsonable(a.described()), "digest": a.digest()} for name, a in coords.items()},
        "metrics": len(rows),
    }
    values = {name: a.values for name, a in {**arrays, **coords}.items()}
    return {
        HEADER: (json.dumps(header, indent=1, ensure_ascii=False) + "\n").encode(),
        METRICS: "".join(rows).encode(),
        ARRAYS: _arrays.pack(values),
    }


def read_header(folder: Path) -> Header:
    """The header of a record.

    Raises:
        InputError: The folder holds no record, or one of a newer format.
    """
    try:
        said = json.loads((folder / HEADER).read_bytes())
    except FileNotFoundError:
        raise InputError(f"{folder} holds no {HEADER}: it is not a record of geartrain.") from None
    check_format(said, folder / HEADER)
    arrays, coords = said.pop("arrays"), said.pop("coords")
    return Header(folder, said, arrays, coords)


def read_metrics(folder: Path) -> Iterator[dict[str, Any]]:
    """The rows of ``metrics.jsonl``, one at a time; NaN and infinities are numbers again."""
    with open(folder / METRICS, encoding="utf-8") as file:
        for line in file:
            yield json.loads(line, object_hook=_numbers)


def check_format(said: Mapping[str, Any], path: Path) -> None:
    """Refuse a file of a format that this version does not know.

    Raises:
        InputError: The format is missing or newer than `FORMAT`.
    """
    found = said.get("format")
    if not isinstance(found, int) or not 1 <= found <= FORMAT:
        raise InputError(
            f"{path} has format {found!r}; this geartrain reads formats 1 to {FORMAT}. Install a newer geartrain."
        )


def _check_lengths(arrays: Mapping[str, LabelledArray]) -> None:
    lengths: dict[str, tuple[int, str]] = {}
    for name, array in arrays.items():
        for dim, size in zip(array.dims, array.values.shape, strict=True):
            known, other = lengths.setdefault(dim, (size, name))
            if known != size:
                raise InputError(
                    f"The axis {dim!r} has length {size} in {name} and {known} in {other}. "
                    "An axis has one length; give the other one its own name."
                )


def _line(row: Mapping[str, Any]) -> str:
    plain = {str(k): v.tolist() if hasattr(v, "tolist") else v for k, v in row.items()}
    return json.dumps(jsonable(plain), ensure_ascii=False) + "\n"


def _numbers(row: dict[str, Any]) -> dict[str, Any]:
    return {k: _WORDS.get(v, v) if isinstance(v, str) else v for k, v in row.items()}

"""Records as one Zarr store with the same tree as `geartrain.store.collection.tree`."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from geartrain.errors import GeartrainError, InputError
from geartrain.store.collection import Axes, Piece, Variable, levels, tree

_CHUNK = 4_000_000  # bytes


def to_zarr(axes: Axes, pieces: Sequence[Piece], path: Path) -> Path:
    """Write the tree; `xarray.open_datatree` reads it. One chunk is held in memory at a time.

    Args:
        axes: The grid.
        pieces: The records that exist, with their headers.
        path: The store; must not exist.

    Raises:
        InputError: There is something at ``path``.
        GeartrainError: zarr is not installed (extra ``export``).
    """
    try:
        import zarr
    except ModuleNotFoundError:
        raise GeartrainError("Zarr is not installed: pip install 'geartrain[export]'.") from None
    if path.exists():
        raise InputError(f"{path} exists. Name a new store, or remove the old one first.")
    scratch = path.with_name(f".{path.name}.partial")
    # Format 2: format 3 has no settled way to store words yet. Labels go through xarray, which knows how it wants
    # to find them; then the numbers, chunk by chunk.
    labels = tree(axes, pieces).map_over_datasets(lambda node: node.drop_vars(list(node.data_vars)))
    labels.to_zarr(scratch, mode="w", consolidated=False, zarr_format=2)
    for node, variables in levels(axes, pieces).items():
        group = zarr.open_group(scratch, path=node.strip("/"), mode="r+")
        for variable in variables:
            _write(group, variable)
    return scratch.replace(path)


def _write(group: Any, variable: Variable) -> None:
    outer = len(variable.pieces[0].place)
    longest = max(stop - start for start, stop in map(variable.span, variable.pieces))
    # Several blocks of seeds to a chunk, as many as make it worth a file.
    bytes_of_one = longest * math.prod(variable.shape[outer + 1 :]) * variable.dtype.itemsize
    length = longest * max(1, _CHUNK // max(bytes_of_one, 1))
    array = group.create_array(
        variable.name,
        shape=variable.shape,
        chunks=tuple(
            max(n, 1)
            for n in (*[1] * outer, min(length, variable.shape[outer]), *variable.shape[outer + 1 :])
        ),
        dtype=variable.dtype,
        # Where it is a number that may occur, xarray would take that number for a gap.
        fill_value=np.nan if variable.dtype.kind in "fc" else None,
        attributes={**variable.attrs, "_ARRAY_DIMENSIONS": list(variable.dims)},
    )
    chunks: dict[tuple[int, ...], list[Piece]] = defaultdict(list)
    for piece in variable.pieces:
        chunks[(*piece.place, variable.span(piece)[0] // length)].append(piece)
    for (*place, number), pieces in chunks.items():
        start = number * length
        stop = min(start + length, variable.shape[outer])
        values = np.full((stop - start, *variable.shape[outer + 1 :]), variable.missing, variable.dtype)
        for piece in pieces:
            first, last = variable.span(piece)
            values[first - start : last - start] = variable.read(piece)
        array[(*place, slice(start, stop))] = values

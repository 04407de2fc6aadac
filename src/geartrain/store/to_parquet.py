"""Records as Parquet tables in long form: one row for each configuration, seed and position."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from geartrain.errors import GeartrainError
from geartrain.records import jsonable
from geartrain.store.collection import SEED, Axes, Piece
from geartrain.store.record import read_metrics

_ROWS = 200_000


def to_parquet(axes: Axes, pieces: Sequence[Piece], folder: Path) -> list[Path]:
    """Write one table for each set of axes, and ``metrics.parquet``; needs the extra ``export``.

    A variable with axes (seed, step) goes to ``seed_step.parquet``, whose columns are the settings, ``seed``, ``step``
    and every variable with these axes. One record is held in memory at a time.

    Args:
        axes: The grid.
        pieces: The records that exist, with their headers.
        folder: Where the tables go; made if it is missing.

    Returns:
        The files, sorted.
    """
    pyarrow = _pyarrow()
    folder.mkdir(parents=True, exist_ok=True)
    settings = _setting_types(pieces)
    types: dict[tuple[str, ...], dict[str, set[np.dtype]]] = defaultdict(lambda: defaultdict(set))
    for piece in pieces:
        for name, (dims, dtype) in _columns(piece).items():
            types[dims][name].add(dtype)
    files = []
    for dims, columns in types.items():
        kinds = {name: np.result_type(*found) for name, found in columns.items()}
        path = folder / f"{'_'.join(dims) or 'record'}.parquet"
        files.append(_write(pyarrow, path, (_table(axes, p, dims, kinds, settings) for p in pieces)))
    if any(p.header is not None and p.header.about.get("metrics") for p in pieces):
        files.append(_metrics(pyarrow, pieces, folder / "metrics.parquet", settings))
    return sorted(files)


def _write(pyarrow: Any, path: Path, tables: Iterator[Any]) -> Path:
    import pyarrow.parquet

    scratch = path.with_name(f".{path.name}.partial")
    writer, held, rows = None, [], 0
    for table in tables:
        if table is None:
            continue
        writer = writer or pyarrow.parquet.ParquetWriter(scratch, table.schema)
        held.append(table)
        rows += table.num_rows
        if rows >= _ROWS:
            writer.write_table(pyarrow.concat_tables(held))
            held, rows = [], 0
    assert writer is not None  # a set of axes exists only where a record has it
    if held:
        writer.write_table(pyarrow.concat_tables(held))
    writer.close()
    return scratch.replace(path)


def _columns(piece: Piece) -> dict[str, tuple[tuple[str, ...], np.dtype]]:
    assert piece.header is not None
    return {n: (tuple(sorted(a["dims"])), np.dtype(a["dtype"])) for n, a in piece.header.arrays.items()}


def _table(
    axes: Axes, piece: Piece, dims: tuple[str, ...], kinds: Mapping[str, np.dtype], settings: Any
) -> Any:
    import pyarrow

    header = piece.header
    assert header is not None
    mine = [n for n, (d, _) in _columns(piece).items() if d == dims]
    if not mine:
        return None
    said = header.arrays[mine[0]]
    sizes = dict(zip(said["dims"], said["shape"], strict=True))
    shape = [sizes[d] for d in dims]
    rows = int(np.prod(shape))
    columns: dict[str, Any] = {k: _repeat(piece.settings.get(k), t, rows) for k, t in settings.items()}
    if SEED not in dims:
        columns["block"] = np.full(rows, piece.block)
    for axis, dim in enumerate(dims):
        along = _positions(axes, piece, dim, sizes[dim])
        columns[dim] = np.broadcast_to(
            np.expand_dims(along, [i for i in range(len(dims)) if i != axis]), shape
        ).ravel()
    for name, kind in kinds.items():
        if name in mine:
            order = [header.arrays[name]["dims"].index(d) for d in dims]
            columns[name] = header.read(name).transpose(order).ravel().astype(kind)
        else:
            columns[name] = pyarrow.nulls(rows, pyarrow.from_numpy_dtype(kind))
    return pyarrow.table(columns)


def _positions(axes: Axes, piece: Piece, dim: str, size: int) -> np.ndarray:
    header = piece.header
    assert header is not None
    if dim == SEED:
        return axes.seeds[piece.start : piece.stop]
    return header.read(dim) if header.coords.get(dim, {}).get("dims") == [dim] else np.arange(size)


def _setting_types(pieces: Sequence[Piece]) -> dict[str, Any]:
    """A column type for each setting: numbers stay numbers; what is mixed becomes JSON text."""
    kinds: dict[str, set[type]] = defaultdict(set)
    for piece in pieces:
        for name, value in piece.settings.items():
            kinds[name].add(type(value))
    return {name: _type(found - {type(None)}) for name, found in kinds.items()}


def _type(found: set[type]) -> str:
    if found == {bool}:
        return "bool"
    if found == {int}:
        return "int64"
    if found and found <= {int, float}:
        return "float64"
    return "string" if found == {str} else "json"


def _repeat(value: Any, kind: str, rows: int) -> Any:
    import pyarrow

    known = pyarrow.string() if kind == "json" else getattr(pyarrow, {"bool": "bool_"}.get(kind, kind))()
    if kind == "json" and value is not None:
        value = json.dumps(jsonable(value))
    return pyarrow.array([value], known).take(pyarrow.array(np.zeros(rows, np.int64)))


def _metrics(pyarrow: Any, pieces: Sequence[Piece], path: Path, settings: Mapping[str, Any]) -> Path:
    kinds: dict[str, set[type]] = defaultdict(set)
    for piece in pieces:
        for row in _rows(piece):
            for name, value in row.items():
                kinds[name].add(type(value))
    types = {name: _type(found - {type(None)}) for name, found in kinds.items() if name not in settings}

    def tables() -> Iterator[Any]:
        for piece in pieces:
            rows = list(_rows(piece))
            columns = {k: _repeat(piece.settings.get(k), t, len(rows)) for k, t in settings.items()}
            columns["block"] = np.full(len(rows), piece.block)
            for name, kind in types.items():
                found = [_plain(row.get(name), kind) for row in rows]
                known = "string" if kind == "json" else {"bool": "bool_"}.get(kind, kind)
                columns[name] = pyarrow.array(found, getattr(pyarrow, known)())
            yield pyarrow.table(columns) if rows else None

    return _write(pyarrow, path, tables())


def _rows(piece: Piece) -> Iterator[dict[str, Any]]:
    assert piece.header is not None
    return read_metrics(piece.header.folder)


def _plain(value: Any, kind: str) -> Any:
    return json.dumps(jsonable(value)) if kind == "json" and value is not None else value


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ModuleNotFoundError:
        raise GeartrainError(
            "Parquet needs pyarrow, which is not installed: pip install 'geartrain[export]'."
        ) from None
    return pyarrow

"""Many records as one labelled tree that reads numbers only where they are looked at.

The records of a sweep lie on a grid: one or several outer axes (the settings), then ``seed`` in blocks. A variable
whose axes are the same in every record spans the whole grid and stands at the root of the tree. One whose axes differ
(weights of networks of several widths, say) stands in one node for each configuration, and where even the blocks of
seeds differ, in one node for each block.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geartrain.errors import GeartrainError
from geartrain.store.record import Header, read_header

if TYPE_CHECKING:
    import xarray

SEED, BLOCK = "seed", "block"


@dataclass(frozen=True)
class Piece:
    """One record and where it belongs.

    Attributes:
        place: Index along each outer axis.
        label: Name of its configuration, for people.
        start: Position of its first seed among all seeds.
        stop: Position after its last one.
        block: Which block of seeds it is.
        settings: Its configuration, for tables.
        header: Its description; None where the record does not exist (yet).
    """

    place: tuple[int, ...]
    label: str
    start: int
    stop: int
    block: int
    settings: Mapping[str, Any]
    header: Header | None = None


@dataclass(frozen=True)
class Axes:
    """The grid that the records lie on.

    Attributes:
        outer: Length of each outer axis, by name, in order.
        labels: Labels along them: (axis, values), by name.
        seeds: The seeds, shape (seeds,).
        blocks: Number of blocks.
    """

    outer: Mapping[str, int]
    labels: Mapping[str, tuple[str, np.ndarray]]
    seeds: np.ndarray
    blocks: int


@dataclass(frozen=True)
class Variable:
    """One variable over a set of records.

    Attributes:
        name: Its name in each record.
        dims: Outer axes, then ``seed`` (or ``block``, for what a record has once), then its own axes.
        shape: Length of each.
        dtype: A type that holds the values of all records, and of a gap where one is missing.
        attrs: Attributes that all records agree on.
        pieces: The records that have it.
        inner: How the axes of a record's array become (seed, own axes ...).
    """

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype
    attrs: Mapping[str, Any]
    pieces: tuple[Piece, ...]
    inner: tuple[int, ...]
    missing: Any = field(default=np.nan)

    @property
    def seeded(self) -> bool:
        """Whether each seed has its own value (else each block of seeds has one)."""
        return SEED in self.dims

    def read(self, piece: Piece) -> np.ndarray:
        """Values of one record, axes in the order of ``dims`` from ``seed`` or ``block`` on."""
        assert piece.header is not None
        values = piece.header.read(self.name)
        return values.transpose(self.inner) if self.seeded else values[None]

    def span(self, piece: Piece) -> tuple[int, int]:
        """Positions of a record along ``seed`` or ``block``."""
        return (piece.start, piece.stop) if self.seeded else (piece.block, piece.block + 1)

    def take(self, where: Sequence[np.ndarray]) -> np.ndarray:
        """Values at these positions along each axis; only the records that hold any of them are read."""
        out = np.full([len(w) for w in where], self.missing, self.dtype)
        outer = len(self.pieces[0].place)
        inner = [w for w in where[outer + 1 :]]
        for piece in self.pieces:
            spots = [np.flatnonzero(w == i) for w, i in zip(where, piece.place, strict=False)]
            start, stop = self.span(piece)
            at = np.flatnonzero((where[outer] >= start) & (where[outer] < stop))
            if at.size and all(s.size for s in spots):
                chosen = self.read(piece)[np.ix_(where[outer][at] - start, *inner)]
                out[np.ix_(*spots, at, *(np.arange(len(w)) for w in inner))] = chosen
        return out


def with_headers(pieces: Iterable[Piece], folder_of: Mapping[int, Path]) -> list[Piece]:
    """The pieces whose records exist, each with its header; ``folder_of`` maps a position to a folder."""
    return [
        Piece(p.place, p.label, p.start, p.stop, p.block, p.settings, read_header(folder_of[i]))
        for i, p in enumerate(pieces)
        if i in folder_of
    ]


def levels(axes: Axes, pieces: Sequence[Piece]) -> dict[str, list[Variable]]:
    """The variables, by node of the tree (``"/"`` is the root)."""
    found: dict[str, list[Variable]] = {}
    whole = len(pieces) == int(np.prod(list(axes.outer.values()))) * axes.blocks
    rest = _uniform(axes, pieces, None, found.setdefault("/", []), whole=whole)
    configurations: dict[tuple[int, ...], list[Piece]] = defaultdict(list)
    for piece in pieces if rest else ():
        configurations[piece.place].append(piece)
    for mine in configurations.values():
        node = "/" + mine[0].label.replace("/", "_")
        left = _uniform(
            axes, mine, rest, found.setdefault(node, []), whole=len(mine) == axes.blocks, alone=True
        )
        for piece in mine if left else ():
            one = found.setdefault(f"{node}/block={piece.block}", [])
            _uniform(axes, [piece], left, one, whole=axes.blocks == 1, alone=True)
    return found


def tree(axes: Axes, pieces: Sequence[Piece]) -> xarray.DataTree:
    """The labelled tree (needs the extra ``xarray``).

    Args:
        axes: The grid.
        pieces: The records that exist, with their headers.
    """
    xarray = _xarray()
    nodes = {}
    for node, variables in levels(axes, pieces).items():
        data = {v.name: _lazy(v) for v in variables}
        coords: dict[str, Any] = {SEED: (SEED, axes.seeds)}
        if any(BLOCK in v.dims for v in variables) or node == "/":
            coords[BLOCK] = (BLOCK, np.arange(axes.blocks))
        if node == "/":
            coords |= dict(axes.labels)
            coords["finished"] = ((*axes.outer, BLOCK), _finished(axes, pieces))
        for variable in variables:
            coords |= _labels(variable, skip=coords)
        nodes[node] = xarray.Dataset(data, coords)
    return xarray.DataTree.from_dict(nodes)


def _uniform(
    axes: Axes,
    pieces: Sequence[Piece],
    names: set[str] | None,
    found: list[Variable],
    *,
    whole: bool,
    alone: bool = False,
) -> set[str]:
    """Append to ``found`` the variables whose axes agree over these records; return the names of the others."""
    lengths: dict[str, set[Any]] = defaultdict(set)
    holders: dict[str, list[Piece]] = defaultdict(list)
    for piece in pieces:
        header = piece.header
        assert header is not None
        for name, said in header.arrays.items():
            if names is None or name in names:
                holders[name].append(piece)
            for dim, size in zip(said["dims"], said["shape"], strict=True):
                if dim != SEED:
                    # A label that sits on a longer list of axes belongs to no single axis.
                    labels = tuple(
                        sorted((n, c["digest"]) for n, c in header.coords.items() if c["dims"] == [dim])
                    )
                    lengths[dim].add((size, labels))
    rest: set[str] = set()
    for name, mine in holders.items():
        said = [_said(p, name) for p in mine]
        dims = {tuple(s["dims"]) for s in said}
        if len(dims) == 1 and all(len(lengths[d]) == 1 for d in said[0]["dims"] if d != SEED):
            found.append(_variable(axes, name, mine, whole=whole and len(mine) == len(pieces), alone=alone))
        else:
            rest.add(name)
    return rest


def _variable(axes: Axes, name: str, pieces: Sequence[Piece], *, whole: bool, alone: bool) -> Variable:
    said = [_said(p, name) for p in pieces]
    own = tuple(d for d in said[0]["dims"] if d != SEED)
    seeded = SEED in said[0]["dims"]
    sizes = dict(zip(said[0]["dims"], said[0]["shape"], strict=True))
    outer = {} if alone else axes.outer
    dtype = np.result_type(*(np.dtype(t) for t in {s["dtype"] for s in said}))
    missing: Any = np.zeros((), dtype)[()]
    if not whole:
        dtype, missing = _with_gaps(dtype)
    first = said[0]["attrs"]
    attrs = {k: v for k, v in first.items() if all(s["attrs"].get(k) == v for s in said)}
    order = [said[0]["dims"].index(d) for d in ((SEED, *own) if seeded else own)]
    shape = (
        *outer.values(),
        len(axes.seeds) if seeded else axes.blocks,
        *(sizes[d] for d in own),
    )
    dims = (*outer, SEED if seeded else BLOCK, *own)
    if alone:
        pieces = [Piece((), p.label, p.start, p.stop, p.block, p.settings, p.header) for p in pieces]
    return Variable(name, dims, shape, dtype, attrs, tuple(pieces), tuple(order), missing)


def _said(piece: Piece, name: str) -> Mapping[str, Any]:
    assert piece.header is not None
    return piece.header.arrays[name]


def _with_gaps(dtype: np.dtype) -> tuple[np.dtype, Any]:
    """A type that can also say "missing", and how it says so."""
    if dtype.kind in "biu":
        return np.dtype(float), np.nan
    if dtype.kind in "fc":
        return dtype, np.nan
    if dtype.kind in "mM":
        return dtype, np.array("NaT", dtype)
    return dtype, np.zeros((), dtype)[()]


def _labels(variable: Variable, skip: Mapping[str, Any]) -> dict[str, Any]:
    header = variable.pieces[0].header
    assert header is not None
    own = variable.dims[len(variable.dims) - len(variable.inner) + variable.seeded :]
    return {
        name: (tuple(said["dims"]), header.read(name))
        for name, said in header.coords.items()
        if name not in skip and len(said["dims"]) == 1 and said["dims"][0] in own
    }


def _finished(axes: Axes, pieces: Sequence[Piece]) -> np.ndarray:
    done = np.zeros((*axes.outer.values(), axes.blocks), dtype=bool)
    for piece in pieces:
        done[(*piece.place, piece.block)] = True
    return done


def _lazy(variable: Variable) -> Any:
    from geartrain.store._lazy import lazy

    return lazy(variable)


def _xarray() -> Any:
    try:
        import xarray
    except ModuleNotFoundError:
        raise GeartrainError(
            "Reading many records back needs xarray, which is not installed: pip install 'geartrain[xarray]'. "
            "Each record can be read alone with json and numpy.load."
        ) from None
    return xarray

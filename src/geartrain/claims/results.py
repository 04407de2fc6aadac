"""What the units of a claim gave: one `Cell` for each setting, with arrays whose first axis is the seeds."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geartrain.errors import InputError
from geartrain.store.record import read_header
from geartrain.sweeps import Sweep
from geartrain.sweeps.folder import Folder

DATA = "data.npz"
_INDEX = "cells"


@dataclass(frozen=True)
class Cell:
    """One setting.

    Attributes:
        config: The setting.
        seeds: The seeds that are there, in order.
        arrays: What was recorded, by name; the first axis is the seeds.
    """

    config: Mapping[str, Any]
    seeds: tuple[int, ...]
    arrays: Mapping[str, np.ndarray]

    def __getitem__(self, name: str) -> np.ndarray:
        """An array, or a setting."""
        return self.arrays[name] if name in self.arrays else self.config[name]

    @property
    def label(self) -> str:
        """The setting in words."""
        return ", ".join(f"{k} {v}" for k, v in self.config.items())

    @property
    def broken(self) -> tuple[str, ...]:
        """Names of arrays with numbers that are NaN or infinite."""
        numbers = ((n, a) for n, a in self.arrays.items() if a.dtype.kind == "f")
        return tuple(name for name, array in numbers if not np.isfinite(array).all())


class Results:
    """All cells of a claim.

    >>> import numpy as np
    >>> cells = [Cell({"arm": a, "size": s}, (0, 1), {"loss": np.ones(2)}) for a in "xy" for s in (1, 2)]
    >>> found = Results(cells)
    >>> found.one(arm="x", size=2)["loss"].tolist(), [c["size"] for c in found.where(arm="y")]
    ([1.0, 1.0], [1, 2])
    """

    def __init__(self, cells: list[Cell]) -> None:
        self.cells = cells

    def __iter__(self) -> Iterator[Cell]:
        return iter(self.cells)

    def __len__(self) -> int:
        return len(self.cells)

    def where(self, **settings: Any) -> list[Cell]:
        """The cells with these settings, in the order of the protocol."""
        return [c for c in self.cells if all(k in c.config and c.config[k] == v for k, v in settings.items())]

    def one(self, **settings: Any) -> Cell:
        """The only cell with these settings.

        Raises:
            InputError: There is none, or more than one.
        """
        found = self.where(**settings)
        if len(found) != 1:
            raise InputError(f"{len(found)} cells have the settings {settings}; one was expected.")
        return found[0]

    def values(self, setting: str) -> list[Any]:
        """The values of a setting, each once, in the order of the protocol."""
        return list(dict.fromkeys(c.config[setting] for c in self.cells if setting in c.config))

    @staticmethod
    def of(sweep: Sweep) -> Results:
        """What is finished of a sweep."""
        return Results(_read(sweep.folder, sweep.units))

    def pack(self) -> bytes:
        """The file ``data.npz``: every array as ``<cell>/<name>``, the settings as JSON under ``cells``."""
        said = [
            {"config": dict(c.config), "seeds": list(c.seeds), "arrays": sorted(c.arrays)} for c in self.cells
        ]
        arrays: dict[str, Any] = {
            f"{i}/{name}": a for i, c in enumerate(self) for name, a in c.arrays.items()
        }
        arrays[_INDEX] = np.array(json.dumps(said))
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        return buffer.getvalue()

    @staticmethod
    def load(folder: str | Path) -> Results:
        """From the file ``data.npz`` of a record."""
        with np.load(Path(folder) / DATA) as file:
            said = json.loads(str(file[_INDEX]))
            cells = [
                Cell(c["config"], tuple(c["seeds"]), {name: file[f"{i}/{name}"] for name in c["arrays"]})
                for i, c in enumerate(said)
            ]
        return Results(cells)


def _read(folder: Folder, units: Any) -> list[Cell]:
    done = folder.finished()
    blocks: dict[str, list[tuple[Any, dict[str, np.ndarray]]]] = {}
    configs: dict[str, dict[str, Any]] = {}
    for unit in units:
        if unit.name not in done:
            continue
        header = read_header(folder.units / unit.name)
        for name, said in header.arrays.items():
            if not said["dims"] or said["dims"][0] != "seed":
                raise InputError(
                    f"{name} has the axes {tuple(said['dims'])}; a claim records arrays whose first axis is 'seed'."
                )
        config = {k: v for k, v in unit.config.items() if k != "claim"}
        key = json.dumps(config, sort_keys=True)
        configs[key] = config
        blocks.setdefault(key, []).append((unit, {name: header.read(name) for name in header.arrays}))
    cells = []
    for key, parts in blocks.items():
        seeds = tuple(int(s) for unit, _ in parts for s in unit.seeds)
        names = parts[0][1]
        joined = {name: np.concatenate([arrays[name] for _, arrays in parts]) for name in names}
        cells.append(Cell(configs[key], seeds, joined))
    return cells

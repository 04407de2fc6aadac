"""What a monitor keeps: the run's columns over steps, and tables of numbers per layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from geartrain.records import jsonable
from geartrain.run import History

if TYPE_CHECKING:
    import xarray

UNITS = {
    "loss": "ℓ", "lr": "θ²/ℓ", "grad_norm": "ℓ/θ", "used_grad_norm": "ℓ/θ", "update_norm": "θ", "param_norm": "θ",
    "distance": "θ", "noise_scale": "examples", "gradient_rms": "ℓ", "step": "step", "batch_size": "examples",
}  # fmt: skip
"""Units of the columns; all others are pure numbers."""


@dataclass
class LayerTable:
    """One quantity per layer, at the steps at which it was measured.

    Attributes:
        names: The layers at each of these steps (they may change when parameters are added).
        steps: The steps, counted from 0.
        rows: The values, one array per step.
    """

    names: list[tuple[str, ...]] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    rows: list[np.ndarray] = field(default_factory=list)

    @property
    def layers(self) -> tuple[str, ...]:
        """All layers that ever occurred, in order."""
        seen: dict[str, None] = {}
        for names in dict.fromkeys(self.names):
            seen.update(dict.fromkeys(names))
        return tuple(seen)

    def array(self) -> np.ndarray:
        """Values, shape (steps, layers); NaN where a layer was not there."""
        places = {name: i for i, name in enumerate(self.layers)}
        table = np.full((len(self.rows), len(places)), np.nan)
        for row, (names, values) in enumerate(zip(self.names, self.rows, strict=True)):
            table[row, [places[n] for n in names]] = values
        return table

    def last(self) -> dict[str, float]:
        """The latest value of every layer."""
        found: dict[str, float] = {}
        for names, values in zip(self.names, self.rows, strict=True):
            found.update(zip(names, values.tolist(), strict=True))
        return found

    def median(self, count: int = 16) -> dict[str, float]:
        """Median over the last ``count`` rows, by layer; NaN where nothing was finite."""
        table = self.array()[-count:]
        medians = [np.median(c[np.isfinite(c)]) if np.isfinite(c).any() else math.nan for c in table.T]
        return dict(zip(self.layers, map(float, medians), strict=True))


@dataclass
class Row:
    """What was measured at one step; tensors may still be on their way from the device.

    Attributes:
        step: The step, counted from 0.
        numbers: By name of the column.
        layers: Names of the layers and one value for each, by name of the table.
    """

    step: int
    numbers: dict[str, float | Tensor] = field(default_factory=dict)
    layers: dict[str, tuple[tuple[str, ...], Tensor]] = field(default_factory=dict)

    def waits(self) -> bool:
        """Whether reading it would make the program wait for another device."""
        tensors = [*self.numbers.values(), *(values for _, values in self.layers.values())]
        return any(isinstance(t, Tensor) and t.device.type != "cpu" for t in tensors)


@dataclass
class Record:
    """Columns and tables, filled as soon as that makes nobody wait.

    Attributes:
        history: The same record that a `geartrain.Run` keeps.
        tables: Numbers per layer, by name: ``grad_norm``, ``update_ratio``, ...
        listen: Called with every finished row: ``listen(step, numbers, layers)``.
        steps: Optimizer steps seen, whether anything was noted at them or not.
        skipped: Gradients that were thrown away without a step.
        patience: Rows that wait until they are read together: less work, and nobody waits for another device.
    """

    history: History = field(default_factory=History)
    tables: dict[str, LayerTable] = field(default_factory=dict)
    listen: Callable[[int, dict[str, float], dict[str, dict[str, float]]], None] | None = None
    patience: int = 16
    steps: int = 0
    skipped: int = 0
    _waiting: list[Row] = field(default_factory=list)

    def note(self, step: int, loss: float | Tensor, lr: float) -> None:
        """Append a row that holds the loss and the step size only."""
        self._waiting.append(Row(step, {"loss": loss, "lr": lr}))
        if len(self._waiting) >= self.patience:
            self.settle()

    def add(self, row: Row, *, soon: bool = False) -> None:
        """Append a row; it is read with the next ones, or (``soon``) at once unless that would make somebody wait."""
        self._waiting.append(row)
        if len(self._waiting) >= self.patience or (soon and not any(r.waits() for r in self._waiting)):
            self.settle()

    def settle(self) -> None:
        """Fetch whatever is still on its way."""
        rows, self._waiting = self._waiting, []
        if not rows:
            return
        values = iter(_fetch(rows))
        for row in rows:
            numbers = {n: next(values)[0] if isinstance(v, Tensor) else v for n, v in row.numbers.items()}
            layers = {n: (names, np.array(next(values))) for n, (names, _) in row.layers.items()}
            self._write(row.step, numbers, layers)

    def _write(
        self, step: int, numbers: dict[str, float], layers: dict[str, tuple[tuple[str, ...], np.ndarray]]
    ) -> None:
        self.history.add(step, **numbers)
        for name, (names, values) in layers.items():
            table = self.tables.setdefault(name, LayerTable())
            # The very same tuple again and again: a million rows hold one list of names.
            same = table.names and table.names[-1] == names
            table.names.append(table.names[-1] if same else names)
            table.steps.append(step)
            table.rows.append(values)
        if self.listen is not None:
            per_layer = {n: dict(zip(names, v.tolist(), strict=True)) for n, (names, v) in layers.items()}
            self.listen(step, numbers, per_layer)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; NaN and infinities are words."""
        self.settle()
        tables = {
            name: {"layers": list(t.layers), "steps": t.steps, "values": t.array()}
            for name, t in self.tables.items()
        }
        return jsonable({**self.history.to_dict(), "layers": tables})

    def to_xarray(self) -> xarray.Dataset:
        """Columns over ``step``, tables over ``step`` and ``layer``, with units (needs the extra ``xarray``)."""
        import xarray

        self.settle()
        steps = self.history.column("step").astype(int)
        columns = {
            n: xarray.DataArray(
                self.history.column(n),
                dims=("step",),
                coords={"step": steps},
                attrs={"unit": UNITS.get(n, "1")},
            )
            for n in self.history.columns
            if n != "step"
        }
        tables = {
            f"layer_{n}": xarray.DataArray(
                t.array(),
                dims=("step", "layer"),
                coords={"step": t.steps, "layer": list(t.layers)},
                attrs={"unit": UNITS.get(n, "1")},
            )
            for n, t in self.tables.items()
        }
        return xarray.Dataset(columns | tables)


def _fetch(rows: list[Row]) -> list[list[float]]:
    """Every tensor of the rows as a list of numbers, with one transfer per device."""
    tensors = [
        t.detach().reshape(-1)
        for row in rows
        for t in (*row.numbers.values(), *(v for _, v in row.layers.values()))
        if isinstance(t, Tensor)
    ]
    if all(t.device.type == "cpu" for t in tensors):
        return [t.tolist() for t in tensors]
    device, dtype = tensors[0].device, torch.float64
    if device.type == "mps":
        dtype = torch.float32
    flat: list[float] = torch.cat([t.to(device, dtype) for t in tensors]).tolist()
    found, place = [], 0
    for t in tensors:
        found.append(flat[place : place + t.numel()])
        place += t.numel()
    return found


def flattened(numbers: Mapping[str, float], layers: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """One flat dictionary for trackers: ``{"loss": ..., "update_ratio/layers.0": ...}``."""
    return dict(numbers) | {f"{n}/{layer}": v for n, row in layers.items() for layer, v in row.items()}

"""A unit of work: one configuration with one block of seeds. Its name is the fingerprint of what it computes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from geartrain.records import jsonable
from geartrain.store import pack_record
from geartrain.sweeps.grid import Grid, described_seeds
from geartrain.sweeps.results import labelled


@dataclass(frozen=True)
class Unit:
    """One configuration with one block of seeds.

    Attributes:
        name: Fingerprint of configuration, seeds and version; name of its folder.
        index: Position among all units.
        config: The settings.
        seeds: The seeds.
        block: Which block of seeds this is.
        version: The user's word for the state of the function's code.
    """

    name: str
    index: int
    config: Mapping[str, Any]
    seeds: Sequence[int]
    block: int
    version: str

    def about(self) -> dict[str, Any]:
        """What ``run.json`` says of it."""
        return {
            "kind": "unit of a sweep",
            "name": self.name,
            "config": self.config,
            "seeds": described_seeds(self.seeds),
            "version": self.version,
        }


@dataclass(frozen=True)
class Failure:
    """Why a unit has no result.

    Attributes:
        unit: Name of the unit.
        config: Its settings.
        seeds: Its seeds.
        error: Kind of the exception.
        message: Its message.
        traceback: Where it happened.
    """

    unit: str
    config: Mapping[str, Any]
    seeds: Sequence[int]
    error: str
    message: str
    traceback: str

    def __str__(self) -> str:
        return f"{self.unit} {json.dumps(dict(self.config))}: {self.error}: {self.message}"

    def described(self) -> dict[str, Any]:
        """The same in plain JSON types."""
        return jsonable(
            {
                "unit": self.unit,
                "config": self.config,
                "seeds": described_seeds(self.seeds),
                "error": self.error,
                "message": self.message,
                "traceback": self.traceback,
            }
        )


def units(grid: Grid, version: str) -> list[Unit]:
    """All units, the first block of every configuration first: an unfinished sweep has seen all configurations."""
    found = []
    for block in range(grid.blocks):
        seeds = grid.seeds_of(block)
        said = described_seeds(seeds)
        for config in grid.configs:
            text = json.dumps({"config": config, "seeds": said, "version": version}, sort_keys=True)
            name = hashlib.sha256(text.encode()).hexdigest()[:20]
            found.append(Unit(name, len(found), config, seeds, block, version))
    return found


def compute(function: Callable[..., Any], unit: Unit) -> dict[str, bytes] | Failure:
    """Call the function and pack what it returns into the files of a record; an exception becomes a `Failure`."""
    try:
        with seeded(unit.name):
            returned = function(dict(unit.config), list(unit.seeds))
            arrays, coords, metrics = labelled(returned, unit.seeds, unit.config)
            return pack_record(unit.about(), arrays, coords, metrics)
    except Exception as error:
        return failed(unit, error)


def failed(unit: Unit, error: Exception) -> Failure:
    """The record of an exception."""
    text = "".join(traceback.format_exception(error))
    return Failure(unit.name, unit.config, unit.seeds, type(error).__name__, str(error), text)


@contextlib.contextmanager
def seeded(name: str) -> Iterator[None]:
    """Global generators (Python, numpy, torch) in a state that depends on the unit alone; restored afterwards.

    A function should seed what it uses from its seeds. If it forgets to, its numbers still do not depend on which
    units the same process ran before.
    """
    seed = int(name[:8], 16)
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 - it is the global one that is meant
    torch = sys.modules.get("torch")
    state = None if torch is None else torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    if torch is not None:
        torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002
        if torch is not None and state is not None:
            torch.set_rng_state(state)

"""What a sweep consists of: configurations, each with all seeds, cut into blocks."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from geartrain.errors import InputError

RESERVED = ("seed", "block", "config", "finished")


def canonical(value: Any, where: str = "configuration") -> Any:
    """The value in plain JSON types, the same for equal settings however they were written.

    >>> canonical({"b": (1, 2), "a": np.float32(0.5)})
    {'a': 0.5, 'b': [1, 2]}

    Raises:
        InputError: Something in it is neither a finite number, a word, a truth value, None, a list nor a dict of those.
    """
    if isinstance(value, np.generic) or getattr(value, "shape", None) == ():
        value = value.item()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        raise InputError(
            f"The {where} holds {value}. Settings are finite numbers; write None for 'no limit'."
        )
    if isinstance(value, Mapping):
        return {_key(k, where): canonical(value[k], where) for k in sorted(value, key=str)}
    if isinstance(value, (list, tuple, range)):
        return [canonical(v, where) for v in value]
    raise InputError(
        f"The {where} holds {type(value).__name__} {value!r}. Settings are numbers, words, True, False, None, and "
        "lists and dicts of them: pass a name or a number, and build the object inside the function."
    )


@dataclass(frozen=True)
class Grid:
    """Every configuration with every block of seeds.

    Attributes:
        axes: Values of each setting, by name, where the configurations are a full grid; else None.
        configs: All configurations, in plain JSON types, in order.
        seeds: All seeds, in order.
        block: Seeds in a block; the last block may hold fewer.
    """

    axes: Mapping[str, list[Any]] | None
    configs: tuple[Mapping[str, Any], ...]
    seeds: Sequence[int]
    block: int

    @property
    def blocks(self) -> int:
        """Number of blocks of seeds."""
        return -(-len(self.seeds) // self.block)

    def seeds_of(self, block: int) -> Sequence[int]:
        """Seeds of one block."""
        return self.seeds[block * self.block : (block + 1) * self.block]

    def place(self, config: int) -> tuple[int, ...]:
        """Index of a configuration along each outer axis."""
        if self.axes is None:
            return (config,)
        lengths = [len(v) for v in self.axes.values()]
        return tuple(int(i) for i in np.unravel_index(config, lengths)) if lengths else ()

    def described(self) -> dict[str, Any]:
        """The same in plain JSON types."""
        whole = {"configs": list(self.configs)} if self.axes is None else {"grid": dict(self.axes)}
        return {**whole, "seeds": described_seeds(self.seeds), "block": self.block}


def make_grid(
    grid: Mapping[str, Iterable[Any]] | None,
    configs: Iterable[Mapping[str, Any]] | None,
    seeds: int | Iterable[int],
    block: int,
) -> Grid:
    """Check what a user asked for and write it out.

    Raises:
        InputError: Both or neither of ``grid`` and ``configs``, a value or seed twice, nothing to do, or settings that
            cannot be written as JSON.
    """
    if (grid is None) == (configs is None):
        raise InputError(
            "A sweep needs either grid={'lr': [...], ...} or configs=[{...}, ...], and not both."
        )
    if isinstance(block, bool) or not isinstance(block, int) or block < 1:
        raise InputError(f"block is {block!r}; it must be a whole number of seeds, 1 or more.")
    axes = None if grid is None else _axes(grid)
    if axes is not None:
        rows = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    else:
        rows = [_config(c) for c in configs or ()]
    if not rows:
        raise InputError(
            "There are no configurations. Give every axis of the grid, or configs, at least one entry."
        )
    _no_twins([json.dumps(c, sort_keys=True) for c in rows], "configuration")
    return Grid(axes, tuple({k: c[k] for k in sorted(c)} for c in rows), make_seeds(seeds), block)


def make_seeds(seeds: int | Iterable[int]) -> Sequence[int]:
    """Seeds 0 to ``seeds`` - 1, or those named; a range where they follow on one another."""
    if isinstance(seeds, (int, np.integer)) and not isinstance(seeds, bool):
        named: Sequence[Any] = range(int(seeds))
    elif isinstance(seeds, Iterable) and not isinstance(seeds, (str, bytes)):
        named = list(seeds)
    else:
        named = [seeds]
    if not named:
        raise InputError(
            f"seeds is {seeds!r}: no seed at all. Give a number of seeds, 1 or more, or a list of them."
        )
    for seed in named if not isinstance(named, range) else ():
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
            raise InputError(
                f"The seed {seed!r} is no whole number. Give a number of seeds, or a list of whole numbers."
            )
    if isinstance(named, range):
        return named
    plain = [int(s) for s in named]
    _no_twins(plain, "seed")
    following = range(plain[0], plain[0] + len(plain))
    return following if plain == list(following) else plain


def described_seeds(seeds: Sequence[int]) -> Any:
    """Seeds in plain JSON types: ``{"start": 0, "stop": 100}``, or a list where they do not follow on one another.

    >>> described_seeds(range(100)), described_seeds([3, 1])
    ({'start': 0, 'stop': 100}, [3, 1])
    """
    listed = make_seeds(seeds)
    return {"start": listed.start, "stop": listed.stop} if isinstance(listed, range) else list(listed)


def read_seeds(said: Any) -> Sequence[int]:
    """The inverse of `described_seeds`."""
    return range(said["start"], said["stop"]) if isinstance(said, Mapping) else list(said)


def _axes(grid: Mapping[str, Iterable[Any]]) -> dict[str, list[Any]]:
    if not isinstance(grid, Mapping):
        raise InputError(
            f"grid is {type(grid).__name__}; it must be a dict from settings to lists of values."
        )
    axes: dict[str, list[Any]] = {}
    for name, values in grid.items():
        if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
            raise InputError(
                f"grid[{name!r}] is {values!r}; it must be a list of values. Write [{values!r}]."
            )
        axes[_key(name, "grid")] = [canonical(v, f"grid[{name!r}]") for v in values]
        _no_twins([json.dumps(v, sort_keys=True) for v in axes[name]], f"value of {name}")
    _no_reserved(axes)
    return axes


def _config(config: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(config, Mapping):
        raise InputError(
            f"A configuration is {type(config).__name__} {config!r}; each must be a dict of settings."
        )
    plain = canonical(config)
    _no_reserved(plain)
    return plain


def _key(name: Any, where: str) -> str:
    if not isinstance(name, str):
        raise InputError(f"The {where} names a setting {name!r}; names of settings are words.")
    return name


def _no_reserved(names: Iterable[str]) -> None:
    if taken := sorted(set(names) & set(RESERVED)):
        raise InputError(
            f"A setting is named {', '.join(taken)}; a sweep needs that name itself. Rename the setting."
        )


def _no_twins(items: Sequence[Any], kind: str) -> None:
    seen = set()
    for item in items:
        if item in seen:
            raise InputError(
                f"The {kind} {item} is named twice. Name it once; each is run once for every seed."
            )
        seen.add(item)

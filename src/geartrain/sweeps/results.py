"""What a function of a sweep may return, brought into labelled arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from geartrain.errors import InputError
from geartrain.records import Measurement, jsonable
from geartrain.store import LabelledArray
from geartrain.sweeps.grid import RESERVED

_SEED = "seed"
_MEMBERS = ("member", "members")  # axes of an ensemble, whose members are the seeds


def labelled(
    returned: Any, seeds: Sequence[int], config: Mapping[str, Any] | None = None
) -> tuple[dict[str, LabelledArray], dict[str, LabelledArray], list[Mapping[str, Any]]]:
    """Arrays, labels of their axes, and rows of metrics.

    Args:
        returned: A dict from names to values, an xarray Dataset, or a pair of either with an iterable of rows. A value
            is a number, one number a seed, a pair (axes, array), a `Measurement` or a list of one for each seed, or an
            xarray DataArray.
        seeds: The seeds of the unit; an axis named ``seed`` must be as long.
        config: The settings, whose names no array and no axis may have.

    Raises:
        InputError: It is something else, an axis has no name, or the axis ``seed`` has another length.
    """
    metrics: Iterable[Mapping[str, Any]] = ()
    named: Any
    if isinstance(returned, tuple) and len(returned) == 2 and _is_named(returned[0]):
        returned, metrics = returned
    if not _is_named(returned):
        raise InputError(
            f"The function returned {type(returned).__name__}. Return a dict of arrays with named axes, such as "
            "{'loss': (('seed', 'step'), losses)}, or an xarray Dataset; or a pair of that and rows of metrics."
        )
    coords: dict[str, LabelledArray] = {}
    arrays: dict[str, LabelledArray] = {}
    named = getattr(returned, "data_vars", returned)
    for name, value in named.items():
        arrays |= _one(_name(name), value, len(seeds), coords)
    for name, value in getattr(returned, "coords", {}).items():
        _label(str(name), _of_xarray(value), coords)
    arrays |= {n: coords.pop(n) for n in [n for n, c in coords.items() if _SEED in c.dims and n != _SEED]}
    _check_seeds(arrays, coords.pop(_SEED, None), seeds)
    _check_names(arrays, coords, config or {})
    return arrays, coords, [_row(row) for row in metrics]


def _is_named(thing: Any) -> bool:
    return isinstance(thing, Mapping) or hasattr(thing, "data_vars")


def _name(name: Any) -> str:
    if not isinstance(name, str) or not name or "/" in name:
        raise InputError(f"An array is named {name!r}. Names are words without a slash.")
    return name


def _one(name: str, value: Any, seeds: int, coords: dict[str, LabelledArray]) -> dict[str, LabelledArray]:
    if isinstance(value, Measurement):
        return _of_measurements(name, [value], coords, over_seeds=False)
    if isinstance(value, (list, tuple)) and value and all(isinstance(v, Measurement) for v in value):
        if len(value) != seeds:
            raise InputError(
                f"{name} holds {len(value)} measurements for {seeds} seeds. Return one for each seed, in order."
            )
        return _of_measurements(name, value, coords, over_seeds=True)
    return {name: _array_of(name, value, seeds, coords)}


def _array_of(name: str, value: Any, seeds: int, coords: dict[str, LabelledArray]) -> LabelledArray:
    if hasattr(value, "dims") and hasattr(value, "coords") and hasattr(value, "attrs"):
        for label, values in value.coords.items():
            _label(str(label), _of_xarray(values), coords)
        return _of_xarray(value)
    if isinstance(value, tuple) and len(value) in {2, 3} and _is_axes(value[0]):
        axes = (value[0],) if isinstance(value[0], str) else tuple(value[0])
        attrs = jsonable(dict(value[2])) if len(value) == 3 else {}
        return LabelledArray(_renamed(axes), _array(value[1]), attrs)
    array = _array(value)
    if array.ndim == 0:
        return LabelledArray((), array)
    if array.shape == (seeds,):
        return LabelledArray((_SEED,), array)
    raise InputError(
        f"{name} has shape {array.shape} and its axes have no names. Return a pair of names and array: "
        f"({', '.join(map(repr, ['seed', *(f'axis_{i}' for i in range(1, array.ndim))]))}), array."
    )


def _is_axes(thing: Any) -> bool:
    return isinstance(thing, str) or (
        isinstance(thing, (tuple, list)) and all(isinstance(t, str) for t in thing)
    )


def _of_measurements(
    name: str, values: Sequence[Measurement], coords: dict[str, LabelledArray], *, over_seeds: bool
) -> dict[str, LabelledArray]:
    """Value, standard error and state of measurements, each an array of its own."""
    if len({(v.dims, np.shape(v.value)) for v in values}) > 1:
        raise InputError(
            f"{name}: the measurements of the seeds have different axes or lengths. Return them apart."
        )
    for value in values:
        for dim, labels in value.coords.items():
            if dim in value.dims:
                _label(dim, LabelledArray((dim,), _array(labels)), coords)
    dims, shape = _renamed(values[0].dims), np.shape(values[0].value)
    outer = (_SEED,) if over_seeds else ()

    def together(parts: list[np.ndarray]) -> np.ndarray:
        return np.stack(parts) if over_seeds else parts[0]

    errors = [np.broadcast_to(_array(v.standard_error), shape) for v in values]
    states = [np.array(v.status.state.value, "U16") for v in values]  # one length, whichever states occur
    return {
        name: LabelledArray(
            (*outer, *dims), together([_array(v.value) for v in values]), {"unit": values[0].unit}
        ),
        f"{name}_standard_error": LabelledArray((*outer, *dims), together(errors), {"unit": values[0].unit}),
        f"{name}_state": LabelledArray(outer, together(states)),
    }


def _of_xarray(value: Any) -> LabelledArray:
    return LabelledArray(
        _renamed(tuple(map(str, value.dims))), _array(value.values), jsonable(dict(value.attrs))
    )


def _renamed(dims: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(_SEED if d in _MEMBERS else d for d in dims)


def _label(name: str, array: LabelledArray, coords: dict[str, LabelledArray]) -> None:
    if name in _MEMBERS:
        if array.dims == (_SEED,):
            return  # members are counted or named by their seeds; the seeds themselves are known
    known = coords.setdefault(name, array)
    if known.dims != array.dims or not np.array_equal(known.values, array.values):
        raise InputError(f"The axis {name!r} is labelled in two ways. Give the second one its own name.")


def _array(value: Any) -> np.ndarray:
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    try:
        return np.asarray(value)
    except ValueError as error:
        raise InputError(
            f"A value is no array of numbers ({error}). Return arrays with one length along each axis."
        ) from None


def _row(row: Any) -> Mapping[str, Any]:
    if not isinstance(row, Mapping):
        raise InputError(
            f"A row of metrics is {type(row).__name__} {row!r}; each must be a dict, such as {{'step': 1}}."
        )
    return {k: _array(v).tolist() if hasattr(v, "shape") else v for k, v in row.items()}


def _check_seeds(
    arrays: Mapping[str, LabelledArray], said: LabelledArray | None, seeds: Sequence[int]
) -> None:
    for name, array in arrays.items():
        if _SEED in array.dims and array.values.shape[array.dims.index(_SEED)] != len(seeds):
            size = array.values.shape[array.dims.index(_SEED)]
            raise InputError(
                f"{name} has {size} entries along 'seed', and this unit has {len(seeds)} seeds. Return one each."
            )
    if said is not None and not np.array_equal(said.values, np.asarray(seeds)):
        raise InputError(
            f"The result is labelled with seeds {said.values.tolist()[:5]}..., and the unit's are {list(seeds)[:5]}... "
            "Train the seeds that were passed, in their order."
        )


def _check_names(
    arrays: Mapping[str, LabelledArray], coords: Mapping[str, LabelledArray], config: Mapping[str, Any]
) -> None:
    axes = {d for a in (*arrays.values(), *coords.values()) for d in a.dims} - {_SEED}
    if taken := sorted((arrays.keys() | coords.keys() | axes) & {*config, *RESERVED}):
        raise InputError(
            f"The result names an array or an axis {', '.join(taken)}, which is a setting or a word that the sweep "
            "needs itself. Rename it."
        )

"""What a sweep consists of."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geartrain.errors import InputError
from geartrain.sweeps.grid import canonical, described_seeds, make_grid, make_seeds, read_seeds
from geartrain.sweeps.unit import units


def test_every_combination_with_every_block():
    grid = make_grid({"lr": [0.1, 1.0], "width": range(3)}, None, 10, 4)
    found = units(grid, "1")
    assert len(found) == 2 * 3 * 3
    assert len({u.name for u in found}) == len(found)
    for config in grid.configs:
        seeds = [s for u in found if u.config == config for s in u.seeds]
        assert seeds == list(range(10))
    assert [grid.place(i) for i in range(6)] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert {tuple(u.config.items()) for u in found[:6]} == {tuple(c.items()) for c in grid.configs}


def test_no_axis_is_one_configuration():
    grid = make_grid({}, None, 2, 1)
    assert grid.configs == ({},)
    assert grid.place(0) == ()


def test_names_depend_on_what_is_computed_and_on_nothing_else():
    def names(configs, seeds=2, version="1"):
        return [u.name for u in units(make_grid(None, configs, seeds, 2), version)]

    one = names([{"a": 1, "b": (2.0, None)}])
    assert names([{"b": [np.float64(2.0), None], "a": np.int32(1)}]) == one
    assert names([{"a": torch.tensor(1), "b": [2.0, None]}], seeds=[0, 1]) == one
    assert names([{"a": 2}, {"a": 1, "b": [2.0, None]}])[1:] == one
    assert names([{"a": 1, "b": (2.0, None)}], version="2") != one
    assert names([{"a": 1, "b": (2.5, None)}]) != one
    assert names([{"a": 1, "b": (2.0, None)}], seeds=[1, 0]) != one
    assert names([{"a": True, "b": (2.0, None)}]) != one


def test_the_name_is_the_same_on_every_machine_and_version():
    # A change here would make every stored unit a stranger.
    assert units(make_grid(None, [{"lr": 0.1}], 3, 3), "1")[0].name == "08a97ab4770cff0737cf"


def test_more_seeds_keep_the_old_units():
    few, many = (units(make_grid({"a": [1, 2]}, None, n, 5), "1") for n in (10, 20))
    assert {u.name for u in few} < {u.name for u in many}


@given(st.one_of(st.integers(1, 50), st.lists(st.integers(-5, 2**70), min_size=1, unique=True)))
def test_seeds_survive_writing(seeds):
    wanted = list(range(seeds)) if isinstance(seeds, int) else seeds
    assert list(read_seeds(described_seeds(make_seeds(seeds)))) == wanted


@pytest.mark.parametrize("value", [object(), np.zeros(2), {1: 2}, b"x", torch.zeros(3)])
def test_settings_must_be_plain(value):
    with pytest.raises(InputError, match=r"Settings are numbers, words|names of settings are words"):
        canonical(value)


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_settings_must_be_finite(value):
    with pytest.raises(InputError, match="write None for 'no limit'"):
        canonical([value])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, None, 1, 1), "either grid=.* or configs=.* and not both"),
        (({}, [], 1, 1), "either grid=.* or configs=.* and not both"),
        (({"a": 1}, None, 1, 1), r"grid\['a'\] is 1; it must be a list of values. Write \[1\]"),
        (({"a": "xy"}, None, 1, 1), r"Write \['xy'\]"),
        (({"a": []}, None, 1, 1), "There are no configurations"),
        ((None, [], 1, 1), "There are no configurations"),
        (({"a": [1, np.int64(1)]}, None, 1, 1), "value of a 1 is named twice"),
        ((None, [{"a": 1}, {"a": 1}], 1, 1), "configuration .* is named twice"),
        (([1], None, 1, 1), "grid is list; it must be a dict"),
        ((None, [1], 1, 1), "A configuration is int 1"),
        (({"seed": [1]}, None, 1, 1), "A setting is named seed; a sweep needs that name itself"),
        ((None, [{"block": 1}], 1, 1), "A setting is named block"),
        (({"a": [1]}, None, 0, 1), "no seed at all"),
        (({"a": [1]}, None, [], 1), "no seed at all"),
        (({"a": [1]}, None, [1.5], 1), "seed 1.5 is no whole number"),
        (({"a": [1]}, None, True, 1), "seed True is no whole number"),
        (({"a": [1]}, None, "3", 1), "seed '3' is no whole number"),
        (({"a": [1]}, None, [1, 1], 1), "seed 1 is named twice"),
        (({"a": [1]}, None, 1, 0), "block is 0; it must be a whole number of seeds"),
        (({"a": [1]}, None, 1, True), "block is True"),
    ],
)
def test_what_makes_no_sense(arguments, message):
    with pytest.raises(InputError, match=message):
        make_grid(*arguments)

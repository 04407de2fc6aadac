"""What a function may return."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray

from geartrain.errors import InputError
from geartrain.records import Measurement, State, Status
from geartrain.sweeps.results import labelled

SEEDS = [4, 5, 6]


def measurement(value, dims=(), **options):
    return Measurement("m", value, "ℓ/θ", Status(State.ESTIMATE, "made up"), 0.5, dims, **options)


def test_numbers_arrays_and_pairs():
    arrays, coords, rows = labelled(
        {
            "one": 2,
            "each": [1, 2, 3],
            "tensor": torch.ones(3, requires_grad=True),
            "axis": ("point", np.zeros(7)),
            "named": (["seed", "step"], torch.zeros(3, 2), {"unit": "ℓ"}),
        },
        SEEDS,
    )
    assert {n: a.dims for n, a in arrays.items()} == {
        "one": (),
        "each": ("seed",),
        "tensor": ("seed",),
        "axis": ("point",),
        "named": ("seed", "step"),
    }
    assert arrays["named"].attrs == {"unit": "ℓ"}
    assert (coords, rows) == ({}, [])


def test_a_measurement_keeps_its_error_and_state():
    arrays, coords, _ = labelled(
        {"m": measurement(np.ones(2), ("layer",), coords={"layer": ["a", "b"]})}, SEEDS
    )
    assert arrays["m"].dims == arrays["m_standard_error"].dims == coords["layer"].dims == ("layer",)
    np.testing.assert_array_equal(arrays["m_standard_error"].values, [0.5, 0.5])
    assert arrays["m_state"].values == "estimate"
    assert arrays["m"].attrs == {"unit": "ℓ/θ"}


def test_a_measurement_for_each_seed():
    arrays, _, _ = labelled({"m": [measurement(float(s)) for s in SEEDS]}, SEEDS)
    assert arrays["m"].dims == arrays["m_standard_error"].dims == arrays["m_state"].dims == ("seed",)
    np.testing.assert_array_equal(arrays["m"].values, SEEDS)


@pytest.mark.parametrize("seed", [{}, {"seed": ("member", SEEDS)}, {"member": ("member", SEEDS)}])
def test_a_dataset_whose_members_are_the_seeds(seed):
    data = xarray.Dataset(
        {"loss": (("member", "step"), np.ones((3, 2)))},
        {"step": [0, 5], "stopped": ("member", [1, 2, 3]), **seed},
    )
    arrays, coords, rows = labelled((data, [{"step": np.int64(3), "x": torch.tensor(0.5)}]), SEEDS)
    assert arrays["loss"].dims == ("seed", "step")
    assert arrays["stopped"].dims == ("seed",)
    assert list(coords) == ["step"]
    assert rows == [{"step": 3, "x": 0.5}]


def test_data_arrays_bring_their_labels():
    one = xarray.DataArray(np.ones((3, 2)), dims=("seed", "step"), coords={"seed": SEEDS, "step": [1, 2]})
    arrays, coords, _ = labelled({"a": one, "b": one + 1}, SEEDS)
    assert set(arrays) == {"a", "b"}
    np.testing.assert_array_equal(coords["step"].values, [1, 2])
    with pytest.raises(InputError, match="The axis 'step' is labelled in two ways"):
        labelled({"a": one, "b": one.assign_coords(step=[1, 3])}, SEEDS)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, "The function returned NoneType. Return a dict of arrays"),
        (np.zeros(3), "The function returned ndarray"),
        (
            {"x": np.zeros((3, 2))},
            r"x has shape \(3, 2\) and its axes have no names.*\('seed', 'axis_1'\), array",
        ),
        ({"x": np.zeros(2)}, r"x has shape \(2,\) and its axes have no names"),
        ({"x": [[1], [1, 2]]}, "A value is no array of numbers"),
        ({"x": object()}, "Python objects cannot be stored"),
        ({1: 2}, "An array is named 1"),
        ({"a/b": 2}, "An array is named 'a/b'"),
        ({"x": ("seed", np.zeros(2))}, "x has 2 entries along 'seed', and this unit has 3 seeds"),
        ({"x": [measurement(1.0)]}, "x holds 1 measurements for 3 seeds"),
        (
            {"x": [measurement(1.0), measurement(1.0), measurement(np.ones(1), ("a",))]},
            "different axes or lengths",
        ),
        ({"lr": 1.0}, "names an array or an axis lr, which is a setting"),
        ({"x": ("block", np.zeros(2))}, "names an array or an axis block"),
        (({"x": 1}, [3]), "A row of metrics is int 3"),
        (
            xarray.Dataset({"x": ("seed", [1, 2, 3])}, {"seed": [1, 2, 3]}),
            r"labelled with seeds \[1, 2, 3\].*the unit's are \[4, 5, 6\]",
        ),
    ],
)
def test_what_cannot_be_kept(returned, message):
    with pytest.raises(InputError, match=message):
        labelled(returned, SEEDS, {"lr": 0.1})

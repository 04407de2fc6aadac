"""Records: plain, frozen, and the same in JSON."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from geartrain.records import Cost, Measurement, State, Status, format_number, jsonable

EXACT = Status(State.EXACT, "by hand")
ESTIMATE = Status(State.ESTIMATE, "from 10 samples")


def test_a_number_in_words():
    assert (
        str(Measurement("trace", 2.5, "ℓ/θ²", ESTIMATE, standard_error=0.25))
        == "trace = 2.50 ± 0.250 ℓ/θ² (estimate)"
    )
    assert str(Measurement("ratio", 2.5, "1", EXACT)) == "ratio = 2.50 (exact)"
    assert float(Measurement("ratio", 2.5, "1", EXACT)) == 2.5
    assert Measurement("ratio", 2.5, "1", EXACT).exact


def test_an_array_in_words():
    many = Measurement("spectrum", np.arange(9.0), "ℓ/θ²", EXACT, dims=("eig",))
    assert str(many) == "spectrum[eig] = [0, 1.00, 2.00, 3.00, 4.00, 5.00, ...] ℓ/θ² (exact)"


def test_dims_must_fit():
    with pytest.raises(ValueError, match=r"spectrum: value has 1 axes but dims names 0: \(\)"):
        Measurement("spectrum", np.arange(3.0), "1", EXACT)


def test_records_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Measurement("ratio", 2.5, "1", EXACT).value = 3.0  # type: ignore[misc]


def test_statuses():
    assert EXACT.usable
    assert str(EXACT) == "exact: by hand"
    assert not Status(State.NOT_APPLICABLE, "").usable
    assert not Status(State.NON_FINITE, "").usable


def test_costs_add_up():
    total = Cost(1, 2, 3, 4.0, 100) + Cost(1, 1, 1, 1.0, 50)
    assert total == Cost(2, 3, 4, 5.0, 100)
    assert total - Cost(1, 1, 1, 1.0, 50) == Cost(1, 2, 3, 4.0, 100)


def test_everything_becomes_plain_json():
    record = Measurement(
        "m",
        np.array([1.0, math.nan, math.inf, -math.inf]),
        "1",
        EXACT,
        dims=("eig",),
        details={"n": np.int64(3)},
    )
    plain = json.loads(json.dumps(record.to_dict(), allow_nan=False))
    assert plain["value"] == [1.0, "nan", "inf", "-inf"]
    assert plain["status"] == {"state": "exact", "sentence": "by hand"}
    assert plain["details"] == {"n": 3}
    assert jsonable({"a": {1}, "b": object, "c": (None, True, "x")})["c"] == [None, True, "x"]


def test_labelled_arrays():
    pytest.importorskip("xarray")
    found = Measurement(
        "m",
        np.array([1.0, 2.0]),
        "ℓ",
        ESTIMATE,
        standard_error=np.array([0.1, 0.2]),
        dims=("layer",),
        coords={"layer": ["a", "b"]},
    )
    array = found.to_xarray()
    assert float(array.sel(layer="b")) == 2.0
    assert array.attrs["unit"] == "ℓ"
    assert array.attrs["standard_error"] == [0.1, 0.2]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.12345, "0.123"),
        (12.345, "12.3"),
        (99999.0, "99999"),
        (123456.0, "1.23e5"),
        (-0.00012, "-1.20e-4"),
        (math.nan, "NaN"),
        (math.inf, "∞"),
        (-math.inf, "-∞"),
    ],
)
def test_numbers_as_people_write_them(number, text):
    assert format_number(number) == text

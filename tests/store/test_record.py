"""Records: equal contents, equal bytes; readable without geartrain."""

from __future__ import annotations

import io
import json
import math
import time

import numpy as np
import pytest

from geartrain.errors import InputError
from geartrain.store import FORMAT, LabelledArray, pack_record, read_header, read_metrics, write_folder
from geartrain.store.arrays import pack


def record(**metrics):
    arrays = {"loss": LabelledArray(("seed", "step"), np.arange(6.0).reshape(2, 3), {"unit": "ℓ"})}
    coords = {"step": LabelledArray(("step",), np.array([0, 10, 20]))}
    return pack_record({"config": {"lr": 0.1}}, arrays, coords, [metrics])


def test_equal_contents_give_equal_bytes_on_another_day(monkeypatch):
    first = record(loss=1.0)
    monkeypatch.setattr(time, "time", lambda: 2e9)
    monkeypatch.setattr(time, "localtime", lambda *_: time.gmtime(2e9))
    assert record(loss=1.0) == first
    assert record(loss=2.0) != first


def test_json_and_numpy_read_it(tmp_path):
    write_folder(tmp_path / "r", record(loss=0.5), scratch=tmp_path / "s")
    header = json.loads((tmp_path / "r" / "run.json").read_text(encoding="utf-8"))
    assert header["arrays"]["loss"] == {
        "dims": ["seed", "step"],
        "shape": [2, 3],
        "dtype": "<f8",
        "attrs": {"unit": "ℓ"},
    }
    with np.load(tmp_path / "r" / "arrays.npz") as file:
        assert sorted(file) == ["loss", "step"]
        np.testing.assert_array_equal(file["loss"], [[0, 1, 2], [3, 4, 5]])


def test_what_was_written_is_read(tmp_path):
    write_folder(
        tmp_path / "r",
        record(a=math.nan, b=-math.inf, c=np.float32(0.5), d="x", e=[1]),
        scratch=tmp_path / "s",
    )
    header = read_header(tmp_path / "r")
    assert header.about["config"] == {"lr": 0.1}
    np.testing.assert_array_equal(header.read("step"), [0, 10, 20])
    (row,) = read_metrics(tmp_path / "r")
    assert math.isnan(row.pop("a"))
    assert row == {"b": -math.inf, "c": 0.5, "d": "x", "e": [1]}


def test_a_noncontiguous_array_and_a_number(tmp_path):
    values = np.arange(6).reshape(2, 3).T
    with np.load(io.BytesIO(pack({"x": values, "y": np.array(1.5)}))) as file:
        np.testing.assert_array_equal(file["x"], values)
        assert file["y"].shape == ()


@pytest.mark.parametrize("found", [FORMAT + 1, None, "1", 0])
def test_a_format_that_is_not_known(tmp_path, found):
    (tmp_path / "run.json").write_text(json.dumps({"format": found}))
    with pytest.raises(InputError, match=f"has format {found!r}; this geartrain reads formats 1 to {FORMAT}"):
        read_header(tmp_path)


def test_no_record(tmp_path):
    with pytest.raises(InputError, match=r"holds no run\.json: it is not a record"):
        read_header(tmp_path)


@pytest.mark.parametrize(
    ("dims", "values", "message"),
    [
        (("a",), np.zeros((2, 2)), "was given 1 names of axes"),
        (("a", "a"), np.zeros((2, 2)), "each name may occur once"),
        (("a",), np.array([{}]), "Python objects cannot be stored"),
    ],
)
def test_arrays_that_cannot_be_stored(dims, values, message):
    with pytest.raises(InputError, match=message):
        LabelledArray(dims, values)


def test_names_and_lengths_must_agree():
    x, y = LabelledArray(("a",), np.zeros(2)), LabelledArray(("a",), np.zeros(3))
    with pytest.raises(InputError, match="x: named both as an array and as a label"):
        pack_record({}, {"x": x}, {"x": x})
    with pytest.raises(InputError, match="The axis 'a' has length 3 in y and 2 in x"):
        pack_record({}, {"x": x, "y": y})

"""``geartrain sweep``."""

from __future__ import annotations

import json

import pytest
from tests.sweeps import work

import geartrain as gt
from geartrain.cli import main


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = gt.sweep(
        work.fragile, grid={"a": [1, 2]}, seeds=4, block=1, folder="runs/x", workers=0, progress=False
    )
    made.run()
    return made


def said(capsys, *argv):
    code = main(["sweep", *argv])
    return code, *capsys.readouterr()


def test_status(capsys, sweep):
    code, out, err = said(capsys, "status", "runs/x")
    assert (code, err) == (0, "")
    assert (
        out.splitlines()[0] == "runs/x: sweep of tests.sweeps.work:fragile, 4 of 8 units finished, 4 failed"
    )
    assert out.count("ValueError: two is too much") == 4
    assert "Try again: geartrain sweep retry runs/x" in out


def test_status_for_machines(capsys, sweep):
    _, out, _ = said(capsys, "status", "runs/x", "--json")
    found = json.loads(out)
    assert (found["finished"], found["failed"], found["seconds_left"]) == (4, 4, None)
    assert found["failures"][0]["seeds"] == {"start": 0, "stop": 1}


def test_long_lists_are_cut(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    gt.sweep(work.fragile, grid={"a": [2]}, seeds=12, block=1, folder="x", workers=0, progress=False).run()
    assert "... and 2 more" in said(capsys, "status", "x")[1]


def test_resume_and_retry(capsys, sweep, tmp_path):
    assert said(capsys, "resume", "runs/x")[0] == 1  # not complete
    (tmp_path / "mended").touch()
    assert said(capsys, "resume", "runs/x")[0] == 1
    code, out, err = said(capsys, "retry", "runs/x", "--workers", "0")
    assert code == 0
    assert "8 of 8 units finished" in out
    assert "100 %" in err


def test_what_is_not_there(capsys, tmp_path):
    code, _, err = said(capsys, "status", str(tmp_path))
    assert code == 1
    assert "holds no sweep.json" in err
    code, _, err = said(capsys, "resume", str(tmp_path), "--workers", "-1")
    assert code == 2
    assert "--workers is -1; it must be 0" in err


def test_bad_usage(capsys, tmp_path):
    code, _, err = said(capsys, "stop", str(tmp_path))
    assert code == 2
    assert "stop" in err

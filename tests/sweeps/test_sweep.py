"""Running, resuming, failing, reading back: in this process."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import time

import numpy as np
import pytest
import torch
import xarray
from tests.sweeps import work

import geartrain as gt
from geartrain import sweeps
from geartrain.errors import InputError
from geartrain.store import DiskFullError, Locks
from geartrain.sweeps import progress, runner


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner, "_POLL", 0.01)
    # Nobody pulls the plug here: do not wait for the disk.
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def plan(function=work.simple, folder="s", **options):
    options = {"grid": {"a": [1, 2, 3], "b": ["x", "y"]}, "seeds": 5, "block": 2, "workers": 0, **options}
    return gt.sweep(function, folder=folder, progress=options.pop("progress", False), **options)


def files(sweep):
    root = sweep.folder.path
    return {str(p.relative_to(root)): p.read_bytes() for p in (root / "units").rglob("*") if p.is_file()}


def test_everything_is_where_it_belongs():
    sweep = plan()
    assert not sweep.folder.path.exists()
    assert str(sweep.status()) == "0 of 18 units finished, 18 waiting"
    assert str(sweep.run()) == "18 of 18 units finished"
    tree = sweep.read()
    assert dict(tree.sizes) == {"a": 3, "b": 2, "seed": 5, "step": 3, "block": 3}
    for a in (1, 2, 3):
        for seed in range(5):
            at = tree.to_dataset().sel(a=a, b="y", seed=seed)
            assert at["value"] == 100 * a + seed
            assert at["count"] == seed
            np.testing.assert_allclose(at["path"], 100 * a + seed + np.arange(3) / 10)
    assert tree["count"].dtype.kind == "i"
    assert tree["path"].attrs == {"unit": "ℓ"}
    np.testing.assert_array_equal(tree["total"].sel(a=1, b="x"), [201, 205, 104])
    assert tree["finished"].all()
    rows = list(sweep.metrics())
    assert len(rows) == 6 * 5
    assert {r["value"] for r in rows if r["a"] == 3 and r["seed"] == 4} == {304.0}


def test_numbers_are_read_where_they_are_looked_at(monkeypatch):
    sweep = plan()
    sweep.run()
    tree = sweep.read()
    read, load = [], np.load
    monkeypatch.setattr(np, "load", lambda path, **k: (read.append(path), load(path, **k))[1])
    assert tree["value"].isel(a=1, b=0, seed=[4, 0]).values.tolist() == [204.0, 200.0]
    assert len(read) == 2
    assert tree["path"].isel(a=[0], b=1, seed=slice(0, 2), step=-1).values.tolist() == [[100.2, 101.2]]
    assert len(read) == 3


def test_a_list_of_configurations():
    sweep = plan(
        grid=None, configs=[{"a": 1}, {"a": 2.5, "note": "x"}, {"a": None or 3, "list": [1]}], seeds=[7, 3]
    )
    sweep.run()
    tree = sweep.read()
    assert tree["value"].dims == ("config", "seed")
    np.testing.assert_array_equal(tree["value"].sel(seed=7), [107, 257, 307])
    np.testing.assert_array_equal(tree["a"], [1, 2.5, 3])
    assert tree["note"].values.tolist() == ["null", "x", "null"]
    assert tree["list"].values.tolist() == ["null", "null", "[1]"]


def test_axes_that_differ_stand_in_nodes_of_their_own():
    sweep = plan(work.ragged, grid={"width": [2, 3], "half": [None, 0.5]}, seeds=3, block=2)
    sweep.run()
    tree = sweep.read()
    assert tree["loss"].dims == ("width", "half", "seed")
    assert np.isnan(tree["half"].values[0])
    node = tree["width=3,half=0.5"]
    assert node["weights"].shape == (3, 3)
    assert (node["weights"] == 3.0).all()
    np.testing.assert_array_equal(node["block=1"]["pairs"], [[np.nan], [0.0]])
    np.testing.assert_array_equal(node["block=0"]["pairs"], [[0.0, 1.0], [np.nan, np.nan]])


def test_finished_units_are_not_computed_again(monkeypatch):
    sweep = plan()
    sweep.run()
    before = files(sweep)
    with monkeypatch.context() as patch:
        patch.setattr(runner, "Locks", None)  # not even a claim
        assert plan().run().complete
    more = plan(grid={"a": [1, 2, 3, 4], "b": ["x", "y"]}, seeds=6)
    assert (
        str(more.status()) == "12 of 24 units finished, 12 waiting"
    )  # the last block of 5 seeds held one only
    more.run()
    assert before.items() <= files(more).items()
    assert str(sweeps.load("s").status()) == "24 of 24 units finished"
    assert str(plan(version="2").status()) == "0 of 18 units finished, 18 waiting"


def test_the_folder_alone_is_enough():
    plan(grid=None, configs=[{"a": 1}], seeds=[3, 9], version="7", workers=0).run()
    found = sweeps.load("s")
    assert found.run(progress=False).complete
    assert (found.version, list(found.grid.seeds), found.workers) == ("7", [3, 9], 0)
    assert repr(found).startswith("<sweep of tests.sweeps.work:simple in ")
    again = json.loads((found.folder.path / "sweep.json").read_text())
    assert again["function"]["module"] == "tests.sweeps.work"
    assert "numpy.load" in (found.folder.path / "README.txt").read_text()


def test_a_failing_unit_is_recorded_and_the_rest_goes_on(tmp_path):
    sweep = plan(work.fragile)
    status = sweep.run()
    assert str(status) == "12 of 18 units finished, 6 failed"
    assert not status.complete
    failure = sweep.failures[0]
    assert (failure.error, failure.message, failure.config["a"]) == ("ValueError", "two is too much", 2)
    assert "raise ValueError" in failure.traceback
    assert "ValueError: two is too much" in str(failure)
    tree = sweep.read()
    assert tree["finished"].sum("block").values.tolist() == [[3, 3], [0, 0], [3, 3]]
    assert np.isnan(tree["count"].sel(a=2)).all()
    assert (tree["count"].sel(a=1) == tree["seed"]).all()
    assert len(list(sweep.metrics())) == 4 * 5
    assert sweep.run() == status  # failures are tried again only when asked
    (tmp_path / "mended").touch()
    assert sweep.retry().complete
    assert sweep.failures == []


def test_the_same_bytes_as_without_interruption():
    whole = plan(work.careless, folder="whole")
    whole.run()
    parts = plan(work.careless, folder="parts")
    parts.run()
    # Half of the units are lost, and computed again by a process in another state.
    for name in sorted(parts.folder.finished())[::2]:
        shutil.rmtree(parts.folder.units / name)
    random.seed(99)
    np.random.seed(99)  # noqa: NPY002
    parts.run()
    assert files(parts) == files(whole)


def test_global_generators_are_as_before():
    torch.manual_seed(1)
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # noqa: NPY002
    plan(work.careless).run()
    after = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # noqa: NPY002
    assert before == after


@pytest.mark.parametrize("call", ["fsync", "write"])
def test_a_full_disk_stops_and_resumes(monkeypatch, call):
    whole = plan(folder="whole")
    whole.run()
    sweep, calls, real = plan(), [], getattr(os, call)

    def no_room(*arguments):
        calls.append(arguments)
        if len(calls) > 20 or (call == "write" and len(calls) > 4):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, no_room)
        with pytest.raises(
            DiskFullError, match=r"No room .* \d of 18 units are finished\. Then: geartrain sweep resume"
        ):
            sweep.run()
    assert 0 < sweep.status().finished < 18
    assert sweep.status().running == 0
    assert not list((sweep.folder.path / "partial").iterdir())
    assert files(sweep).items() < files(whole).items()
    assert sweep.run().complete
    assert files(sweep) == files(whole)


def test_ctrl_c_stops_cleanly():
    sweep = plan(work.interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweep.run()
    status = sweep.status()
    assert (status.failed, status.running) == (0, 0)
    assert 0 < status.finished < 18


def test_leftovers_of_killed_processes_are_removed():
    sweep = plan()
    sweep.folder.make()
    name = sweep.units[0].name
    (sweep.folder.path / "partial" / f"{name}-0123").mkdir()
    sweep.run()
    assert not list((sweep.folder.path / "partial").iterdir())


def test_units_claimed_elsewhere_are_waited_for(monkeypatch):
    sweep = plan()
    sweep.folder.make()
    other = Locks(sweep.folder.locks)
    first, second = (u.name for u in sweep.units[:2])
    looks = []

    def meanwhile(seconds):
        looks.append(sweep.status())
        if len(looks) == 1:  # the other process finishes one unit and gives the other one up
            sweep.folder.keep(first, {"run.json": b"theirs"})
        other.release(first)
        other.release(second)

    with other:
        assert other.claim(first)
        assert other.claim(second)
        monkeypatch.setattr(time, "sleep", meanwhile)
        sweep.run()
        monkeypatch.undo()
    assert (looks[0].finished, looks[0].running) == (16, 2)
    assert looks[0].seconds_left is not None
    assert (sweep.folder.units / first / "run.json").read_bytes() == b"theirs"
    assert sweep.status().complete


def test_a_claim_given_back_between_two_looks(monkeypatch):
    sweep = plan()
    sweep.folder.make()
    name = sweep.units[0].name
    real = Locks.claim

    def claim(self, wanted):
        if wanted == name and not (sweep.folder.units / name).exists():
            sweep.folder.keep(name, {"run.json": b"theirs"})
        return real(self, wanted)

    monkeypatch.setattr(Locks, "claim", claim)
    sweep.run()
    assert (sweep.folder.units / name / "run.json").read_bytes() == b"theirs"
    assert sweep.status().running == 0


def test_progress_is_plain_where_there_is_no_terminal(capsys):
    plan(work.fragile, progress=True).run()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "sweep s:   0 % (0 of 18)"
    assert lines[-1] == "sweep s: 100 % (18 of 18, 6 failed)"
    assert any("left" in line for line in lines)


def test_progress_on_a_terminal(monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with progress.Progress("sweep", 4, 1, show=True) as bar:
        bar.update(2, 1)
        task = bar._bar.tasks[0]
        assert (task.completed, task.total) == (2, 4)
        assert task.description.startswith("1 failed, ")


def test_export_to_zarr_is_the_tree(tmp_path):
    pytest.importorskip("zarr", reason="the extra `export` is not installed")
    for number, sweep in enumerate(
        (plan(), plan(work.fragile, "f"), plan(work.ragged, "r", grid={"width": [2, 3]}, seeds=3))
    ):
        sweep.run()
        path = sweep.export(tmp_path / f"{number}.zarr")
        with xarray.open_datatree(path, engine="zarr", consolidated=False) as read:
            for node in sweep.read().subtree:
                xarray.testing.assert_identical(
                    read[node.path].to_dataset(inherit=False).load(), node.to_dataset(inherit=False).load()
                )
    with pytest.raises(InputError, match=r"0\.zarr exists"):
        plan().export(tmp_path / "0.zarr")


def test_export_to_parquet_holds_the_same_numbers(tmp_path):
    pytest.importorskip("pyarrow", reason="the extra `export` is not installed")
    import pyarrow.parquet

    sweep = plan(work.fragile)
    sweep.run()
    path = sweep.export(tmp_path / "x.parquet")
    assert sorted(os.listdir(path)) == [
        "metrics.parquet",
        "record.parquet",
        "seed.parquet",
        "seed_step.parquet",
    ]
    rows = pyarrow.parquet.read_table(path / "seed_step.parquet").to_pylist()
    assert len(rows) == 4 * 5 * 3
    tree = sweep.read().to_dataset().load()
    for row in rows:
        wanted = tree["path"].sel(a=row["a"], b=row["b"], seed=row["seed"]).isel(step=row["step"])
        assert row["path"] == wanted
    assert {r["count"] for r in pyarrow.parquet.read_table(path / "seed.parquet").to_pylist()} == set(
        range(5)
    )
    assert len(pyarrow.parquet.read_table(path / "metrics.parquet")) == 4 * 5


def test_duckdb_reads_the_tables(tmp_path):
    duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed")
    sweep = plan()
    sweep.run()
    path = sweep.export(tmp_path / "x.parquet")
    found = duckdb.sql(
        f"select a, avg(value) from '{path}/seed.parquet' where b = 'x' group by a order by a"
    ).fetchall()
    assert found == [(1, 102.0), (2, 202.0), (3, 302.0)]


def test_settings_of_many_kinds_in_tables(tmp_path):
    pytest.importorskip("pyarrow", reason="the extra `export` is not installed")
    import pyarrow.parquet

    configs = [
        {"a": 1, "flag": True, "mixed": 1, "x": 1},
        {"a": 2, "flag": False, "mixed": "y", "x": 0.5},
        {"a": 3},
    ]
    sweep = plan(grid=None, configs=configs, seeds=1)
    sweep.run()
    rows = pyarrow.parquet.read_table(sweep.export(tmp_path / "x.parquet") / "seed.parquet").to_pylist()
    assert [(r["a"], r["flag"], r["mixed"], r["x"]) for r in rows] == [
        (1, True, "1", 1.0),
        (2, False, '"y"', 0.5),
        (3, None, None, None),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"executor": "cloud"}, "executor is 'cloud'; it must be one of local, slurm, ray"),
        ({"workers": -1}, "workers is -1; it must be a whole number, 0 or more"),
        ({"workers": 1.5}, "workers is 1.5"),
        ({"version": 2}, "version is 2; it must be a word"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        plan(**options)


def test_folders_that_are_not_right():
    with pytest.raises(InputError, match=r"nowhere holds no sweep\.json"):
        sweeps.load("nowhere")
    sweep = plan()
    with pytest.raises(InputError, match=r"ends in '\.csv'; name it"):
        sweep.export("x.csv")
    with pytest.raises(InputError, match=r"No unit of .* is finished: there is nothing to export"):
        sweep.export("x.parquet")
    sweep.run()
    with pytest.raises(
        InputError, match=r"holds a sweep of .*:simple, not of .*:ragged\. Use another folder"
    ):
        plan(work.ragged)
    (sweep.folder.path / "sweep.json").write_text('{"format": 99}')
    with pytest.raises(InputError, match="has format 99"):
        sweeps.load("s")
    (sweep.folder.path / "sweep.json").write_text("{")
    with pytest.raises(InputError, match="is no JSON"):
        sweeps.load("s")


def test_missing_extras_are_named(monkeypatch):
    sweep = plan()
    sweep.run()
    for module, act in {
        "xarray": sweep.read,
        "pyarrow": lambda: sweep.export("x.parquet"),
        "zarr": lambda: sweep.export("x.zarr"),
    }.items():
        with monkeypatch.context() as patch:
            patch.setitem(__import__("sys").modules, module, None)
            with pytest.raises(gt.errors.GeartrainError, match=r"not installed: pip install 'geartrain\["):
                act()


def test_gt_sweep_is_the_function_whatever_was_imported_first():
    from geartrain.sweeps import _sweep

    assert gt.sweep is _sweep.sweep is gt.sweeps.sweep

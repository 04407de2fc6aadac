"""Processes of this machine; Ray and submitit where they are installed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tests.sweeps import work

import geartrain as gt
from geartrain import sweeps
from geartrain.errors import GeartrainError
from geartrain.sweeps.executors import local, slurm
from geartrain.sweeps.reference import reference

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}


def plan(folder, function=work.simple, **options):
    options = {"workers": 2, "grid": {"a": [1, 2, 3]}, "seeds": 4, "block": 2, "progress": False, **options}
    return gt.sweep(function, folder=folder, **options)


def files(sweep):
    return {
        str(p.relative_to(sweep.folder.path)): p.read_bytes()
        for p in sweep.folder.units.rglob("*")
        if p.is_file()
    }


@pytest.fixture
def truth(tmp_path):
    whole = plan(tmp_path / "truth", workers=0)
    whole.run()
    return files(whole)


def test_processes_give_the_same_bytes(tmp_path, truth):
    sweep = plan(tmp_path / "s")
    assert sweep.run().complete
    assert files(sweep) == truth
    assert plan(tmp_path / "s").run().complete


def test_one_thread_each_and_not_this_process(tmp_path):
    sweep = plan(tmp_path / "s", work.threads)
    before = dict(os.environ)
    sweep.run()
    assert dict(os.environ) == before
    tree = sweep.read()
    assert (tree["threads"] == 1).all()
    assert os.getpid() not in tree["pid"].values


def test_the_environment_is_restored_where_it_was_empty(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with local._one_thread():
        assert os.environ["OMP_NUM_THREADS"] == "1"
    assert "OMP_NUM_THREADS" not in os.environ


def test_a_process_that_dies_takes_one_unit_with_it(tmp_path):
    sweep = plan(tmp_path / "s", work.deadly)
    assert str(sweep.run()) == "4 of 6 units finished, 2 failed"
    for failure in sweep.failures:
        assert failure.config == {"a": 2}
        assert failure.error == "WorkerDied"
        assert "signal SIGKILL). The system kills processes that take too much memory" in failure.message


def test_processes_that_do_not_start(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "_work", sys.exit)
    with pytest.raises(GeartrainError, match=r"do not start \(exit code 1\).*if __name__ == "):
        local.Local(1).start(reference(work.simple))


def start(folder, *, sign="began"):
    command = [sys.executable, "-m", "geartrain.cli", "sweep", "resume", str(folder)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=folder.parent, env=ENVIRONMENT, start_new_session=True, **pipes)
    until = time.monotonic() + 60
    while not (folder.parent / sign).exists() and time.monotonic() < until:
        time.sleep(0.02)
    return process


def children(pid):
    found = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True
    ).stdout.split()
    return [int(p) for p in found if "spawn_main" in Path(f"/proc/{p}/cmdline").read_text()]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_stopped_from_outside(tmp_path, how):
    if not Path("/proc/self/stat").exists():
        pytest.skip("processes are looked up in /proc, which is not there")
    sweep = plan(tmp_path / "s", work.slow)
    sweep.folder.make()
    sweep.folder.write_spec(sweep._described())
    process = start(tmp_path / "s")
    workers = children(process.pid)
    assert len(workers) == 2
    assert sweep.status().running >= 1
    (os.killpg if how is signal.SIGINT else os.kill)(process.pid, how)
    _, said = process.communicate(timeout=20)
    if how is signal.SIGINT:
        assert process.returncode == 1
        assert "stopped; 0 of 6 units finished, 6 waiting. Go on with: geartrain sweep resume" in said
        assert not list(sweep.folder.locks.glob("*.lock"))
    assert sweep.status().running == 0
    until = time.monotonic() + 10
    while any(Path(f"/proc/{w}").exists() for w in workers) and time.monotonic() < until:
        time.sleep(0.02)
    assert not any(Path(f"/proc/{w}").exists() for w in workers)


def test_jobs_through_submitit(tmp_path, truth):
    pytest.importorskip("submitit", reason="the extra `slurm` is not installed")
    options = {"cluster": "local", "timeout_min": 2, "workers": 0}
    sweep = plan(tmp_path / "s", executor="slurm", workers=2, executor_options=options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", ENVIRONMENT["PYTHONPATH"])
        assert sweep.run().complete
    assert files(sweep) == truth
    assert sweep.run().complete


class Job:
    """A job made up."""

    job_id = "17"
    paths = SimpleNamespace(stderr="17.err")

    def __init__(self, error=None, *, done=True):
        self.error, self.ended, self.cancelled = error, done, False

    def done(self):
        return self.ended

    def exception(self):
        return self.error

    def cancel(self, *, check):
        self.cancelled = True


@pytest.mark.parametrize(
    ("jobs", "message"),
    [
        (
            [Job(), Job(RuntimeError("Traceback\n...\nno graphics card\n"))],
            r"All 2 jobs .* Job 17: no graphics card\. See 17",
        ),
        ([Job()], r"All 1 jobs ended before the sweep did\. See .*jobs"),
    ],
)
def test_jobs_that_end_too_early(tmp_path, jobs, message):
    pilots = slurm.Pilots(tmp_path, len(jobs), {})
    pilots._submitted = jobs
    with pytest.raises(GeartrainError, match=message):
        pilots.wait(lambda: False)
    looks = iter([False, True])
    pilots.wait(lambda: next(looks))  # the last one settled the last unit between two looks


def test_jobs_are_cancelled_when_the_sweep_is_stopped(tmp_path):
    pilots = slurm.Pilots(tmp_path, 2, {})
    pilots._submitted = [Job(done=False), Job()]
    pilots.stop()
    assert [j.cancelled for j in pilots._submitted] == [True, False]


def test_no_slurm_here(tmp_path):
    submitit = pytest.importorskip("submitit", reason="the extra `slurm` is not installed")
    if submitit.SlurmExecutor.affinity() > 0:
        pytest.skip("there is a Slurm here")
    with pytest.raises(GeartrainError, match=r"There is no Slurm here.*'cluster': 'local'"):
        plan(tmp_path / "s", executor="slurm").run()


@pytest.mark.parametrize(
    ("executor", "module", "name"), [("ray", "ray", "Ray"), ("slurm", "submitit", "submitit")]
)
def test_missing_extras_are_named(tmp_path, monkeypatch, executor, module, name):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        GeartrainError, match=rf"{name} is not installed: pip install 'geartrain\[{executor}\]'"
    ):
        plan(tmp_path / "s", executor=executor).run()


def test_tasks_of_ray(tmp_path):
    """With a Ray made up of lists: what is asked of it, and what an error becomes. evidence/sweep runs the real one."""
    calls = []

    class RayError(Exception): ...

    class Made:
        exceptions = type("exceptions", (), {"RayError": RayError})

        @staticmethod
        def is_initialized():
            return False

        @staticmethod
        def init(**options):
            calls.append(("init", options))

        @staticmethod
        def remote(function):
            class Task:
                @staticmethod
                def options(**options):
                    calls.append(("options", options))
                    return Task

                @staticmethod
                def remote(reference, unit):
                    key = f"task {unit.name} {unit.config['a']}"
                    results[key] = function(reference, unit)
                    return key

            return Task

        @staticmethod
        def cluster_resources():
            return {"CPU": 3.0}

        @staticmethod
        def wait(references, num_returns, timeout):
            return references[:1], references[1:]

        @staticmethod
        def get(key):
            if key.endswith("2"):
                raise RayError("the node died four times")
            return results[key]

        @staticmethod
        def shutdown():
            calls.append(("shutdown", {}))

    results = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "ray", Made)
        patch.delenv("RAY_ADDRESS", raising=False)
        sweep = plan(
            tmp_path / "s", executor="ray", workers=None, executor_options={"num_gpus": 1, "address": "x:1"}
        )
        assert str(sweep.run()) == "4 of 6 units finished, 2 failed"
    assert [f.message for f in sweep.failures] == ["the node died four times"] * 2
    (_, started), (_, options), (last, _) = calls
    assert started["address"] == "x:1"
    assert "num_cpus" not in started
    assert (options["num_gpus"], options["num_cpus"], options["max_retries"], last) == (1, 1, 3, "shutdown")
    assert np.isfinite(sweep.read()["value"].sel(a=[1, 3])).all()
    assert sweeps.load(tmp_path / "s").executor == "ray"

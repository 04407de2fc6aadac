"""Kills, full disks, rivals and dead nodes: what a sweep survives. ``python evidence/sweep/run.py [NAME ...]``.

Every trial ends in the same comparison: each file of each finished unit, byte for byte, against an uninterrupted sweep.
Writes ``verdicts.json`` and ``verdicts.md`` beside this file. About six minutes on one core; the parts that need Ray or
submitit say so where it is missing. Mounting a small disk needs root; where that is not permitted, the writer's files
are limited in size instead.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import platform
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import toy  # noqa: E402

import geartrain as gt  # noqa: E402
from geartrain import sweeps  # noqa: E402

KILLS = 20


def plan(
    folder: Path, *, conditions: int = 40, blocks: int = 10, block: int = 20, **options: Any
) -> sweeps.Sweep:
    grid = {"lr": [0.5, 1.0], "condition": [round(1.5 ** (1 + i / 8), 6) for i in range(conditions // 2)]}
    options = {"workers": 2, "progress": False, **options}
    return gt.sweep(toy.descend, grid=grid, seeds=blocks * block, block=block, folder=folder, **options)


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted((folder / "units").rglob("*"))
        if p.is_file()
    }


def compare(folder: Path, truth: dict[str, bytes]) -> dict[str, int]:
    """How many finished units there are, how many differ from the uninterrupted sweep's, how many are incomplete."""
    found = files(folder)
    units = {name.split("/")[1] for name in found} | {p.name for p in (folder / "units").glob("*")}
    wanted = {n: [k for k in truth if k.split("/")[1] == n] for n in units}
    return {
        "finished": len(units),
        "different": sum(any(found.get(k) not in {None, truth[k]} for k in keys) for keys in wanted.values()),
        "incomplete": sum(any(k not in found for k in keys) or not keys for keys in wanted.values()),
        "missing": len({k.split("/")[1] for k in truth} - units),
    }


def exact(result: dict[str, int], *, complete: bool = True) -> bool:
    return not (result["different"] or result["incomplete"] or (complete and result["missing"]))


@contextlib.contextmanager
def started(folder: Path, journal: Path, pause: float, **settings: Any) -> Iterator[subprocess.Popen[str]]:
    """``geartrain sweep resume FOLDER`` as a process of its own, in a group of its own."""
    environment = {
        **os.environ,
        "SWEEP_JOURNAL": str(journal),
        "SWEEP_PAUSE": str(pause),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "geartrain.cli", "sweep", "resume", str(folder)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=environment, start_new_session=True, **pipes, **settings)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def prepare(folder: Path, **options: Any) -> sweeps.Sweep:
    """A folder that says what to do, in which nothing has been done."""
    sweep = plan(folder, **options)
    sweep.folder.make()
    sweep.folder.write_spec(sweep._described())
    return sweep


def kills(work: Path) -> dict[str, Any]:
    """Kill -9 at 20 random moments: the driver alone, or with its workers."""
    plan(work / "truth", conditions=60).run()
    truth = files(work / "truth")
    sweep, journal, rng = prepare(work / "killed", conditions=60), work / "journal", random.Random(0)
    trials, again = [], 0
    for trial in range(KILLS):
        before, began = sweep.folder.finished(), len(toy.journal(journal))
        moment, everybody, starting = rng.uniform(0.0, 1.0), trial % 2 == 1, trial % 5 == 4
        with started(sweep.folder.path, journal, 0.1) as process:
            while not starting and len(toy.journal(journal)) == began:  # most of them once it is at work
                time.sleep(0.005)
            time.sleep(moment)
            running = process.poll() is None
            (os.killpg if everybody else os.kill)(process.pid, signal.SIGKILL)
            process.wait()
            result = compare(sweep.folder.path, truth)
        keys = {f"{sorted(u.config.items())} {u.seeds[0]}" for u in sweep.units if u.name in before}
        again += sum(line in keys for line in toy.journal(journal)[began:])
        trials.append(
            {
                "second": round(moment, 2),
                "of": "start" if starting else "work",
                "killed": "all" if everybody else "driver",
                "running": running,
                **result,
            }
        )
    with started(sweep.folder.path, journal, 0) as process:
        said = process.communicate(timeout=120)[0]
    result = compare(sweep.folder.path, truth)
    count = Counter(toy.journal(journal))
    return {
        "right": exact(result)
        and again == 0
        and all(exact(t, complete=False) and t["running"] for t in trials),
        "words": f"{KILLS} kills, {result['finished']} of {len(sweep.units)} units in the end, {result['different']} different, "
        f"{result['incomplete']} half-written at any of the kills or in the end; finished units begun again: {again}; "
        f"units begun twice because a kill cut them off: {sum(n > 1 for n in count.values())}",
        "trials": trials,
        "end": result,
        "said": said.strip().replace(str(work), ""),
    }


def full(work: Path) -> dict[str, Any]:
    """A disk without room, or without room for more files, or a limit on the size of files; then room, and on."""
    plan(work / "truth").run()
    truth = files(work / "truth")
    trials = {}
    for name, options in {
        "disk of 300 kB": "size=300k",
        "disk of 1 MB": "size=1m",
        "200 files": "size=64m,nr_inodes=200",
    }.items():
        with mounted(work / "disk", options) as permitted:
            trials[name] = (
                full_trial(work / "disk" / "sweep", truth, work / "disk")
                if permitted
                else {"right": False, "words": "mounting is not permitted here"}
            )
    trials["files of 6 kB at most (the log meets it)"] = full_trial(work / "limited", truth, None)
    done = {k: t for k, t in trials.items() if t["words"] != "mounting is not permitted here"}
    return {
        "right": all(t["right"] for t in done.values()),
        "words": "; ".join(f"{k}: {t['words']}" for k, t in trials.items()),
        "trials": trials,
    }


def full_trial(folder: Path, truth: dict[str, bytes], disk: Path | None) -> dict[str, Any]:
    prepare(folder)
    limited = {} if disk else {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))}
    with started(folder, Path(os.devnull), 0, **limited) as process:
        _, said = process.communicate(timeout=120)
    stopped = compare(folder, truth)
    left = sum(1 for p in (folder / "partial").iterdir()) + sum(1 for p in (folder / "locks").glob("*.lock"))
    if disk:
        subprocess.run(["mount", "-o", "remount,size=256m,nr_inodes=100000", str(disk)], check=True)
    with started(folder, Path(os.devnull), 0) as again:
        again.communicate(timeout=120)
    result = compare(folder, truth)
    clear = process.returncode == 1 and "No room to write" in said and "geartrain sweep resume" in said
    return {
        "right": clear
        and exact(stopped, complete=False)
        and stopped["missing"] > 0
        and exact(result)
        and left == 0,
        "words": f"stopped after {stopped['finished']} units {'with' if clear else 'WITHOUT'} a clear message, {result['finished']} after resuming, "
        f"{stopped['different'] + result['different']} different, {stopped['incomplete'] + result['incomplete']} half-written",
        "said": said.strip().splitlines()[-1].replace(str(folder), "FOLDER"),
        "stopped": stopped,
        "end": result,
    }


@contextlib.contextmanager
def mounted(place: Path, options: str) -> Iterator[bool]:
    place.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(place)], capture_output=True)
    try:
        yield done.returncode == 0
    finally:
        if done.returncode == 0:
            subprocess.run(["umount", str(place)], check=True)


def rivals(work: Path) -> dict[str, Any]:
    """Two processes on one folder; then two of which one is killed."""
    plan(work / "truth").run()
    truth = files(work / "truth")
    trials = []
    for trial in range(4):
        kill, journal = trial >= 2, work / f"journal{trial}"
        sweep = prepare(work / f"shared{trial}")
        with (
            started(sweep.folder.path, journal, 0.01) as one,
            started(sweep.folder.path, journal, 0.01) as two,
        ):
            if kill:
                await_units(sweep.folder.path / "logs", one.pid, 20)
                os.killpg(one.pid, signal.SIGKILL)
            two.communicate(timeout=120)
            one.communicate(timeout=120)
        logs = [len(p.read_text().splitlines()) for p in sorted((sweep.folder.path / "logs").iterdir())]
        result, count = compare(sweep.folder.path, truth), Counter(toy.journal(journal))
        # What the killed one had begun (two workers) has to be begun again, and nothing else.
        twice = sum(n > 1 for n in count.values())
        right = exact(result) and len(count) == len(sweep.units) and twice <= (2 if kill else 0)
        trials.append(
            {"right": right, "one killed": kill, "units of each": logs, "begun twice": twice, **result}
        )
    return {
        "right": all(t["right"] for t in trials),
        "words": "; ".join(
            f"{'one killed' if t['one killed'] else 'both alive'}: units {' + '.join(map(str, t['units of each']))}, "
            f"{t['begun twice']} begun twice, {t['different']} different"
            for t in trials
        ),
        "trials": trials,
    }


def await_units(logs: Path, pid: int, number: int) -> None:
    """Until that process has settled so many units."""
    while sum(len(p.read_text().splitlines()) for p in logs.glob(f"*-{pid}.jsonl")) < number:
        time.sleep(0.01)


def large(work: Path) -> dict[str, Any]:
    """5,000 units of 100 seeds: memory, status, reading back, export."""
    sweep = plan(work / "large", conditions=100, blocks=50, block=100)
    memory = []
    keep = type(sweep.folder).keep

    def watched(self: Any, name: str, contents: Any) -> None:
        keep(self, name, contents)
        memory.append(resident())

    started_at = time.perf_counter()
    type(sweep.folder).keep = watched
    try:
        sweep.run()
    finally:
        type(sweep.folder).keep = keep
    ran = time.perf_counter() - started_at
    seconds = {"run": ran}
    for name, act in {
        "status": sweep.status,
        "open": sweep.read,
        "read all losses": lambda: sweep.read()["loss"].mean("seed").load(),
        "one configuration": lambda: sweep.read()["loss"].isel(lr=0, condition=3).load(),
        "export to parquet": lambda: sweep.export(work / "large.parquet"),
        "export to zarr": lambda: sweep.export(work / "large.zarr"),
    }.items():
        seconds[name] = timed(act)
    command = [sys.executable, "-m", "geartrain.cli", "sweep", "status", str(sweep.folder.path)]
    tries = [timed(lambda: subprocess.run(command, check=True, capture_output=True)) for _ in range(3)]
    seconds["geartrain sweep status"] = min(tries)
    early, late = max(memory[400:600]), max(memory[-200:])
    status = sweep.status()
    right = (
        status.complete and late - early < 8 and max(seconds["status"], seconds["geartrain sweep status"]) < 1
    )
    return {
        "right": right and seconds["read all losses"] < 10,
        "words": f"{status}; the driver holds {early:.0f} MB after 500 units and {late:.0f} MB after {len(memory)}; seconds (command line: best of 3): "
        + ", ".join(f"{k} {v:.2f}" for k, v in seconds.items()),
        "seconds": {k: round(v, 2) for k, v in seconds.items()},
        "megabytes": {"after 500": round(early, 1), "at the end": round(late, 1)},
    }


def resident() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def timed(act: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    act()
    return time.perf_counter() - begun


def ray(work: Path) -> dict[str, Any]:
    """Two nodes over loopback; then again with one of them killed in mid-sweep."""
    if importlib.util.find_spec("ray") is None:
        return {"right": None, "words": "Ray is not installed"}
    plan(work / "truth", conditions=20).run()
    truth = files(work / "truth")
    trials = {}
    for name, kill in {"both nodes live": False, "one node killed": True}.items():
        done = subprocess.run(
            [sys.executable, __file__, "--ray", str(work / name.replace(" ", "-")), str(int(kill))],
            capture_output=True,
            text=True,
            timeout=170,
            env={
                **os.environ,
                "SWEEP_PAUSE": "0.1",
                "PYTHONPATH": f"{HERE}:{os.environ.get('PYTHONPATH', '')}",
            },
        )
        if done.returncode:
            return {"right": False, "words": (done.stderr.strip().splitlines() or ["no words"])[-1]}
        trials[name] = {
            **json.loads(done.stdout.splitlines()[-1]),
            **compare(work / name.replace(" ", "-"), truth),
        }
    right = all(exact(t) for t in trials.values()) and trials["one node killed"]["nodes in the end"] == 1
    return {
        "right": right and trials["both nodes live"]["nodes in the end"] == 2,
        "words": "; ".join(
            f"{k}: {t['finished']} units, {t['different']} different from the local sweep's, {t['seconds']} s"
            for k, t in trials.items()
        ),
        "trials": trials,
    }


def ray_trial(folder: Path, *, kill: bool) -> None:
    import threading

    import ray as library
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    cluster.add_node(num_cpus=1, node_ip_address="127.0.0.2", include_dashboard=False)
    second = cluster.add_node(num_cpus=1, node_ip_address="127.0.0.2", include_dashboard=False)
    library.init(address=cluster.address, log_to_driver=False, configure_logging=False)
    nodes = [n["NodeID"] for n in library.nodes() if n["Alive"]]
    sweep = plan(folder, conditions=20, executor="ray", workers=4)
    state = {"killed after": None}

    def killer() -> None:
        while len(sweep.folder.finished()) < 60:
            time.sleep(0.05)
        state["killed after"] = len(sweep.folder.finished())
        cluster.remove_node(second, allow_graceful=False)

    if kill:
        threading.Thread(target=killer, daemon=True).start()
    begun = time.perf_counter()
    sweep.run()
    seconds = round(time.perf_counter() - begun, 1)
    time.sleep(1)
    alive = sum(n["Alive"] for n in library.nodes())
    print(
        json.dumps({"nodes": len(nodes), "nodes in the end": alive, "seconds": seconds, **state}), flush=True
    )
    library.shutdown()
    cluster.shutdown()


def slurm(work: Path) -> dict[str, Any]:
    """Two jobs through submitit's local executor."""
    if importlib.util.find_spec("submitit") is None:
        return {"right": None, "words": "submitit is not installed"}
    plan(work / "truth").run()
    truth, journal = files(work / "truth"), work / "journal"
    os.environ["SWEEP_JOURNAL"], os.environ["SWEEP_PAUSE"] = str(journal), "0.01"
    try:
        options = {"cluster": "local", "timeout_min": 5}
        sweep = plan(work / "jobs", executor="slurm", workers=2, executor_options=options)
        seconds = timed(sweep.run)
    finally:
        del os.environ["SWEEP_JOURNAL"], os.environ["SWEEP_PAUSE"]
    logs = [len(p.read_text().splitlines()) for p in sorted((work / "jobs" / "logs").iterdir())]
    result, count = compare(work / "jobs", truth), Counter(toy.journal(journal))
    return {
        "right": exact(result) and max(count.values()) == 1 and len(logs) == 2,
        "words": f"two jobs: units {' + '.join(map(str, logs))}, {result['different']} different, none begun twice, {seconds:.0f} s",
        "end": result,
    }


PARTS = {"kills": kills, "full": full, "rivals": rivals, "large": large, "ray": ray, "slurm": slurm}
TITLES = {
    "kills": "Kill -9 at 20 random moments",
    "full": "The disk is full",
    "rivals": "Two processes on one folder",
    "large": "5,000 units of 100 seeds",
    "ray": "Ray on two nodes",
    "slurm": "Jobs through submitit (local executor)",
}


def main(names: list[str]) -> int:
    path = HERE / "verdicts.json"
    verdicts = json.loads(path.read_text()) if path.exists() else {}
    for name in names or list(PARTS):
        work = Path(tempfile.mkdtemp(prefix=f"geartrain-sweep-{name}-"))
        try:
            verdicts[name] = PARTS[name](work)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        sys.stderr.write(f"{name}: {verdicts[name]['right']}: {verdicts[name]['words']}\n")
    versions = {"python": platform.python_version(), "geartrain": gt.__version__}
    verdicts = {"versions": versions, **{k: verdicts[k] for k in PARTS if k in verdicts}}
    path.write_text(json.dumps(verdicts, indent=1) + "\n")
    lines = [
        "# What a sweep survives",
        "",
        "Made by `python evidence/sweep/run.py`. Every finished unit is compared byte for byte with an uninterrupted sweep's.",
        "",
        "| trial | right | what happened |",
        "|---|---|---|",
    ]
    for name in (n for n in PARTS if n in verdicts):
        mark = {True: "✓", False: "✗", None: "-"}[verdicts[name]["right"]]
        lines.append(f"| {TITLES[name]} | {mark} | {verdicts[name]['words']} |")
    (HERE / "verdicts.md").write_text("\n".join(lines) + "\n")
    return int(any(verdicts[n]["right"] is False for n in PARTS if n in verdicts))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--ray"]:
        ray_trial(Path(sys.argv[2]), kill=sys.argv[3] == "1")
    else:
        raise SystemExit(main(sys.argv[1:]))

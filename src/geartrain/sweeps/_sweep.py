"""`sweep`: one function over many configurations and seeds, on one machine or many, resumable."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geartrain.errors import InputError
from geartrain.store import Locks
from geartrain.sweeps.executors._base import Executor
from geartrain.sweeps.folder import SPEC, Folder
from geartrain.sweeps.grid import Grid, canonical, make_grid, read_seeds
from geartrain.sweeps.progress import Progress, duration
from geartrain.sweeps.reference import Reference, read_reference, reference
from geartrain.sweeps.runner import drive
from geartrain.sweeps.unit import Failure, Unit, units

if TYPE_CHECKING:
    import xarray

    from geartrain.store.collection import Axes, Piece

EXECUTORS = ("local", "slurm", "ray")
_RECENT = 100


def sweep(
    function: Callable[..., Any] | str,
    *,
    folder: str | Path,
    grid: Mapping[str, Iterable[Any]] | None = None,
    configs: Iterable[Mapping[str, Any]] | None = None,
    seeds: int | Iterable[int] = 1,
    block: int = 100,
    version: str = "1",
    executor: str = "local",
    workers: int | None = None,
    executor_options: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Sweep:
    """Plan a sweep; ``.run()`` computes what is missing, ``.read()`` gives what there is.

    The work is cut into *units*: one configuration with one block of seeds. A unit is named by the fingerprint of its
    configuration, its seeds and ``version``; a finished unit is never computed again, so the same call resumes after a
    kill, a full disk or Ctrl-C, and a larger grid or more seeds in the same folder computes only what is new.
    Any number of processes may run the same folder at once, on any machines that share the disk: claims keep them
    apart.

    **Cost** One call of ``function`` for each unit, and some milliseconds to claim and store it: make units of seconds
    to minutes. One unit's result for each worker is held in memory.
    **Assumes** The result depends on ``config`` and ``seeds`` alone. Change ``version`` when the function's code
    changes in a way that matters: geartrain does not look at the code.
    **Misleads** Another ``version`` in the same folder hides the old units from ``read``; they stay on the disk.

    Args:
        function: ``f(config, seeds) -> result``, at the top level of a module or script; or its name as
            ``"module:function"`` or ``"FILE.py:function"``. ``config`` is a dict, ``seeds`` a list. The result is a
            dict of named arrays (one number a seed, ``(axes, array)``, a `Measurement` or a list of one a seed, a
            DataArray), or an xarray Dataset such as ``gt.ensemble.train(...).to_xarray()``; or a pair of that and an
            iterable of dicts, the rows of ``metrics.jsonl``.
        folder: Where the results lie; made if it is missing.
        grid: Values of each setting; every combination is a configuration.
        configs: Or the configurations, one by one.
        seeds: Number of seeds (0, 1, ...), or the seeds.
        block: Seeds in one unit.
        version: Your name for the state of the function's code.
        executor: ``"local"`` (processes of this machine, one thread each), ``"slurm"`` (jobs, through submitit) or
            ``"ray"``.
        workers: Processes, jobs, or tasks at once; by default one for each processor (Slurm: one job). 0 computes in
            this process.
        executor_options: For Slurm see `geartrain.sweeps.executors.slurm`, for Ray `geartrain.sweeps.executors.ray`.
        progress: Show how far it is and the time left on standard error.

    Returns:
        The sweep; nothing has been computed or written yet.

    Raises:
        InputError: The function cannot be found by name, the grid or the seeds make no sense, or the folder holds the
            sweep of another function.

    >>> import tempfile
    >>> from geartrain.sweeps import _example
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     s = sweep(_example.double, grid={"x": [1, 2]}, seeds=4, block=2, folder=folder, workers=0, progress=False)
    ...     print(s.run())
    ...     print(s.read()["y"].sum("seed").values)
    4 of 4 units finished
    [14. 22.]
    """
    if executor not in EXECUTORS:
        raise InputError(f"executor is {executor!r}; it must be one of {', '.join(EXECUTORS)}.")
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 0):
        raise InputError(
            f"workers is {workers!r}; it must be a whole number, 0 or more (0: in this process)."
        )
    if not isinstance(version, str):
        raise InputError(f"version is {version!r}; it must be a word, such as '2'.")
    options = canonical(executor_options or {}, "executor_options")
    made = Sweep(
        folder=Folder(folder),
        function=reference(function),
        grid=make_grid(grid, configs, seeds, block),
        version=version,
        executor=executor,
        workers=workers,
        options=options,
        progress=progress,
    )
    said = made.folder.spec()
    if said is not None and str(read_reference(said["function"])) != str(made.function):
        raise InputError(
            f"{folder} holds a sweep of {read_reference(said['function'])}, not of {made.function}. Use another "
            f'folder; if the function only moved, change "function" in {made.folder.path / SPEC}.'
        )
    return made


def load(folder: str | Path) -> Sweep:
    """The sweep of a folder, as it was last run: nothing else is needed to resume or to read it.

    Raises:
        InputError: The folder holds no sweep, or one of a newer format.
    """
    place = Folder(folder)
    said = place.spec()
    if said is None:
        raise InputError(
            f"{folder} holds no {SPEC}: no sweep was run there. Give the folder of gt.sweep(...)."
        )
    return Sweep(
        folder=place,
        function=read_reference(said["function"]),
        grid=make_grid(said.get("grid"), said.get("configs"), read_seeds(said["seeds"]), said["block"]),
        version=said["version"],
        executor=said["executor"]["name"],
        workers=said["executor"]["workers"],
        options=said["executor"]["options"],
        progress=True,
    )


@dataclass(frozen=True)
class Status:
    """How far a sweep is.

    Attributes:
        total: Number of units.
        finished: Units with a result.
        failed: Units whose function raised an exception or killed its process.
        running: Units that some process computes right now.
        waiting: Units that nobody has begun.
        seconds_left: Estimate from the units finished last; None where nothing runs or too little is known.
    """

    total: int
    finished: int
    failed: int
    running: int
    waiting: int
    seconds_left: float | None = None

    @property
    def complete(self) -> bool:
        """Whether every unit has a result."""
        return self.finished == self.total

    def __str__(self) -> str:
        parts = [
            f"{n} {word}"
            for n, word in ((self.failed, "failed"), (self.running, "running"), (self.waiting, "waiting"))
            if n
        ]
        left = [] if self.seconds_left is None else [f"about {duration(self.seconds_left)} left"]
        return ", ".join([f"{self.finished} of {self.total} units finished", *parts, *left])


@dataclass(frozen=True, eq=False)
class Sweep:
    """A planned, running or finished sweep; made by `sweep` and `load`."""

    folder: Folder
    function: Reference
    grid: Grid
    version: str
    executor: str
    workers: int | None
    options: Mapping[str, Any]
    progress: bool

    def __repr__(self) -> str:
        return f"<sweep of {self.function} in {self.folder.path}: {self.status()}>"

    @property
    def units(self) -> list[Unit]:
        """All units, in the order in which they are begun."""
        return units(self.grid, self.version)

    def run(
        self,
        *,
        executor: str | None = None,
        workers: int | None = None,
        progress: bool | None = None,
        deadline: float | None = None,
    ) -> Status:
        """Compute every unit that is neither finished nor failed; return when all are, whoever computed them.

        Args:
            executor: Another executor for this call.
            workers: Another number of workers for this call.
            progress: Whether to show progress in this call.
            deadline: Moment on the clock of `time.perf_counter` after which no further unit is begun (not for Slurm).

        Raises:
            DiskFullError: There is no room; what was finished is safe, and `run` goes on from there.
            KeyboardInterrupt: Ctrl-C; the same.
        """
        self.folder.make()
        self.folder.write_spec(self._described())
        kind = executor or self.executor
        workers = self.workers if workers is None else workers
        shown = self.progress if progress is None else progress
        title = f"sweep {self.folder.path.name}"
        if kind == "slurm":
            self._run_on_slurm(workers or 1, title, shown)
        else:
            drive(
                self.folder,
                self.function,
                self.units,
                self._executor(kind, workers),
                progress=shown,
                title=title,
                deadline=deadline,
            )
        return self.status()

    def retry(self, **options: Any) -> Status:
        """Forget the failures and `run` again; takes what `run` takes."""
        for failure in self.failures:
            self.folder.forget_failure(failure.unit)
        return self.run(**options)

    def status(self) -> Status:
        """How far it is, from the folder alone; takes well under a second for thousands of units."""
        names = {u.name for u in self.units}
        finished = self.folder.finished() & names
        failed = (self.folder.without_result() & names) - finished
        locks = Locks(self.folder.locks)
        running = [n for n in (locks.names() & names) - finished - failed if not locks.stale(n)]
        waiting = len(names) - len(finished) - len(failed) - len(running)
        left = self._seconds_left(len(running) + waiting) if running else None
        return Status(len(names), len(finished), len(failed), len(running), waiting, left)

    @property
    def failures(self) -> list[Failure]:
        """The units without a result, each with its settings, seeds and traceback."""
        found = (self.folder.failure(u.name) for u in self.units)
        return [f for f in found if f is not None]

    def read(self) -> xarray.DataTree:
        """What is finished, as one labelled tree (extra ``xarray``); numbers are read when they are looked at.

        A grid gives one axis for each setting, a list of configurations the axis ``config`` with the settings as
        labels; then ``seed``, then the axes of the result. What has no axis ``seed`` has one value for each ``block``.
        Variables whose axes differ between configurations stand in one node for each configuration. Units that
        are not finished are NaN; the label ``finished`` (settings, block) says which those are.
        """
        from geartrain.store.collection import tree

        axes, pieces = self._collection()
        return tree(axes, pieces)

    def metrics(self) -> Iterator[dict[str, Any]]:
        """Rows of all finished units' ``metrics.jsonl``, with the settings under their names and the ``block``."""
        from geartrain.store import read_metrics

        done = self.folder.finished()
        for unit in self.units:
            if unit.name in done:
                for row in read_metrics(self.folder.units / unit.name):
                    yield {**unit.config, "block": unit.block, **row}

    def export(self, path: str | Path) -> Path:
        """Write what is finished in another format (extra ``export``).

        Args:
            path: ``NAME.zarr`` for a Zarr store with the tree of `read`; ``NAME.parquet`` for a folder of tables in
                long form, one for each set of axes.

        Raises:
            InputError: The name ends otherwise, nothing is finished, or the Zarr store exists.
        """
        path = Path(path)
        if path.suffix not in {".zarr", ".parquet"}:
            raise InputError(f"{path} ends in {path.suffix!r}; name it NAME.zarr or NAME.parquet.")
        axes, pieces = self._collection()
        if not pieces:
            raise InputError(
                f"No unit of {self.folder.path} is finished: there is nothing to export. Run the sweep first."
            )
        if path.suffix == ".zarr":
            from geartrain.store.to_zarr import to_zarr

            return to_zarr(axes, pieces, path)
        from geartrain.store.to_parquet import to_parquet

        to_parquet(axes, pieces, path)
        return path

    def _described(self) -> dict[str, Any]:
        executor = {"name": self.executor, "workers": self.workers, "options": dict(self.options)}
        return {
            "kind": "sweep",
            "function": self.function.described(),
            "version": self.version,
            **self.grid.described(),
            "executor": executor,
        }

    def _executor(self, kind: str, workers: int | None) -> Executor:
        if kind == "ray":
            from geartrain.sweeps.executors.ray import Ray

            return Ray(workers, self.options)
        from geartrain.sweeps.executors.local import Inline, Local

        workers = _processors() if workers is None else workers
        return Inline() if workers == 0 else Local(workers)

    def _run_on_slurm(self, jobs: int, title: str, shown: bool) -> None:
        from geartrain.sweeps.executors.slurm import Pilots

        status = self.status()
        if status.finished + status.failed == status.total:
            return
        self.function.load()
        pilots = Pilots(self.folder.path, jobs, self.options)
        with Progress(title, status.total, status.finished + status.failed, show=shown) as bar:

            def look() -> bool:
                now = self.status()
                bar.update(now.finished + now.failed, now.failed)
                return now.finished + now.failed == now.total

            try:
                pilots.submit()
                pilots.wait(look)
            finally:
                pilots.stop()

    def _seconds_left(self, units_left: int) -> float | None:
        times = self.folder.finish_times()[-_RECENT:]
        if len(times) < 3:
            return None
        # Up to now, not up to the last one: a sweep that hangs is not "nearly done".
        rate = (len(times) - 1) / max(time.time() - times[0], 1e-9)
        return units_left / rate

    def _collection(self) -> tuple[Axes, list[Piece]]:
        from geartrain.store.collection import Axes, Piece, with_headers

        grid, done = self.grid, self.folder.finished()
        pieces, folders = [], {}
        number = {id(c): i for i, c in enumerate(grid.configs)}
        labels = [_label(grid, i) for i in range(len(grid.configs))]
        for unit in self.units:
            config, start = number[id(unit.config)], unit.block * grid.block
            if unit.name in done:
                folders[len(pieces)] = self.folder.units / unit.name
            pieces.append(
                Piece(
                    grid.place(config),
                    labels[config],
                    start,
                    start + len(unit.seeds),
                    unit.block,
                    unit.config,
                )
            )
        outer = (
            {"config": len(grid.configs)} if grid.axes is None else {k: len(v) for k, v in grid.axes.items()}
        )
        axes = Axes(outer, _axis_labels(grid), np.asarray(list(grid.seeds)), grid.blocks)
        return axes, with_headers(pieces, folders)


def _label(grid: Grid, config: int) -> str:
    if grid.axes is None:
        return f"config={config}"
    return ",".join(f"{k}={grid.configs[config][k]}" for k in grid.axes) or "config=0"


def _axis_labels(grid: Grid) -> dict[str, tuple[str, np.ndarray]]:
    if grid.axes is not None:
        return {name: (name, _labels(values)) for name, values in grid.axes.items()}
    names = sorted({name for c in grid.configs for name in c})
    found = {name: ("config", _labels([c.get(name) for c in grid.configs])) for name in names}
    return {"config": ("config", np.arange(len(grid.configs))), **found}


def _labels(values: list[Any]) -> np.ndarray:
    """Numbers, truth values or words as they are; None beside numbers as NaN; anything else as JSON text."""
    import json

    kinds = {type(v) for v in values}
    if len(kinds) == 1 and kinds <= {bool, str, int}:
        return np.array(values)
    if kinds <= {int, float, type(None)} and kinds != {type(None)}:
        return np.array([np.nan if v is None else v for v in values], dtype=float)
    return np.array([v if isinstance(v, str) else json.dumps(v) for v in values])


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

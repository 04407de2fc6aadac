"""Processes of this machine, each with one thread; or, with no worker at all, this very process."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

from geartrain.errors import GeartrainError
from geartrain.sweeps.executors._base import Outcome, compute_named
from geartrain.sweeps.reference import Reference
from geartrain.sweeps.unit import Failure, Unit, compute

_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_READY = "ready"
_PATIENCE = 5.0


class Inline:
    """Computes in this process, one unit after another: for debugging, and where processes cannot be started."""

    def __init__(self) -> None:
        self.slots = 1
        self._function: Callable[..., Any] | None = None
        self._unit: Unit | None = None

    def start(self, function: Reference) -> None:
        """Find the function."""
        self._function = function.load()

    def submit(self, unit: Unit) -> None:
        """Remember the unit; `wait` computes it."""
        self._unit = unit

    def wait(self, seconds: float) -> list[tuple[Unit, Outcome]]:
        """Compute the unit."""
        unit, self._unit = self._unit, None
        assert unit is not None
        assert self._function is not None
        return [(unit, compute(self._function, unit))]

    def stop(self) -> None:
        """Nothing to free."""
        self._unit = None


class Local:
    """Spawned processes. One that dies takes its unit's result with it, not the sweep: another takes its place.

    Args:
        workers: How many processes.
    """

    def __init__(self, workers: int) -> None:
        self.slots = workers
        self._function: Reference | None = None
        self._workers: list[_Worker] = []

    def start(self, function: Reference) -> None:
        """Start the processes and wait until one of them answers."""
        function.load()  # what is wrong with it is said here, not in every worker
        self._function = function
        self._workers = [_Worker(function) for _ in range(self.slots)]
        self._workers[0].await_ready()

    def submit(self, unit: Unit) -> None:
        """Hand the unit to a process that has none."""
        worker = next(w for w in self._workers if w.unit is None)
        worker.unit = unit
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # dead: `wait` will say so
            worker.pipe.send(unit)

    def wait(self, seconds: float) -> list[tuple[Unit, Outcome]]:
        """Results, and the units of processes that died."""
        busy = [w for w in self._workers if w.unit is not None]
        signs = {w.pipe: w for w in busy} | {w.process.sentinel: w for w in busy}
        back: list[tuple[Unit, Outcome]] = []
        for worker in {id(w): w for w in map(signs.__getitem__, _first(list(signs), seconds))}.values():
            outcome = worker.outcome()
            if outcome is None:
                continue
            assert worker.unit is not None
            back.append((worker.unit, outcome))
            worker.unit = None
            if not worker.alive:
                worker.stop()
                assert self._function is not None
                self._workers[self._workers.index(worker)] = _Worker(self._function)
        return back

    def stop(self) -> None:
        """End all processes."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.stop()
        self._workers = []


def _first(signs: list[Any], seconds: float) -> list[Any]:
    return multiprocessing.connection.wait(signs, seconds)


class _Worker:
    """One process and the pipe to it."""

    def __init__(self, function: Reference) -> None:
        context = multiprocessing.get_context("spawn")
        self.unit: Unit | None = None
        self.alive = True
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, function), daemon=True)
        with _one_thread():
            self.process.start()
        theirs.close()

    def await_ready(self) -> None:
        try:
            if self.pipe.recv() == _READY:
                return
        except EOFError:
            pass
        self.process.join()
        raise GeartrainError(
            f"The worker processes of the sweep do not start (exit code {self.process.exitcode}); what they said "
            'stands above. In a script, put the call under: if __name__ == "__main__":'
        )

    def outcome(self) -> Outcome | None:
        """The result, a failure if the process has died, or None if there is neither yet."""
        try:
            while self.pipe.poll():
                said = self.pipe.recv()
                if not isinstance(said, str):
                    return said
        except (EOFError, ConnectionResetError):
            return self._death()
        return None if self.process.is_alive() else self._death()

    def stop(self) -> None:
        self.process.join(_PATIENCE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.pipe.close()
        self.process.close()

    def _death(self) -> Failure:
        self.alive = False
        self.process.join(_PATIENCE)
        code, unit = self.process.exitcode, self.unit
        assert unit is not None
        how = f"exit code {code}"
        if code is not None and code < 0:
            how = f"signal {signal.Signals(-code).name}"
        hint = " The system kills processes that take too much memory." if code == -9 else ""
        message = f"The process that computed this unit died ({how}).{hint}"
        return Failure(unit.name, unit.config, unit.seeds, "WorkerDied", message, "")


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """What starts in the block computes with one thread: the libraries read this when they are loaded."""
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ.update(dict.fromkeys(_ONE_THREAD, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _work(pipe: Any, function: Reference) -> None:
    """Life of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver decides what Ctrl-C means
    threading.Thread(target=_end_with_parent, daemon=True).start()
    pipe.send(_READY)
    while True:
        try:
            unit = pipe.recv()
        except (EOFError, OSError):
            return
        pipe.send(compute_named(function, unit))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)

"""Claims on pieces of work, as files that any process on any machine of a shared disk can see.

A claim is a file that only one process can create. Its owner writes down who it is and touches the file every few
seconds. A claim is *stale* when its owner is certainly gone: its process no longer exists on this machine, or, for a
process of another machine, the file has not been touched for a minute by this machine's own clock (so clocks need not
agree). Stale claims are taken over by one process only.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from geartrain.store.atomic import clear_when_full

HEARTBEAT = 10.0
PATIENCE = 60.0
_OURS: set[str] = set()  # marks of all claims of this process


class Locks:
    """The claims of one process in one folder.

    Args:
        folder: Where the lock files lie; made if it is missing.
        heartbeat: Seconds between two signs of life.
        patience: Seconds without a sign of life after which a process of another machine counts as gone.
    """

    def __init__(self, folder: Path, *, heartbeat: float = HEARTBEAT, patience: float = PATIENCE) -> None:
        self.folder = folder
        self.heartbeat = heartbeat
        self.patience = patience
        self._held: dict[str, str] = {}
        self._made: set[str] = set()
        self._seen: dict[str, tuple[tuple[str, int], float]] = {}
        self._stop = threading.Event()
        self._beating: threading.Thread | None = None

    def __enter__(self) -> Locks:
        with clear_when_full(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with (
                self._alone()
            ):  # its file exists from here on: giving claims back needs no room on a full disk
                pass
        self._beating = threading.Thread(target=self._beat, daemon=True, name="geartrain-heartbeat")
        self._beating.start()
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._held):
            self.release(name)
        _OURS.difference_update(self._made)
        self._stop.set()
        if self._beating is not None:
            self._beating.join()

    def claim(self, name: str) -> bool:
        """Take the claim of that name; False when somebody else has it and is, for all one can know, alive."""
        if self._create(name):
            return True
        if not self.stale(name):
            return False
        with self._alone():
            # Between the look and the lock somebody else may have taken it over.
            if self.stale(name):
                with contextlib.suppress(FileNotFoundError):
                    self._path(name).unlink()
        return self._create(name)

    def release(self, name: str) -> None:
        """Give a claim back; does nothing where it is not, or no longer, ours."""
        token = self._held.pop(name, None)
        if token is None:
            return
        with self._alone():
            if self._owner(name).get("token") == token:
                self._path(name).unlink()

    def stale(self, name: str) -> bool:
        """Whether the owner of a claim is certainly gone; False where there is no claim."""
        path = self._path(name)
        owner = self._owner(name)
        try:
            touched = path.stat().st_mtime_ns
        except FileNotFoundError:
            return False
        if owner.get("machine") == _machine():
            if owner["pid"] == os.getpid() and owner["token"] not in _OURS:
                return True  # left behind by an interruption between two instructions
            return _started(owner["pid"]) != owner["started"]
        # A file without a word in it is being written, or its writer was killed between two calls.
        sign = (owner.get("token", ""), touched)
        known, since = self._seen.get(name, (None, 0.0))
        if known != sign:
            self._seen[name] = (sign, time.monotonic())
            return False
        return time.monotonic() - since > self.patience

    def names(self) -> set[str]:
        """Names of all claims, stale ones included."""
        with contextlib.suppress(FileNotFoundError):
            return {e.name[: -len(".lock")] for e in os.scandir(self.folder) if e.name.endswith(".lock")}
        return set()

    def _create(self, name: str) -> bool:
        token = uuid.uuid4().hex
        self._made.add(token)
        _OURS.add(token)
        me = {"pid": os.getpid(), "host": socket.gethostname(), "machine": _machine()}
        text = json.dumps({**me, "started": _started(os.getpid()), "token": token})
        with clear_when_full(self.folder):
            try:
                handle = os.open(self._path(name), os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            except FileExistsError:
                return False
            try:
                os.write(handle, text.encode())
            except BaseException:
                self._path(name).unlink()
                raise
            finally:
                os.close(handle)
        self._held[name] = token
        return True

    def _owner(self, name: str) -> dict[str, Any]:
        try:
            said = json.loads(self._path(name).read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        return said if isinstance(said, dict) else {}

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.lock"

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        # Removing a claim needs look and removal in one; creating one does not.
        from filelock import FileLock

        with FileLock(self.folder / ".removal"):
            yield

    def _beat(self) -> None:
        while not self._stop.wait(self.heartbeat):
            for name in list(self._held):
                with contextlib.suppress(OSError):
                    os.utime(self._path(name))


@functools.cache
def _machine() -> str:
    """This boot of this machine, and within it this space of process numbers (containers have their own)."""
    if os.name == "nt":  # no way to ask whether a process lives: only its signs of life count
        return f"{socket.gethostname()} process {os.getpid()}"
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{socket.gethostname()} {uuid.getnode()}"


def _started(pid: int) -> str | None:
    """When a process started, in the system's own units (numbers of processes are used again); None if it is gone."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
    else:
        return None if words[0] in {"Z", "X"} else words[19]
    if os.name == "nt":
        return "running"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "running"

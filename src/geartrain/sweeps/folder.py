"""The folder of a sweep: what lies where, and what it says about how far the sweep is.

``sweep.json`` says what is computed, ``units/NAME/`` holds the record of each finished unit, ``failed/NAME.json`` why
one has no result, ``locks/`` who computes what right now, ``logs/`` when what happened. Only ``units/`` and
``sweep.json`` are needed to read the results; they depend on what was computed and on nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from geartrain.errors import InputError
from geartrain.store import FORMAT, write_file, write_folder
from geartrain.store.atomic import clear_when_full
from geartrain.store.record import check_format
from geartrain.sweeps.grid import read_seeds
from geartrain.sweeps.unit import Failure

SPEC = "sweep.json"
_README = """This folder holds a sweep of geartrain. It can be read without it:

  sweep.json               the function, the settings, the seeds
  units/NAME/run.json      one configuration with a block of seeds; describes the arrays
  units/NAME/arrays.npz    the arrays: numpy.load
  units/NAME/metrics.jsonl one JSON object a line
  failed/NAME.json         units without a result, each with the traceback
  logs/                    when what happened, one JSON object a line

With it: geartrain sweep status|resume|retry FOLDER; geartrain.sweeps.load(FOLDER).read() gives one labelled tree.
"""


class Folder:
    """Paths of a sweep's files and the few things done with them.

    Args:
        path: The folder; need not exist.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self.units = self.path / "units"
        self.failed = self.path / "failed"
        self.locks = self.path / "locks"
        self._partial = self.path / "partial"
        self._logs = self.path / "logs"

    def make(self) -> None:
        """Make what is missing."""
        with clear_when_full(self.path):
            for folder in (self.units, self.failed, self.locks, self._partial, self._logs):
                folder.mkdir(parents=True, exist_ok=True)
        if not (self.path / "README.txt").exists():
            write_file(self.path / "README.txt", _README.encode())

    def spec(self) -> dict[str, Any] | None:
        """What ``sweep.json`` says; None where there is none."""
        path = self.path / SPEC
        try:
            said = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise InputError(
                f"{path} is no JSON ({error}). Restore it, or start the sweep in another folder."
            ) from None
        check_format(said, path)
        return said

    def write_spec(self, said: Mapping[str, Any]) -> None:
        """Write ``sweep.json`` where it does not say so already."""
        data = (json.dumps({"format": FORMAT, **said}, indent=1, ensure_ascii=False) + "\n").encode()
        path = self.path / SPEC
        if not path.exists() or path.read_bytes() != data:
            write_file(path, data)

    def finished(self) -> set[str]:
        """Names of finished units."""
        return _names(self.units, "")

    def without_result(self) -> set[str]:
        """Names of failed units."""
        return _names(self.failed, ".json")

    def settled(self, name: str) -> bool:
        """Whether a unit is finished or failed."""
        return (self.units / name).exists() or (self.failed / f"{name}.json").exists()

    def keep(self, name: str, files: Mapping[str, bytes]) -> None:
        """Store the record of a unit."""
        self._clear_partial(name)
        write_folder(self.units / name, files, scratch=self._partial / f"{name}-{uuid.uuid4().hex[:8]}")

    def keep_failure(self, failure: Failure) -> None:
        """Store why a unit has no result."""
        data = json.dumps({"format": FORMAT, **failure.described()}, indent=1, ensure_ascii=False) + "\n"
        write_file(self.failed / f"{failure.unit}.json", data.encode())

    def failure(self, name: str) -> Failure | None:
        """Why a unit has no result; None where it is not failed."""
        try:
            said = json.loads((self.failed / f"{name}.json").read_bytes())
        except FileNotFoundError:
            return None
        said.pop("format")
        return Failure(**{**said, "seeds": read_seeds(said["seeds"])})

    def forget_failure(self, name: str) -> None:
        """Make a failed unit one that has not been tried."""
        (self.failed / f"{name}.json").unlink(missing_ok=True)

    def log(self, words: Mapping[str, Any]) -> None:
        """Add a line to this process's log."""
        path = self._logs / f"{platform.node()}-{os.getpid()}.jsonl"
        with clear_when_full(self._logs), open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(words) + "\n")

    def finish_times(self) -> list[float]:
        """When units were finished (seconds since the epoch), in order."""
        with contextlib.suppress(FileNotFoundError), os.scandir(self.units) as entries:
            return sorted(e.stat().st_mtime for e in entries)
        return []

    def _clear_partial(self, name: str) -> None:
        """Remove what killed processes left of a unit; called with its claim in hand."""
        with os.scandir(self._partial) as entries:
            for left in [e.path for e in entries if e.name.startswith(name)]:
                shutil.rmtree(left, ignore_errors=True)


def _names(folder: Path, ending: str) -> set[str]:
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        return {
            e.name[: len(e.name) - len(ending)]
            for e in entries
            if e.name.endswith(ending) and e.name[0] != "."
        }
    return set()

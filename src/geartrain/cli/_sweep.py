"""``geartrain sweep``."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from geartrain.cli import _output
from geartrain.cli._usage import UsageError

if TYPE_CHECKING:
    from geartrain.cli._commands import Sweep as Options
    from geartrain.sweeps import Status, Sweep

_MOST_FAILURES = 10


def execute(options: Options) -> int:
    """Find the sweep in its folder, do what was asked, print how far it is; 0 unless units failed or are missing."""
    from geartrain import sweeps

    if options.workers is not None and options.workers < 0:
        raise UsageError(f"--workers is {options.workers}; it must be 0 (in this process) or more.")
    found = sweeps.load(options.folder)
    if options.action == "status":
        return _show(found, found.status(), options, code=0)
    act = found.run if options.action == "resume" else found.retry
    try:
        with _output.aside():
            status = act(executor=options.executor, workers=options.workers)
    except KeyboardInterrupt:
        _output.error(f"stopped; {found.status()}. Go on with: geartrain sweep resume {options.folder}")
        return 1
    return _show(found, status, options, code=int(not status.complete))


def _show(found: Sweep, status: Status, options: Options, *, code: int) -> int:
    failures = found.failures if status.failed else []
    if options.json:
        _output.as_json(
            {
                "folder": str(found.folder.path),
                "function": str(found.function),
                **dataclasses.asdict(status),
                "failures": [f.described() for f in failures],
            }
        )
        return code
    _output.line(f"{options.folder}: sweep of {found.function}, {status}")
    for failure in failures[:_MOST_FAILURES]:
        _output.line(f"  failed {failure}")
    if len(failures) > _MOST_FAILURES:
        _output.line(f"  ... and {len(failures) - _MOST_FAILURES} more")
    if failures:
        _output.line(f"Tracebacks: {found.folder.failed}. Try again: geartrain sweep retry {options.folder}")
    return code

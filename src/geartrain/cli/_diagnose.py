"""``geartrain diagnose``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from geartrain.cli import _checks, _output, _target

if TYPE_CHECKING:
    from geartrain.cli._commands import Diagnose
    from geartrain.diagnosis import Diagnosis
    from geartrain.run import Run


def execute(options: Diagnose) -> int:
    """Check, build the run, diagnose it, write the report, print."""
    _checks.seconds(options.budget)
    _checks.device(options.device)
    function = _target.find(options.target)
    _checks.folder(options.out)
    run = _target.make_run(function, options.target, seed=options.seed, device=options.device)
    diagnosis = diagnosed(run, options.budget, seed=options.seed, reproduce=_command(options))
    path = diagnosis.to_html(report_path(options.out, run))
    if options.json:
        _output.as_json(diagnosis)
        _output.note(f"Report: {path}")
        return 0
    show(diagnosis)
    _output.line(f"\nReport: {path}")
    return 0


def diagnosed(run: Run, budget: str | float, *, seed: int, reproduce: str) -> Diagnosis:
    """The diagnosis, with a progress bar; what the user's code prints goes to standard error."""
    from geartrain.diagnosis import diagnose

    with _output.progress(f"Diagnosing {run.name}") as progress, _output.aside():
        return diagnose(run, budget, seed=seed, progress=progress, reproduce=reproduce)


def show(diagnosis: Diagnosis) -> None:
    """The summary, in colour where standard output is a terminal."""
    from geartrain.report.terminal import print_diagnosis

    print_diagnosis(diagnosis, _output.console())


def report_path(folder: Path, run: Run) -> Path:
    """Where the report of a run goes."""
    return folder / f"{_checks.file_name(run.name)}.html"


def _command(options: Diagnose) -> str:
    words = ["geartrain", "diagnose", options.target, "--budget", options.budget, "--seed", str(options.seed)]
    words += ["--device", options.device] if options.device != "cpu" else []
    return shlex.join(words)

"""``geartrain demo``: a healthy run and its broken twin, each diagnosed, and whether the verdicts are right."""

from __future__ import annotations

from typing import TYPE_CHECKING

from geartrain.cli import _checks, _diagnose, _output

if TYPE_CHECKING:
    from geartrain.builtin import MakeRun
    from geartrain.cli._commands import Demo
    from geartrain.diagnosis import Diagnosis

PLANTED = "lr_too_high"


def execute(options: Demo) -> int:
    """Diagnose both; the exit code is 1 if a verdict is not the one that was planted."""
    from geartrain import builtin
    from geartrain.builtin import _broken_digits

    seconds = _checks.seconds(options.budget)
    _checks.folder(options.out)
    healthy, first = _one(builtin.get("digits"), options, seconds / 2)
    broken, second = _one(_broken_digits.make_run, options, seconds / 2)
    right = healthy.healthy, not broken.healthy and broken.findings[0].mechanism == PLANTED
    _output.line(f"\nThe healthy run: {_judged(right[0])} healthy is what was expected. Report: {first}")
    _output.line(f"Its broken twin: {_judged(right[1])} {PLANTED} is what was planted. Report: {second}")
    return 0 if all(right) else 1


def _one(make_run: MakeRun, options: Demo, seconds: float) -> tuple[Diagnosis, str]:
    run = make_run(seed=options.seed)
    reproduce = f"geartrain demo --budget {options.budget} --seed {options.seed}"
    diagnosis = _diagnose.diagnosed(run, seconds, seed=options.seed, reproduce=reproduce)
    path = diagnosis.to_html(_diagnose.report_path(options.out, run))
    _diagnose.show(diagnosis)
    _output.line()
    return diagnosis, str(path)


def _judged(right: bool) -> str:
    return "right," if right else "WRONG,"

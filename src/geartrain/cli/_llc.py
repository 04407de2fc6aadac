"""``geartrain llc``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from geartrain.cli import _checks, _options, _output, _target
from geartrain.cli._usage import UsageError

if TYPE_CHECKING:
    from geartrain.cli._commands import Llc


def execute(options: Llc) -> int:
    """Check, build the run, train it so far, sample, write the page, print."""
    from geartrain.instruments import get
    from geartrain.sampling.llc import llc

    for name in ("steps", "probe"):
        if getattr(options, name) < 0:
            raise UsageError(f"--{name} is {getattr(options, name)}; it must be 0 or more.")
    if options.budget is not None:
        _checks.seconds(options.budget)
    _checks.device(options.device)
    _checks.folder(options.out)
    chosen = _options.parse(options.set, get("learning_coefficient"))
    run = _target.make_run(
        _target.find(options.target), options.target, seed=options.seed, device=options.device
    )
    with _output.aside():
        if options.steps:
            run.advance(options.steps)
        run.require_finite()
        objective = run.objective(options.on, probe=options.probe or None)
        found = llc(objective, generator=options.seed, budget=options.budget, progress=True, **chosen)
    path = found.to_html(options.out / f"{_checks.file_name(run.name)}-llc.html", run.name)
    if options.json:
        _output.as_json(found)
        _output.note(f"Sampler health: {path}")
        return 0
    _output.line(str(found))
    _output.line(f"\nSampler health: {path}")
    return 0

"""``geartrain measure``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from geartrain.cli import _checks, _options, _output, _target
from geartrain.cli._usage import UsageError
from geartrain.errors import UnknownNameError
from geartrain.records import Cost, Measurement, format_number

if TYPE_CHECKING:
    from geartrain.cli._commands import Measure
    from geartrain.run import Run


_MOST_ENTRIES = 20


def execute(options: Measure) -> int:
    """Check, build the run, train it so far, quote the price, measure, print."""
    from geartrain import instruments
    from geartrain.measuring import measure, subject_for

    if options.steps < 0:
        raise UsageError(f"--steps is {options.steps}; it must be 0 or more.")
    if options.probe < 0:
        raise UsageError(f"--probe is {options.probe}; it must be 0 (all examples) or more.")
    budget = _budget(options.budget)
    _checks.device(options.device)
    try:
        instrument = instruments.get(options.name)
    except UnknownNameError as error:
        raise UsageError(str(error)) from None
    chosen = _options.parse(options.set, instrument)
    if options.other is not None and instrument.spec.needs != "pair":
        raise UsageError(f"{options.name} measures one state; --other is for instruments that compare two.")
    run, taken = _trained(options, options.target)
    with _output.aside():
        if options.other is not None:
            chosen["other"] = _trained(options, options.other)[0].model
        data = {"on": options.on, "probe": options.probe or None}
        subject = subject_for(instrument.spec.needs, run, options.name, **data)
        price = instrument.spec.price(subject, **{k: v for k, v in chosen.items() if k != "other"})
        _output.note(f"{options.name} of {run.name} after {taken} steps costs {_words(price)}.")
        result = measure(run, options.name, budget=budget, **data, **chosen)[options.name]
    if options.json:
        _output.as_json(result)
    else:
        _print(result)
    return 0


def _trained(options: Measure, target: str) -> tuple[Run, int]:
    """The run that a target names after the steps asked for, and how many there were."""
    run = _target.make_run(_target.find(target), target, seed=options.seed, device=options.device)
    with _output.aside():
        taken = run.advance(options.steps) if options.steps else 0
        run.require_finite()
    return run, taken


def _budget(text: str | None) -> Any:
    if text is None:
        return None
    if text.isdigit():
        return int(text)
    _checks.seconds(text)
    return text


def _print(result: Measurement) -> None:
    _output.line(str(result))
    entries = _entries(result)
    for label, value, error in entries[:_MOST_ENTRIES]:
        _output.line(f"  {label}: {value} ± {error}")
    if len(entries) > _MOST_ENTRIES:
        _output.line(f"  ... and {len(entries) - _MOST_ENTRIES} more; --json prints them all")
    _output.line(f"unit    {result.unit}")
    _output.line(f"status  {result.status}")
    _output.line(f"cost    {_words(result.cost)}")


def _entries(result: Measurement) -> list[tuple[str, str, str]]:
    """Label, value and error of each entry of a vector; nothing for single numbers and larger arrays."""
    if np.ndim(result.value) != 1:
        return []
    values = np.asarray(result.value)
    errors = np.broadcast_to(np.asarray(result.standard_error), values.shape)
    labels = result.coords.get(result.dims[0], range(len(values)))
    rows = zip(labels, values, errors, strict=True)
    return [(_label(name), format_number(float(v)), format_number(float(e))) for name, v, e in rows]


def _label(name: Any) -> str:
    return format_number(float(name)) if isinstance(name, (float, np.floating)) else str(name)


def _words(cost: Cost) -> str:
    amounts = {
        "forward pass": cost.forwards,
        "gradient": cost.gradients,
        "product": cost.products,
        "second": cost.seconds,
    }
    return ", ".join(_amount(n, what) for what, n in amounts.items() if n) or "no pass over the data"


def _amount(n: float, what: str) -> str:
    number = str(int(n)) if float(n).is_integer() else format_number(n)
    return f"{number} {what}{'' if n == 1 else 'es' if what.endswith('s') else 's'}"

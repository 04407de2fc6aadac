"""Take measurements by name."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch

from geartrain import instruments
from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.records import Measurement
from geartrain.run import PROBE, Run


def measure(
    subject: Objective | Run,
    names: str | Iterable[str],
    *,
    generator: torch.Generator | None = None,
    budget: Any = None,
    on: str = "train",
    probe: int | None = PROBE,
    **options: Any,
) -> dict[str, Measurement]:
    """Measure quantities by name on an objective or a run.

    Args:
        subject: An `Objective`, or a `Run` (whose objective and history serve the instruments that need those).
            Instruments that compare two states need ``other``; of a run it is by default its state before training.
        names: Names of instruments (`instruments.names` lists them); one or several.
        generator: Source of randomness; seeded with 0 if omitted.
        budget: For each instrument: a number of products, a time such as ``"5s"``, or nothing.
        on: Of a run: measure on its ``"train"`` or ``"validation"`` data.
        probe: Of a run: examples in the fixed probe that is measured on; ``None`` for all data.
        **options: Further options, passed to every instrument named.

    Returns:
        A measurement per name, in order.

    Raises:
        UnknownNameError: There is no such instrument.
        InputError: An instrument needs a run, and an objective was given; or it needs ``other``.
    """
    results = {}
    for name in [names] if isinstance(names, str) else names:
        function = instruments.get(name)
        chosen = subject_for(function.spec.needs, subject, name, on=on, probe=probe)
        own = dict(options)
        if function.spec.needs == "pair" and own.get("other") is None:
            own["other"] = reference_for(subject, name, chosen)
        source = generator if generator is not None else torch.Generator().manual_seed(0)
        results[name] = function(chosen, generator=source, budget=budget, **own)
    return results


def subject_for(
    needs: str, subject: Objective | Run, name: str, *, on: str = "train", probe: int | None = PROBE
) -> Any:
    """What an instrument wants, made from what there is.

    Raises:
        InputError: It needs a run or a history, and an objective was given.
    """
    if needs == "data":
        return subject
    if needs in {"objective", "pair"}:
        return subject.objective(on, probe=probe) if isinstance(subject, Run) else subject
    if not isinstance(subject, Run):
        raise InputError(f"{name} is a quantity of a run; pass a geartrain.Run instead of an Objective.")
    return subject if needs == "run" else subject.history


def reference_for(subject: Objective | Run, name: str, objective: Objective | None = None) -> Objective:
    """What a comparison is made with unless the user says otherwise: the run before its first step.

    Args:
        subject: The run.
        name: Of the instrument, for messages.
        objective: What is compared; its data are used (the run's probe if omitted).

    Raises:
        InputError: An objective has no past.
    """
    if not isinstance(subject, Run):
        raise InputError(
            f"{name} compares two states; pass other=: an Objective, a model, or a vector of parameters. "
            "Of a geartrain.Run it is the state before training."
        )
    with subject.preserved() as here:
        subject.restore(subject.origin or here)
        model = copy.deepcopy(subject.model)
    return (objective or subject.objective()).of(model)

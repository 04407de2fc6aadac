"""Share of the parameters that training does not move, and why.

Misleads where freezing is meant (fine-tuning a head, fixed positions): the reasons and the share of the gradient
that is thrown away tell the two apart only in part. Parameters on which the loss does not depend are not
counted as frozen: they are dead, not held. Ledger: 0.13.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from geartrain._torch import flat
from geartrain.budget import Budget
from geartrain.errors import NonFiniteError
from geartrain.instruments import _window
from geartrain.instruments._answers import answer
from geartrain.instruments._base import instrument
from geartrain.objective import Objective
from geartrain.records import Measurement, State
from geartrain.run import Run


@instrument(needs="run", unit="1", price=_window.price)
def frozen_parameters(
    run: Run,
    *,
    steps: int = _window.STEPS,
    window: _window.Window | None = None,
    probe: int = 512,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the share of parameters (by count) that no training step changes although the loss depends on them.

    Reasons, in this order: ``"requires_grad is False"``, ``"not in the optimizer"``, ``"step size 0"`` (unless it is 0
    for all), ``"no update"`` (the gradient is there, the steps change nothing: lost in rounding, or detached
    in the step). The gradient of *all* parameters is taken on a probe to see on which ones the loss depends.

    **Cost** three gradients per step and one on the probe.

    **Assumes** that the run has a loss function; without one every parameter counts as needed.

    **Misleads** where freezing is meant (fine-tuning a head, fixed positions): the reasons, and the share of
    the gradient that is thrown away, tell the two apart only in part. A warm-up that begins at step size 0
    looks frozen at its first steps.

    Args:
        run: The run; it is put back exactly.
        steps: Further steps to take.
        window: Steps taken already.
        probe: Training examples for the gradient.
        generator: Not used.
        budget: Limit in time.

    Returns:
        The share, between 0 and 1, exact for these steps. ``details``: ``names`` and ``reasons`` (by name), ``unused``
        (names of parameters on which the loss does not depend), ``gradient_share`` (share of the squared gradient
        norm that belongs to the frozen ones), ``layers`` (modules all of whose parameters are frozen).
    """
    taken = _window.of(run, steps, window, budget)
    cut_short = not len(taken) and taken.failure is None  # nothing was affordable: not the gradient either
    gradients = None if cut_short else _gradient_norms(run, probe)
    named = dict(run.model.named_parameters())
    reasons = _reasons(run, taken)
    unused = [n for n in named if gradients is not None and gradients[n] == 0.0]
    held = {n: why for n, why in reasons.items() if n not in unused}
    total = sum(p.numel() for p in named.values())
    share = sum(named[n].numel() for n in held) / total
    details = {
        "names": list(held),
        "reasons": held,
        "unused": unused,
        "gradient_share": _gradient_share(gradients, held),
        "layers": _whole_layers(named, held),
    }
    sentence = f"{len(held)} of {len(named)} parameter tensors stay as they are."
    if taken.failure or not len(taken):
        sentence += " Only declared reasons were looked at: no step could be watched to its end."
    state = State.OUT_OF_BUDGET if cut_short else State.EXACT
    return answer("frozen_parameters", share, sentence, state=state, details=details)


def _reasons(run: Run, taken: _window.Window) -> dict[str, str]:
    """Why each unmoved parameter does not move."""
    groups = {id(p): g for g in run.optimizer.param_groups for p in g["params"]}
    paused = all(float(g["lr"]) == 0 for g in run.optimizer.param_groups)
    still = _unmoved(taken) if len(taken) and not paused else set()
    reasons = {}
    for name, parameter in run.model.named_parameters():
        if not parameter.requires_grad:
            reasons[name] = "requires_grad is False"
        elif id(parameter) not in groups:
            reasons[name] = "not in the optimizer"
        elif float(groups[id(parameter)]["lr"]) == 0 and not paused:
            reasons[name] = "step size 0"
        elif name in still:
            reasons[name] = "no update"
    return reasons


def _unmoved(taken: _window.Window) -> set[str]:
    moved = taken.updates.abs().amax(dim=0)
    return {name for name, place in taken.layout.slices().items() if not bool(moved[place].any())}


def _gradient_norms(run: Run, probe: int) -> dict[str, float] | None:
    """Squared gradient norm of every parameter, frozen ones included; ``None`` where it cannot be had."""
    if run.batch_loss is None:
        return None
    with run.preserved():
        for parameter in run.model.parameters():
            if parameter.is_floating_point():
                parameter.requires_grad_(True)
        objective: Objective = run.objective("train", probe=probe)
        try:
            gradient: Tensor = objective.gradient()
        except NonFiniteError:
            return None
        finally:
            run.work = run.work + objective.work
    slices = flat.Layout.slices(objective.layout)
    norms = {name: float((gradient[place].double() ** 2).sum()) for name, place in slices.items()}
    return {name: norms.get(name, 0.0) for name, _ in run.model.named_parameters()}


def _gradient_share(gradients: dict[str, float] | None, held: dict[str, str]) -> float:
    if gradients is None or not sum(gradients.values()) > 0:
        return float("nan")
    return sum(gradients[n] for n in held) / sum(gradients.values())


def _whole_layers(named: dict[str, Any], held: dict[str, str]) -> list[str]:
    owners: dict[str, list[str]] = {}
    for name in named:
        owners.setdefault(name.rpartition(".")[0], []).append(name)
    return [layer for layer, names in owners.items() if all(n in held for n in names)]

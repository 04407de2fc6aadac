"""Forks of a run as one computation: the same state under many changed settings, side by side.

Ledger: 1.10, 1.15.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from geartrain.ensemble._fork_plan import Alone, ForkPlan, plan
from geartrain.ensemble._together import Together
from geartrain.errors import InputError
from geartrain.run import Branch, Change, Checkpoint, Run
from geartrain.run.change import make_change


@dataclass(frozen=True)
class Forks:
    """What forks of one state did.

    Attributes:
        branches: One per change, in their order, each as `Run.fork` gives it.
        together: Numbers of the changes that were computed beside others.
        alone: Why each of the others was made alone.
        engine: How those together were computed; empty if there are none.
    """

    branches: tuple[Branch, ...]
    together: tuple[int, ...] = ()
    alone: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({}))
    engine: str = ""

    def __len__(self) -> int:
        return len(self.branches)

    def __getitem__(self, number: int) -> Branch:
        return self.branches[number]


def forks(
    run: Run,
    changes: Sequence[Change | Mapping[str, Any]],
    steps: int = 100,
    *,
    at: Checkpoint | None = None,
    points: Sequence[int] | None = None,
    deadline: float | None = None,
) -> Forks:
    """Continue one state of a run under many changes; those that can be are computed together.

    Each branch is what ``run.fork(change, steps)`` gives, within rounding (which chaotic training makes grow; the forks
    made alone are exactly that). Together go forks of one architecture: other step sizes, momenta, weight decays,
    clipping, initial values, orders of the data. Other batch sizes or optimizers form groups of their own.
    A fork that breaks is made again alone, so that the module that broke is named. Gradients come from the engine that
    is fastest here; for large networks that is ``loop``, and together is hardly faster than alone.

    **Cost** ``steps`` gradients per change, at the price of the fastest engine; memory of one row of parameters,
    gradients and optimizer state per change.

    **Assumes** for going together: a loss of (outputs, targets), data that are indexed, SGD, Adam, AdamW or RMSprop
    from `torch.optim` with the same settings for all parameters, no dropout and no hooks. Everything else is made
    alone.

    **Misleads** where bits matter: batched products round differently.

    Args:
        run: The run; it is put back exactly.
        changes: What each fork changes: `Change` objects, or dicts of its fields.
        steps: Optimizer steps of each.
        at: Where to leave from; here if omitted.
        points: Steps (counted from the fork) at which the probes are evaluated; about 12 if omitted.
        deadline: Stop when `time.perf_counter` passes it; the branches say that they are not complete.

    Returns:
        The branches, and which of them were computed together.

    Raises:
        InputError: No such setting, or a value that cannot be.
        UnsupportedError: The user's own step decides what was to be changed.

    Example:
        >>> import torch, geartrain as gt
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> x = torch.linspace(-1, 1, 16)[:, None]
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> run = gt.Run(model, torch.nn.functional.mse_loss, optimizer, (x, 2 * x), batch_size=8)
        >>> slow, fast = forks(run, [{"lr": 0.01}, {"lr": 0.5}], steps=20)
        >>> bool(fast.losses[-1].mean() < slow.losses[-1].mean())
        True
    """
    made = [change if isinstance(change, Change) else make_change(**change) for change in changes]
    if steps < 0:
        raise InputError(f"steps is {steps}; it must be 0 or more.")
    marks = sorted({int(p) for p in (points if points is not None else np.linspace(0, steps, 12))})
    plans: dict[int, ForkPlan] = {}
    alone: dict[int, str] = {}
    for number, change in enumerate(made):
        try:
            with run.branch(change, at):
                plans[number] = plan(run, marks[-1])
        except Alone as reason:
            alone[number] = str(reason)
    groups: dict[Any, list[int]] = {}
    for number, one in plans.items():
        groups.setdefault(one.key, []).append(number)
    branches: dict[int, Branch] = {}
    used = set()
    for group in groups.values():
        if len(group) == 1:
            alone[group[0]] = "no other fork has its architecture, optimizer and size of batches"
            continue
        together = Together([plans[n] for n in group], marks, run, [made[n] for n in group], at)
        used.add(together.engine_name)
        together.train(deadline)
        for place, number in enumerate(group):
            if together.broke[place]:
                alone[number] = "it broke, and was made again to find where"
            else:
                branches[number] = together.branch(place)
    for waiting, number in enumerate(sorted(alone)):
        until = deadline
        if deadline is not None:  # the time that is left is shared out evenly
            now = time.perf_counter()
            until = now + (deadline - now) / (len(alone) - waiting)
        branches[number] = run.fork(made[number], at=at, points=marks, deadline=until)
    beside = tuple(sorted(set(range(len(made))) - set(alone)))
    return Forks(tuple(branches[n] for n in range(len(made))), beside, alone, ", ".join(sorted(used)))

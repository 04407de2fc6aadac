"""Forgetting: how often examples that were answered right are later answered wrong.

Examples that are never forgotten carry little further information; those forgotten again and again are mislabelled,
rare or hard. A run in which *everything* is forgotten now and then has steps that are too large.

Ledger: 0.13, 0.21
"""

from __future__ import annotations

import numpy as np
import torch

from geartrain.budget import Budget
from geartrain.instruments._answers import mean_and_error, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments._limits import out_of_budget, stopped
from geartrain.instruments.data import _learning
from geartrain.records import Measurement, State, Status
from geartrain.run import Run

NAME = "example_forgetting"


@instrument(needs="run", unit="1", price=_learning.price)
def example_forgetting(
    run: Run,
    *,
    steps: int | None = None,
    every: int | None = None,
    start: _learning.Start = "origin",
    limit: int = _learning.LIMIT,
    learning: _learning.Learning | None = None,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the mean number of forgetting events per example while the run trains.

    An event is a change from right to wrong between two successive looks at an example. The run is trained again from
    its first state (or on from here), looking at the same examples every few steps, and is put back exactly.

    **Cost** ``steps`` gradients, and a forward pass over the examples at every look.

    **Assumes** targets that are classes (of sequences: every place is an item of its own).

    **Misleads** when looks are far apart: an example forgotten and learnt again in between counts as kept. Toneva et
    al. look whenever an example is trained on; ``every=1`` comes closest. Events grow with ``steps``.

    Args:
        run: The run.
        steps: Steps to take; as many as the run has taken (64 to 512) if omitted.
        every: Steps between looks; a 32nd of all if omitted.
        start: ``"origin"``: from before the first step; ``"here"``: from where it stands.
        limit: Examples looked at.
        learning: A replay made already.
        generator: Not used: the run's own random numbers decide.
        budget: Limit; a product counts as two steps.

    Returns:
        Events per item, with the standard error over items. ``details``: ``events`` (per item), ``examples``
        (number of each item's example), ``most_forgotten`` (up to 20 of them), ``never_forgotten`` (share of the
        items learnt at least once that were kept from then on), ``never_learnt`` (share never right), ``steps``,
        ``looks``.

    Raises:
        InputError: A setting is out of range.

    References:
        Toneva et al. (2019), arXiv:1812.05159.

    >>> model = torch.nn.Linear(1, 1, bias=False)  # w = 1, -1, 1, ...: every step turns every answer round
    >>> _ = model.weight.data.fill_(1.0)
    >>> loss = lambda out, y: (out**2).mean()
    >>> data = torch.ones(4, 1), torch.ones(4, 1)
    >>> run = Run(model, loss, torch.optim.SGD(model.parameters(), 1.0), data, batch_size=4)
    >>> float(example_forgetting(run, steps=6, every=1))
    3.0
    """
    _learning.check(steps, every, start)
    clock = Budget.of(budget).start()
    if learning is None:
        if (answer := stopped(NAME, run, clock)) is not None:
            return answer
        learning = _learning.replay(run, steps, every, start, limit, clock)
    if learning is None:
        return not_applicable(NAME, _learning.NO_CLASSES)
    if len(learning.steps) < 2:
        return out_of_budget(NAME)
    events = forgetting_events(learning.correct)
    learnt = learning.correct.any(0)
    value, error = mean_and_error(events.astype(float))
    order = np.argsort(-events, kind="stable")[:20]
    details = {
        "events": events,
        "examples": learning.examples,
        "most_forgotten": tuple(int(learning.examples[i]) for i in order if events[i]),
        "never_forgotten": float((events[learnt] == 0).mean()) if learnt.any() else float("nan"),
        "never_learnt": float(1 - learnt.mean()),
        "steps": int(learning.steps[-1]),
        "looks": len(learning.steps),
    }
    words = f"{value:.3g} events per item over {learning.steps[-1]} steps; {details['never_learnt']:.1%} never right"
    state = State.ESTIMATE if learning.complete else State.OUT_OF_BUDGET
    status = Status(state, f"{words}. {learning.sentence}".strip())
    return Measurement(NAME, value, "1", status, error, details=details)


def forgetting_events(correct: np.ndarray) -> np.ndarray:
    """Changes from right to wrong, shape (items,), from answers of shape (looks, items).

    >>> forgetting_events(np.array([[0, 1], [1, 0], [0, 0], [1, 1], [0, 1]], dtype=bool))
    array([2, 1])
    """
    return (correct[:-1] & ~correct[1:]).sum(0)

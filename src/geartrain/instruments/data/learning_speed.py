"""Learning speed: at which step each example is learnt for good, and in which order.

Easy and frequent things come first. Examples that stay wrong to the end are mislabelled, rare, or beyond the model.

Ledger: 0.13, 1.11
"""

from __future__ import annotations

import math

import numpy as np
import torch

from geartrain.budget import Budget
from geartrain.instruments._answers import not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments._limits import out_of_budget, stopped
from geartrain.instruments.data import _learning
from geartrain.records import Measurement, State, Status
from geartrain.run import Run

NAME = "learning_speed"


@instrument(needs="run", unit="step", price=_learning.price)
def learning_speed(
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
    """Measure the step by which half of the examples are learnt for good.

    An example is learnt for good at the first look from which on it is always right. The run is trained again from
    its first state (or on from here) and is put back exactly. Examples still wrong at the end count as later than
    all others.

    **Cost** ``steps`` gradients, and a forward pass over the examples at every look.

    **Assumes** targets that are classes (of sequences: every place is an item of its own).

    **Misleads** near the end of the replay: what was right only at the last looks may yet be forgotten. Some answers
    are right by chance from the start (step 0).

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
        The median step; its error is half the width of the interval between the order statistics one standard
        deviation of a binomial away, with the spacing of the looks. Where more than half are never learnt: the last
        step, as a lower bound, with error NaN. ``details``: ``step`` (per item; infinite where never), ``examples``
        (number of each item's example), ``first`` and ``last`` (up to 20 examples in order of learning), ``never``
        (share), ``quartiles``.

    Raises:
        InputError: A setting is out of range.

    References:
        Toneva et al. (2019), arXiv:1812.05159; Hacohen, Choshen, Weinshall (2020), arXiv:1905.10854.

    >>> model = torch.nn.Linear(1, 1, bias=False)  # w = 1 - 2^-t; right as soon as w x > 1/2
    >>> _ = model.weight.data.zero_()
    >>> x, y = torch.tensor([[1.0], [0.6], [0.0]]), torch.tensor([[1.0], [1.0], [0.0]])
    >>> loss = lambda out, y: (out[0, 0] - 1) ** 2
    >>> run = Run(model, loss, torch.optim.SGD(model.parameters(), 0.25), (x, y), batch_size=3, shuffle=False)
    >>> learning_speed(run, steps=8, every=1).details["step"].tolist()
    [2.0, 3.0, 0.0]
    """
    _learning.check(steps, every, start)
    clock = Budget.of(budget).start()
    if learning is None:
        if (answer := stopped(NAME, run, clock, unit="step")) is not None:
            return answer
        learning = _learning.replay(run, steps, every, start, limit, clock)
    if learning is None:
        return not_applicable(NAME, _learning.NO_CLASSES, unit="step")
    if len(learning.steps) < 2:
        return out_of_budget(NAME, unit="step")
    step = learnt_at(learning.correct, learning.steps)
    return _answer(step, learning)


def learnt_at(correct: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """First step from which on each item is always right, shape (items,); infinite where there is none.

    >>> learnt_at(np.array([[1, 0], [0, 0], [1, 0]], dtype=bool), np.array([0, 5, 10])).tolist()
    [10.0, inf]
    """
    wrong_after = np.logical_or.accumulate(~correct[::-1], axis=0)[::-1]
    first = (~wrong_after).argmax(0)
    return np.where(correct[-1], steps[first].astype(float), np.inf)


def _answer(step: np.ndarray, learning: _learning.Learning) -> Measurement:
    ordered = np.sort(step)
    count, last = len(step), float(learning.steps[-1])
    median = float(ordered[(count - 1) // 2])
    order = np.argsort(step, kind="stable")
    details = {
        "step": step,
        "examples": learning.examples,
        "first": tuple(int(learning.examples[i]) for i in order[:20]),
        "last": tuple(int(learning.examples[i]) for i in order[::-1][:20]),
        "never": float(np.isinf(step).mean()),
        "quartiles": tuple(float(ordered[min(int(q * count), count - 1)]) for q in (0.25, 0.5, 0.75)),
    }
    tail = f"{details['never']:.1%} are never learnt. {learning.sentence}".strip()
    if math.isinf(median):
        state = State.NOT_CONVERGED if learning.complete else State.OUT_OF_BUDGET
        status = Status(state, f"More than half are not learnt within {last:.0f} steps: {tail}")
        return Measurement(NAME, last, "step", status, float("nan"), details=details)
    # The number of items below the median is binomial: one standard deviation to either side.
    reach = math.sqrt(count) / 2
    low = ordered[max(math.floor((count - 1) / 2 - reach), 0)]
    high = min(ordered[min(math.ceil((count - 1) / 2 + reach), count - 1)], last)
    spacing = float(np.diff(learning.steps).max())
    error = math.hypot((high - low) / 2, spacing / math.sqrt(12))
    state = State.ESTIMATE if learning.complete else State.OUT_OF_BUDGET
    status = Status(state, f"Half of {count} items are learnt for good by step {median:.0f}; {tail}")
    return Measurement(NAME, median, "step", status, error, details=details)

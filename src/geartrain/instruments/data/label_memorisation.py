"""Label memorisation: how much more often examples are answered right when they were trained on.

What a model gets right only because it saw the very example is memorised; what it would get right anyway is learnt.
Some memorisation is needed where rare cases matter; on random labels there is nothing else.

Ledger: 3.8, 3.44
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch.utils.data import Subset

from geartrain._torch import batches as _batches
from geartrain._torch.loss import SupervisedLoss
from geartrain.budget import Budget, Clock
from geartrain.errors import InputError
from geartrain.instruments._answers import not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments._limits import out_of_budget, stopped
from geartrain.instruments.data import _learning
from geartrain.records import Cost, Measurement, State, Status
from geartrain.run import Run

NAME = "label_memorisation"
FEWEST, MOST = 32, 256


def _steps(run: Any, steps: int | None) -> int:
    return min(max(run.step_count, FEWEST), MOST) if steps is None else steps


def _price(
    run: Any, *, forks: int = 6, steps: int | None = None, limit: int = _learning.LIMIT, **options: Any
) -> Cost:
    if run.stream.source is None or not isinstance(run.batch_loss, SupervisedLoss):
        return Cost()
    per_batch = min(limit, run.stream.source.size) / max(run.stream.batch_size, 1)
    return Cost(gradients=forks * _steps(run, steps), forwards=(forks + 1) * per_batch)


@instrument(needs="run", unit="1", price=_price)
def label_memorisation(
    run: Run,
    *,
    forks: int = 6,
    share: float = 0.7,
    steps: int | None = None,
    limit: int = _learning.LIMIT,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure P(right | trained on) - P(right | left out), averaged over examples.

    Each fork starts from the run's first state and is trained on a random subset of the data; every example is
    trained on by some forks and left out by others. The run is put back exactly.

    **Cost** ``forks`` x ``steps`` gradients, and a forward pass over the examples per fork.

    **Assumes** data that can be indexed (tensors or a dataset), and targets that are classes.

    **Misleads** for single examples when forks are few (``per_example`` is coarse: steps of about 1 / forks).
    Leaving out 30 % makes the models a little worse than the full one. All forks share the run's first weights.

    Args:
        run: The run.
        forks: Subsets to train on, at least 2.
        share: Share of the examples in each subset, between 0.1 and 0.9.
        steps: Steps in each fork; as many as the run has taken (32 to 256) if omitted.
        limit: Examples asked.
        generator: Draws the subsets; a fixed seed if omitted.
        budget: Limit; fewer forks are trained in it. A product counts as two steps.

    Returns:
        Mean memorisation from -1 to 1, with the standard error over forks. ``details``: ``trained`` and
        ``left_out`` (accuracies), ``per_example`` (NaN where an example was never, or always, left out),
        ``examples`` (their numbers), ``most`` (up to 20 of the most memorised), ``forks``, ``steps``.

    Raises:
        InputError: A setting is out of range.

    References:
        Feldman and Zhang (2020), arXiv:2008.03703, eq. (1) and §2.1; Feldman (2020), arXiv:1906.05271.

    >>> memorisation_of(np.array([[1, 0], [0, 1]], dtype=bool), np.array([[1, 0], [0, 1]], dtype=bool))[0].tolist()
    [1.0, 1.0]
    """
    if forks < 2 or not 0.1 <= share <= 0.9 or (steps is not None and steps < 1):
        raise InputError(
            f"forks is {forks}, share {share}, steps {steps}; allowed: forks >= 2, share 0.1 to 0.9, steps >= 1."
        )
    clock = Budget.of(budget).start()
    if run.stream.source is None:
        return not_applicable(
            NAME, "The training data cannot be indexed, so none can be left out; pass tensors or a dataset."
        )
    if not isinstance(run.batch_loss, SupervisedLoss):
        return not_applicable(NAME, _learning.NO_CLASSES)
    if run.stream.source.size < 4:
        return not_applicable(NAME, "Fewer than four examples cannot be split.")
    if (answer := stopped(NAME, run, clock)) is not None:
        return answer
    return _measured(run, forks, share, _steps(run, steps), limit, generator, clock)


def _measured(
    run: Run,
    forks: int,
    share: float,
    steps: int,
    limit: int,
    generator: torch.Generator | None,
    clock: Clock,
) -> Measurement:
    source = generator if generator is not None else torch.Generator().manual_seed(0)
    now = _learning.correct_now(run, limit)
    if now is None:
        return not_applicable(NAME, _learning.NO_CLASSES)
    assert run.stream.source is not None
    size = run.stream.source.size
    numbers = _learning.numbers_of(run, limit, len(now[0]))
    rows, included = [], []
    for fork in range(forks):
        if clock.exhausted((fork * steps) // 2) or (
            clock.products is not None and (fork + 1) * steps > 2 * clock.products
        ):
            break
        order = torch.randperm(size, generator=source, device=source.device).cpu()
        chosen = order[: max(1, round(share * size))].sort().values
        right = _fork(run, chosen, steps, limit, clock)
        if right is None:
            break
        rows.append(right)
        included.append(np.isin(numbers, chosen.numpy()))
    if len(rows) < 2:
        return out_of_budget(NAME)
    return _answer(np.stack(rows), np.stack(included), numbers, steps, len(rows) == forks)


def _fork(run: Run, chosen: torch.Tensor, steps: int, limit: int, clock: Clock) -> np.ndarray | None:
    """Share of right answers of each asked example after training on some, shape (examples,)."""
    key = f"train {limit}"
    asked = run._probes[key]  # read before the data are replaced: all forks are asked the same examples
    with _learning.aside(run, "origin"):
        run.stream.set_batch_size(min(run.stream.batch_size, len(chosen)))
        run.replace_data(train=_part(run, chosen))
        taken = run.advance(steps, deadline=clock.deadline)
        if taken < steps and run.history.failure is None and clock.exhausted():
            return None
        run._probes[key] = asked
        found = _learning.correct_now(run, limit)
    if found is None:
        return None
    correct, places = found
    return (correct & places).sum(1) / np.maximum(places.sum(1), 1)


def _part(run: Run, chosen: torch.Tensor) -> Any:
    data = run.train_data
    return (
        _batches.take(_batches.plain(data), chosen)
        if _batches.is_whole(data)
        else Subset(data, chosen.tolist())
    )


def memorisation_of(correct: np.ndarray, included: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Memorisation of each example, and the difference between trained and left-out accuracy of each fork.

    Args:
        correct: Share of right answers, shape (forks, examples).
        included: Whether the fork was trained on the example, likewise.

    Returns:
        Shapes (examples,) and (forks,); NaN where a group is empty.
    """
    inside, outside = included.astype(float), (~included).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        example = (correct * inside).sum(0) / inside.sum(0) - (correct * outside).sum(0) / outside.sum(0)
        fork = (correct * inside).sum(1) / inside.sum(1) - (correct * outside).sum(1) / outside.sum(1)
    return example, fork


def _answer(
    correct: np.ndarray, included: np.ndarray, numbers: np.ndarray, steps: int, complete: bool
) -> Measurement:
    example, fork = memorisation_of(correct, included)
    fork = fork[np.isfinite(fork)]
    if len(fork) < 2:
        return not_applicable(NAME, "The examples asked are too few to be trained on and left out.")
    value, error = float(fork.mean()), float(fork.std(ddof=1) / math.sqrt(len(fork)))
    order = np.argsort(-np.nan_to_num(example, nan=-2.0), kind="stable")[:20]
    details = {
        "trained": float(correct[included].mean()),
        "left_out": float(correct[~included].mean()),
        "per_example": example,
        "examples": numbers,
        "most": tuple(int(numbers[i]) for i in order if example[i] > 0),
        "forks": len(correct),
        "steps": steps,
    }
    words = (
        f"{details['trained']:.1%} right when trained on, {details['left_out']:.1%} when left out, "
        f"over {len(correct)} forks of {steps} steps."
    )
    state = State.ESTIMATE if complete else State.OUT_OF_BUDGET
    words = words if complete else f"{words} The budget allowed no more forks."
    return Measurement(NAME, value, "1", Status(state, words), error, details=details)

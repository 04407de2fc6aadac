"""What instruments of the tangent kernel share: examples and outputs to take it on, its price, why there is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from geartrain._torch import batches as _batches
from geartrain._torch import ntk
from geartrain.budget import Clock
from geartrain.errors import InputError, NonFiniteError, UnsupportedError
from geartrain.instruments._answers import no_answer
from geartrain.objective import Objective
from geartrain.records import Cost, Measurement, State

EXAMPLES = 100
"""Examples that a kernel is taken on by default."""

OUTPUTS = 64
"""Outputs per example up to which all are used; of more (a language model's), a random subset."""


@dataclass(frozen=True)
class Tangent:
    """Where a kernel is taken.

    Attributes:
        objective: On one batch of the examples chosen.
        chosen: Their numbers in the order of the data, shape (examples,).
        outputs: Indices of the outputs used, ``None`` for all.
        num_outputs: How many outputs are used.
        all_outputs: How many there are.
    """

    objective: Objective
    chosen: Tensor
    outputs: Tensor | None
    num_outputs: int
    all_outputs: int

    @property
    def num_examples(self) -> int:
        """Examples chosen."""
        return len(self.chosen)

    def at(self, objective: Objective) -> Objective:
        """Another objective on the same examples."""
        return objective.on(list(self.objective.batches))


def obstacle(objective: Objective) -> str | None:
    """Why this objective has no tangent kernel, as a sentence; ``None`` if it has one."""
    if objective._caller.only_loss:
        return (
            "The outputs are hidden in batch_loss(model, batch), and the tangent kernel is that of the outputs; "
            "build the objective as Objective(model, loss_fn, data)."
        )
    if not ntk.uncoupled(objective):
        return (
            "Batch normalisation is in training mode, so that an example's outputs depend on the others; measure "
            "with Objective(..., training=False)."
        )
    return None


def tangent(
    objective: Objective,
    num_examples: int,
    generator: torch.Generator | None,
    *,
    max_outputs: int | None = OUTPUTS,
    max_rows: int | None = None,
) -> Tangent:
    """Choose examples and outputs at random; all, in order, where there are no more than asked for.

    Args:
        objective: The objective.
        num_examples: Examples wanted.
        generator: Source of the choice; a fixed seed if ``None``.
        max_outputs: Outputs wanted at most; ``None`` for all.
        max_rows: Limit of examples x outputs; fewer examples are taken to keep it.

    Returns:
        The choice.

    Raises:
        UnsupportedError: There is no tangent kernel; the message says why.
        InputError: ``num_examples`` or ``max_outputs`` is not positive.
    """
    if num_examples < 1:
        raise InputError(f"num_examples is {num_examples}; it must be at least 1.")
    if max_outputs is not None and max_outputs < 1:
        raise InputError(f"max_outputs is {max_outputs}; it must be at least 1, or None for all outputs.")
    if reason := obstacle(objective):
        raise UnsupportedError(reason)
    source = generator if generator is not None else torch.Generator().manual_seed(0)
    total = count_outputs(objective)
    used = total if max_outputs is None else min(total, max_outputs)
    outputs = None if used == total else torch.randperm(total, generator=source)[:used].sort().values
    count = min(num_examples, objective.num_examples)
    if max_rows is not None:
        count = max(1, min(count, max_rows // used))
    whole = count == objective.num_examples
    chosen = torch.arange(count) if whole else _some(objective.num_examples, count, source)
    part = objective.on([_taken(objective, chosen)])
    return Tangent(part, chosen, None if outputs is None else outputs.to(objective.device), used, total)


def count_outputs(objective: Objective) -> int:
    """Outputs per example, by one example off the meter."""
    one = _batches.take(objective.batches[0], slice(0, 1))
    with objective._quiet(), torch.no_grad():
        return ntk.flat_outputs(objective._outputs(objective._leaves(None), one), 1).shape[1]


def kernel_price(
    objective: Any,
    num_examples: int,
    kind: ntk.Kind,
    *,
    max_outputs: int | None = OUTPUTS,
    max_rows: int | None = None,
) -> Cost:
    """One forward pass, a check, and a pass back for every output, on a part of the data."""
    if obstacle(objective):
        return Cost()
    try:
        total = count_outputs(objective)
        used = total if max_outputs is None else min(total, max_outputs)
        count = min(num_examples, objective.num_examples)
        if max_rows is not None:
            count = max(1, min(count, max_rows // used))
        plan = ntk.plan(objective, kind, num_examples=count, num_outputs=used)
    except (UnsupportedError, ArithmeticError):
        return Cost()
    share = count / objective.num_examples
    whole = set(plan.rows) == set(objective.layout.names)
    back = 0 if whole else used
    gradients = (not whole) + (used if plan.rows else 0)
    return Cost(forwards=(1 + back) * share, gradients=gradients * share, peak_bytes=plan.bytes)


def jacobian(objective: Objective, outputs: Tensor | None) -> Tensor:
    """The Jacobian of the outputs chosen, shape (examples, outputs, params)."""
    return ntk.jacobian(objective, outputs=outputs)


class OutOfBudgetError(Exception):
    """The budget ended before there was anything to show."""


class Passes:
    """Counts passes back through the network against a budget."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.spent = clock, 0

    def stop(self) -> bool:
        """Whether the next pass would be one too many."""
        over = self.clock.exhausted(self.spent)
        self.spent += 1
        return over

    def kernel(self, place: Tangent, objective: Objective, kind: ntk.Kind) -> ntk.Kernel:
        """The kernel of an objective (already on the chosen examples) within what is left of the budget.

        Raises:
            OutOfBudgetError: Nothing is left.
        """
        found = None
        if not self.clock.exhausted(self.spent):
            found = ntk.kernel(objective, kind, outputs=place.outputs, should_stop=self.stop)
        if found is None:
            raise OutOfBudgetError
        return found


def guarded(name: str, compute: Callable[[], Measurement], *, unit: str = "1") -> Measurement:
    """The measurement, or one without a number that says why there is none."""
    try:
        return compute()
    except UnsupportedError as error:
        return no_answer(name, str(error), unit=unit)
    except NonFiniteError as error:
        return no_answer(name, str(error), unit=unit, state=State.NON_FINITE)
    except OutOfBudgetError:
        sentence = "The budget ended before the kernel was complete; part of a kernel is of no use."
        return no_answer(name, sentence, unit=unit, state=State.OUT_OF_BUDGET)


def _some(total: int, count: int, source: torch.Generator) -> Tensor:
    return torch.randperm(total, generator=source)[:count].sort().values


def _taken(objective: Objective, chosen: Tensor) -> Any:
    """The chosen examples as one batch."""
    parts, start = [], 0
    for batch in objective.batches:
        size = _batches.size_of(batch)
        mine = chosen[(chosen >= start) & (chosen < start + size)] - start
        if len(mine):
            parts.append(batch if len(mine) == size else _batches.take(batch, mine.to(objective.device)))
        start += size
    return _batches.join(parts)

"""Adversarial drop: what a small, worst-case change of the inputs costs.

Gradient steps on the inputs look for the change of a given size that hurts most. What is found is a lower bound of
the true drop: a stronger attack can only find more.

References:
    Goodfellow, Shlens, Szegedy (2015), arXiv:1412.6572 (one signed step); Madry et al. (2018), arXiv:1706.06083
    (several, projected); Athalye, Carlini, Wagner (2018), arXiv:1802.00420, on gradients that hide.

Ledger: 3.37
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geartrain.budget import Budget, Clock
from geartrain.errors import InputError
from geartrain.instruments._answers import answer, no_answer, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments.function._drop import compared
from geartrain.instruments.function._inputs import InputScale, input_scale, with_gradient
from geartrain.instruments.function._said import hear, is_broken
from geartrain.instruments.function._view import View, began, inputs_of, size_of, with_inputs
from geartrain.objective import Objective
from geartrain.records import Cost, Measurement, State
from geartrain.run import Run

NAME = "adversarial_drop"
NORMS = ("linf", "l2")
STEPS = 10


def _price(subject: Any, steps: int = STEPS, *, budget: Any = None, **options: Any) -> Cost:
    limit = Budget.of(budget).products
    return Cost(forwards=3, gradients=steps if limit is None else min(steps, limit))


@instrument(needs="data", unit="1", price=_price)
def adversarial_drop(
    subject: Objective | Run,
    steps: int = STEPS,
    *,
    radius: float = 0.1,
    norm: str = "linf",
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure how much accuracy is lost when every input is moved by at most a radius in the direction that hurts.

    Projected gradient ascent of each example's own loss from the example itself: steps of 2.5·radius/steps along
    the sign (``"linf"``) or the direction (``"l2"``) of the gradient, projected back; one step is the fast gradient
    sign method. The worst point visited counts. The radius is relative to the inputs' own scale: ε = radius · (rms
    deviation of a feature from its mean), for ``"l2"`` radius · √(mean ‖x - mean x‖²). For a linear network w·x + b it
    takes away exactly the examples with margin y(w·x + b) at most ε‖w‖₁ (ε‖w‖₂ for ``"l2"``).

    **Cost**: ``steps`` gradients and three forward passes.

    **Assumes** inputs that are numbers, and a loss that is a mean over examples.

    **Misleads** where gradients vanish: a network whose loss is zero to the last bit (``masked`` in the details) looks
    robust and is not. The range of the inputs (pixels between 0 and 1) is not kept.

    Args:
        subject: An objective, or a run (validation data where it has them).
        steps: Gradient steps; 1 = fast gradient sign.
        radius: Largest change, relative to the inputs' scale.
        norm: ``"linf"`` or ``"l2"``.
        generator: Not used: the search starts at the example.
        budget: Limit: gradients (a number), ``"5s"`` or a `Budget`.

    Returns:
        Accuracy before less accuracy after (for numbers: 1 - loss before / loss after), with the error of the paired
        difference. Details: ``accuracy_before``, ``accuracy_after``, ``loss_before``, ``loss_after``, ``epsilon`` (in
        the inputs' unit), ``steps`` (taken), ``masked`` (share of inputs without any gradient), ``rows``, ``split``.

    Raises:
        InputError: A setting is out of range.

    Example:
        A threshold at 0, and one of two inputs nearer to it than ε = 0.5 · 2:

        >>> model = torch.nn.Linear(1, 2, bias=False)
        >>> model.weight.data = torch.tensor([[-1.0], [1.0]])
        >>> data = torch.tensor([[-3.5], [0.5]]), torch.tensor([0, 1])
        >>> adversarial_drop(Objective(model, torch.nn.functional.cross_entropy, data), radius=0.5).value
        0.5
    """
    if steps < 1 or not radius > 0 or norm not in NORMS:
        raise InputError(
            f"steps is {steps}, radius {radius}, norm {norm!r}; allowed: steps of 1 or more, a positive radius, and "
            "norm 'linf' or 'l2'."
        )
    view = began(NAME, subject, budget)
    if isinstance(view, Measurement):
        return view
    scale = input_scale(view.objective)
    if scale is None:
        return not_applicable(
            NAME, "The inputs are no table of numbers that vary: they cannot be moved a little."
        )
    before = hear(view.objective)
    if before is None or before.kind == "unjudged":
        return not_applicable(NAME, "The data hold no targets that answers could be compared with.")
    clock = Budget.of(budget).start()
    if is_broken(before):
        return no_answer(NAME, "The model's outputs are NaN or infinite.", state=State.NON_FINITE)
    if clock.exhausted():
        return no_answer(NAME, "The budget allows no gradient.", state=State.OUT_OF_BUDGET)
    epsilon = radius * (scale.spread if norm == "linf" else scale.size)
    return _measured(view, before, _Attack(view.objective, epsilon, norm, steps, clock, scale), radius)


def _measured(view: View, before: Any, attack: _Attack, radius: float) -> Measurement:
    moved = attack.run()
    after = hear(view.objective.on(moved))
    if after is None or is_broken(after):
        return no_answer(
            NAME, "The model's outputs on the moved inputs are not finite.", state=State.NON_FINITE
        )
    drop = compared(before, after)
    details = drop.details | {
        "epsilon": attack.epsilon,
        "steps": attack.taken,
        "masked": attack.masked / view.objective.num_examples,
        "rows": before.rows,
        "split": view.split,
    }
    cut = attack.taken < attack.steps
    state = State.OUT_OF_BUDGET if cut else State.ESTIMATE
    sentence = f"{drop.words} under {attack.norm} changes of {radius:g} of the inputs' scale, on {view.words}"
    sentence += f"; the budget allowed {attack.taken} of {attack.steps} steps." if cut else "."
    if attack.masked:
        sentence += (
            f" {details['masked']:.0%} of the inputs had no gradient: they may look safer than they are."
        )
    return answer(NAME, drop.value, sentence, error=drop.error, state=state, details=details)


@dataclass
class _Attack:
    """Projected gradient ascent on the inputs, all examples at once."""

    objective: Objective
    epsilon: float
    norm: str
    steps: int
    clock: Clock
    scale: InputScale
    taken: int = 0
    masked: int = 0

    def run(self) -> list[Any]:
        """The batches with their inputs at the worst points found."""
        start = list(self.objective.batches)
        here, worst = start, start
        most: list[Tensor | None] = [None] * len(start)
        length = 2.5 * self.epsilon / self.steps if self.steps > 1 else self.epsilon
        while self.taken < self.steps and not self.clock.exhausted(self.taken):
            found = [with_gradient(self.objective, batch) for batch in here]
            self.objective.charge(gradients=1)
            losses = [
                _per_example(said, size_of(batch)) for (_, said, _), batch in zip(found, here, strict=True)
            ]
            kept = [_worse(*each) for each in zip(here, worst, losses, most, strict=True)]
            worst, most = [k[0] for k in kept], [k[1] for k in kept]
            if not self.taken:
                self.masked = sum(int((_flat(s).abs().amax(1) == 0).sum()) for *_, s in found)
            here = [
                self._moved(first, batch, slope, length)
                for first, batch, (*_, slope) in zip(start, here, found, strict=True)
            ]
            self.taken += 1
        return self._last(here, worst, most)

    def _last(self, here: list[Any], worst: list[Any], most: list[Tensor | None]) -> list[Any]:
        """The end point, where it is worse than every point on the way."""
        if any(m is None for m in most):
            return here
        said = [hear(self.objective.on([batch])) for batch in here] if self.steps > 1 else []
        if not said:
            return here
        losses = [_per_example(s, size_of(b)) for s, b in zip(said, here, strict=True)]
        return [_worse(*each)[0] for each in zip(here, worst, losses, most, strict=True)]

    def _moved(self, start: Any, batch: Any, slope: Tensor, length: float) -> Any:
        first, inputs = inputs_of(start).detach(), inputs_of(batch)
        change = inputs - first + length * self._direction(slope)
        if self.norm == "linf":
            change = change.clamp(-self.epsilon, self.epsilon)
        else:
            size = _flat(change).norm(dim=1).clamp_min(1e-300)
            change = change * _wide((self.epsilon / size).clamp_max(1.0), change)
        return with_inputs(start, first + change)

    def _direction(self, slope: Tensor) -> Tensor:
        if self.norm == "linf":
            return slope.sign()
        # Scaled first: the squares of tiny gradients would underflow.
        largest = _flat(slope).abs().amax(1)
        scaled = slope / _wide(torch.where(largest > 0, largest, torch.ones_like(largest)), slope)
        return scaled / _wide(_flat(scaled).norm(dim=1).clamp_min(1e-30), slope)


def _flat(tensor: Tensor) -> Tensor:
    return tensor.reshape(len(tensor), -1)


def _wide(factors: Tensor, like: Tensor) -> Tensor:
    return factors.reshape(-1, *[1] * (like.ndim - 1))


def _per_example(said: Any, size: int) -> Tensor | None:
    """Loss of each example where it can be told from the answers, shape (examples,)."""
    if said is None or said.kind == "unjudged":
        return None
    rows = said.losses if said.kind == "classes" else ((said.scores - said.values) ** 2).mean(1)
    groups = torch.from_numpy(np.asarray(said.groups))
    return torch.zeros(size, dtype=rows.dtype).index_add_(0, groups, rows)


def _worse(batch: Any, worst: Any, losses: Tensor | None, most: Tensor | None) -> tuple[Any, Tensor | None]:
    """Per example the worse of two places, and its loss."""
    if losses is None:
        return batch, None
    if most is None:
        return batch, losses
    better = (losses > most).to(inputs_of(batch).device)
    inputs = torch.where(_wide(better, inputs_of(batch)), inputs_of(batch), inputs_of(worst))
    return with_inputs(batch, inputs), torch.maximum(losses, most)

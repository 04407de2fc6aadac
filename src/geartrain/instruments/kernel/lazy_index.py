"""Lazy or rich: how much the kernel moved for how much was learnt.

Near zero the loss fell while the tangent kernel stood still (lazy: training was kernel regression); of order one or
more, what was learnt took a new kernel (rich: features moved). Misleads before anything is learnt, when both changes
are small. Reference: Chizat, Oyallon, Bach (2019), arXiv:1812.07956. Ledger: 0.7.
"""

from __future__ import annotations

from typing import Any

import torch

from geartrain._torch import ntk as _ntk
from geartrain.budget import Budget
from geartrain.instruments import _tangent
from geartrain.instruments._answers import answer, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments._pair import other_objective
from geartrain.instruments.kernel._compare import relative_change
from geartrain.records import Cost, Measurement, State, format_number


def _price(
    objective: Any,
    other: Any = None,
    num_examples: int = _tangent.EXAMPLES,
    *,
    max_outputs: int | None = _tangent.OUTPUTS,
    **options: Any,
) -> Cost:
    one = _tangent.kernel_price(objective, num_examples, "sum", max_outputs=max_outputs)
    share = min(num_examples, objective.num_examples) / objective.num_examples
    return one + one + (Cost(forwards=4 * share) if one != Cost() else Cost())


@instrument(needs="pair", unit="1", price=_price)
def lazy_index(
    objective: Any,
    other: Any,
    num_examples: int = _tangent.EXAMPLES,
    *,
    max_outputs: int | None = _tangent.OUTPUTS,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Lazy-vs-rich index: relative change of the tangent kernel per relative change of the loss.

    (|K - K₀|/|K₀|) / (|L - L₀|/L₀), kernel and loss on the same examples. Chizat, Oyallon and Bach call training
    lazy when the second, what was achieved, is much larger than the first, the change of the differential: index ≪ 1.
    It falls as 1/α when the outputs are multiplied by α (toy ``lazy-dial``), and as
    1/√width or faster in the standard limit.

    **Cost** two kernels (`ntk`) and four forward passes on the same examples.

    **Assumes** a loss that is positive at the earlier state.

    **Misleads** while little is learnt (``details["loss_change"]`` near 0), and for a loss that has a high floor: the
    change possible is then small.

    Args:
        objective: The present state; an `Objective` with ``loss_fn``.
        other: The state before: an `Objective`, a model, or a vector of parameters; of a run, before training.
        num_examples: Examples, a random subset where there are more.
        max_outputs: A random subset of so many outputs is used where there are more.
        generator: Source of the choice of examples and outputs; a fixed seed if ``None``.
        budget: Limit: passes back, ``"5s"`` or a `Budget`.

    Returns:
        The index, a pure number of at least 0, exact for these examples. ``details``: ``kernel_change``,
        ``loss_change``, ``function_change`` (|f - f₀|/|f₀|, infinite where f₀ = 0), ``num_examples``.

    Raises:
        InputError: A setting is out of range, or ``other`` is no state.

    References:
        Chizat, Oyallon, Bach (2019), arXiv:1812.07956, section 1.1.

    >>> import geartrain as gt
    >>> class Product(torch.nn.Module):  # f = a b x, K = (a² + b²) x x': kernel × 2.5; the loss 4 → 1
    ...     def __init__(self, a, b):
    ...         super().__init__()
    ...         self.ab = torch.nn.Parameter(torch.tensor([a, b]).double())
    ...     def forward(self, x):
    ...         return self.ab.prod() * x
    >>> data = torch.ones(2, 1).double(), 3 * torch.ones(2, 1).double()
    >>> before, after = (gt.Objective(Product(*ab), torch.nn.functional.mse_loss, data) for ab in [(1., 1.), (2., 1.)])
    >>> round(float(lazy_index(after, before)), 12)  # 1.5 / 0.75
    2.0
    """
    reference = other_objective(objective, other, "lazy_index")
    passes = _tangent.Passes(Budget.of(budget).start())

    def compute() -> Measurement:
        place = _tangent.tangent(objective, num_examples, generator, max_outputs=max_outputs)
        if reason := _tangent.obstacle(reference):
            return not_applicable("lazy_index", reason)
        total = _tangent.count_outputs(reference)
        if total != place.all_outputs:
            return not_applicable(
                "lazy_index", f"One state has {place.all_outputs} outputs per example, the other {total}."
            )
        now, before = place.objective, place.at(reference)
        kernels = [passes.kernel(place, o, "sum").matrix.double() for o in (now, before)]
        return _compared(kernels, now, before)

    return _tangent.guarded("lazy_index", compute)


def _compared(kernels: list[torch.Tensor], now: Any, before: Any) -> Measurement:
    loss, first = float(now.value()), float(before.value())
    outputs = [_ntk.flat_outputs(o.outputs(), o.num_examples).double() for o in (now, before)]
    if not first > 0:
        return not_applicable(
            "lazy_index",
            f"The loss before was {format_number(first)}; a relative change needs a positive one.",
        )
    learnt = abs(loss - first) / first
    details = {
        "kernel_change": relative_change(kernels[0], kernels[1]),
        "loss_change": learnt,
        "function_change": relative_change(outputs[0], outputs[1]),
        "num_examples": now.num_examples,
    }
    if learnt == 0:
        return not_applicable(
            "lazy_index",
            "The loss is the same in both states: nothing was learnt to compare with.",
            **details,
        )
    index = details["kernel_change"] / learnt
    sentence = (
        f"The kernel changed by {format_number(details['kernel_change'])} of its norm while the loss changed by "
        f"{format_number(learnt)} of itself."
    )
    return answer("lazy_index", index, sentence, state=State.EXACT, details=details)

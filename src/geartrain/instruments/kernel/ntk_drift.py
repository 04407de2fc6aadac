"""How far the tangent kernel has moved: zero in lazy training, of order one where features are learnt.

Misleads for networks whose batch statistics changed as well: the kernel then moves without the parameters. References:
Fort et al. (2020), arXiv:2010.15110; Chizat, Oyallon, Bach (2019), arXiv:1812.07956. Ledger: 0.7, 0.16.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from geartrain.budget import Budget
from geartrain.instruments import _tangent
from geartrain.instruments._answers import answer, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments._pair import other_objective, same_architecture
from geartrain.instruments.kernel._compare import centred, distance, relative_change
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
    return one + one


@instrument(needs="pair", unit="1", price=_price)
def ntk_drift(
    objective: Any,
    other: Any,
    num_examples: int = _tangent.EXAMPLES,
    *,
    max_outputs: int | None = _tangent.OUTPUTS,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Relative change of the neural tangent kernel between two states: |K - K₀|_F / |K₀|_F, K summed over outputs.

    **Cost** that of two kernels (`ntk`) on the same examples and outputs.

    **Assumes** that an example's outputs depend on that example alone; the states may be of different architectures.

    **Misleads** where only the *scale* of the kernel changed (the outputs grew): the kernel distance
    1 - ⟨K, K₀⟩/(|K||K₀|) in the details is blind to scale, and its centred form also to a constant.

    Args:
        objective: The present state; an `Objective` with ``loss_fn``.
        other: The state to compare with (``K₀``): an `Objective`, a model, or a vector of parameters; of a run, its
            state before training.
        num_examples: Examples, a random subset where there are more.
        max_outputs: A random subset of so many outputs is used where there are more.
        generator: Source of the choice of examples and outputs; a fixed seed if ``None``.
        budget: Limit: passes back, ``"5s"`` or a `Budget`.

    Returns:
        The change, a pure number, exact for these examples and outputs. ``details``: ``kernel_distance``,
        ``centred_kernel_distance`` (one minus the CKA of the two kernels), ``parameter_movement`` (|θ - θ₀|/|θ₀|;
        absent for different architectures), ``norm``, ``norm_before``, ``num_examples``.

    Raises:
        InputError: A setting is out of range, or ``other`` is no state.

    References:
        Fort et al. (2020), arXiv:2010.15110, eq. (3); Kornblith et al. (2019), arXiv:1905.00414.

    >>> import geartrain as gt
    >>> class Product(torch.nn.Module):  # f = a b x has the kernel (a² + b²) x x'
    ...     def __init__(self, a, b):
    ...         super().__init__()
    ...         self.ab = torch.nn.Parameter(torch.tensor([a, b]).double())
    ...     def forward(self, x):
    ...         return self.ab.prod() * x
    >>> data = torch.ones(2, 1).double(), torch.ones(2, 1).double()
    >>> before, after = (gt.Objective(Product(*ab), torch.nn.functional.mse_loss, data) for ab in [(1., 1.), (2., 1.)])
    >>> round(float(ntk_drift(after, before)), 12)
    1.5
    """
    reference = other_objective(objective, other, "ntk_drift")
    passes = _tangent.Passes(Budget.of(budget).start())

    def compute() -> Measurement:
        place = _tangent.tangent(objective, num_examples, generator, max_outputs=max_outputs)
        if reason := _tangent.obstacle(reference):
            return not_applicable("ntk_drift", reason)
        total = _tangent.count_outputs(reference)
        if total != place.all_outputs:
            return not_applicable(
                "ntk_drift", f"One state has {place.all_outputs} outputs per example, the other {total}."
            )
        now = passes.kernel(place, place.objective, "sum").matrix.double()
        before = passes.kernel(place, place.at(reference), "sum").matrix.double()
        return _compared(now, before, objective, reference, place)

    return _tangent.guarded("ntk_drift", compute)


def _compared(
    now: Tensor, before: Tensor, objective: Any, reference: Any, place: _tangent.Tangent
) -> Measurement:
    if not float(before.norm()) > 0:
        return not_applicable(
            "ntk_drift", "The kernel to compare with is zero: no output depended on any parameter."
        )
    drift = relative_change(now, before)
    details: dict[str, Any] = {
        "kernel_distance": distance(now, before),
        "centred_kernel_distance": distance(centred(now), centred(before)),
        "norm": float(now.norm()),
        "norm_before": float(before.norm()),
        "num_examples": place.num_examples,
    }
    if same_architecture(objective, reference):
        details["parameter_movement"] = relative_change(
            objective.parameters().double(), reference.parameters().double()
        )
    sentence = (
        f"The kernel moved by {format_number(drift)} of its norm on {place.num_examples} examples; "
        f"up to scale by {format_number(details['kernel_distance'])}."
    )
    return answer("ntk_drift", drift, sentence, state=State.EXACT, details=details)

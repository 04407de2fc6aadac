"""How wrong the model linearised at an earlier state is about the outputs now: the direct test of the linear regime.

Misleads after a tiny step, where any smooth model is linear: read it with how far the outputs moved. References:
Chizat, Oyallon, Bach (2019), arXiv:1812.07956; Lee et al. (2019), arXiv:1902.06720. Ledger: 0.7.
"""

from __future__ import annotations

from typing import Any

import torch

from geartrain._torch import ntk as _ntk
from geartrain.budget import Budget
from geartrain.errors import NonFiniteError
from geartrain.instruments import _tangent
from geartrain.instruments._answers import answer, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments._pair import other_objective, same_architecture
from geartrain.records import Cost, Measurement, State, format_number


def _price(objective: Any, other: Any = None, **options: Any) -> Cost:
    return Cost() if objective._caller.only_loss else Cost(forwards=2, gradients=2)


@instrument(needs="pair", unit="1", price=_price)
def linearised_error(
    objective: Any,
    other: Any,
    *,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Relative error of the first-order model: |f(θ) - f(θ₀) - J(θ₀)(θ - θ₀)| / |f(θ) - f(θ₀)| over all outputs.

    0: the outputs went exactly where the linearised model says. 1: it explains nothing. Buffers (batch statistics)
    are held at those of the earlier state, so that only the parameters differ.

    **Cost** two forward passes and two gradients.

    **Assumes** the same architecture.

    **Misleads** for small moves; ``details["function_movement"]`` says how far the outputs went. In float32 moves
    below about 1e-5 of the outputs are rounding, and the error is then large for no reason.

    Args:
        objective: The present state; an `Objective` with ``loss_fn``.
        other: The state θ₀ that the model is linearised at: an `Objective`, a model, or a vector of parameters; of a
            run, its state before training.
        generator: Not used.
        budget: 0 or no time left: nothing is measured.

    Returns:
        The error, a pure number, exact for these data. ``details``: ``function_movement`` (|f - f₀|/|f₀|),
        ``parameter_movement`` (|θ - θ₀|/|θ₀|), ``share_of_first_order`` (|J(θ - θ₀)|/|f - f₀|), ``cosine`` (between the
        two movements).

    Raises:
        InputError: ``other`` is no state.

    References:
        Lee et al. (2019), arXiv:1902.06720, eq. (5).

    >>> import geartrain as gt
    >>> class Square(torch.nn.Module):  # f = a² x from a = 1 to 2: moved by 3, first order says 2
    ...     def __init__(self, a):
    ...         super().__init__()
    ...         self.a = torch.nn.Parameter(torch.tensor([a]).double())
    ...     def forward(self, x):
    ...         return self.a**2 * x
    >>> data = torch.ones(2, 1).double(), torch.ones(2, 1).double()
    >>> before, after = (gt.Objective(Square(a), torch.nn.functional.mse_loss, data) for a in (1.0, 2.0))
    >>> round(float(linearised_error(after, before)), 12)
    0.333333333333
    """
    reference = other_objective(objective, other, "linearised_error")
    clock = Budget.of(budget).start()

    def compute() -> Measurement:
        if clock.exhausted():
            raise _tangent.OutOfBudgetError
        if not same_architecture(objective, reference):
            return not_applicable(
                "linearised_error",
                "The two states have different parameters; there is no straight line between them.",
            )
        return _measured(reference, objective.parameters())

    return _tangent.guarded("linearised_error", compute)


def _measured(reference: Any, now: torch.Tensor) -> Measurement:
    before = reference.parameters()
    old, new = (_ntk.flat_outputs(reference.outputs(p), reference.num_examples).double() for p in (None, now))
    for vector in (before, now):
        if not bool(torch.isfinite(vector).all()):
            raise NonFiniteError("The parameters of one of the states hold NaN or infinite numbers.")
    reference._finite(old, "output", None)
    reference._finite(new, "output", now)
    first = _ntk.jvp(reference, now - before).double()
    moved = new - old
    size = float(moved.norm())
    if size == 0:
        return not_applicable("linearised_error", "The outputs have not moved; there is nothing to explain.")
    error = float((moved - first).norm()) / size
    details = {
        "function_movement": size / float(old.norm()) if float(old.norm()) > 0 else float("inf"),
        "parameter_movement": float((now - before).norm() / before.norm())
        if float(before.norm()) > 0
        else float("inf"),
        "share_of_first_order": float(first.norm()) / size,
        "cosine": float((moved * first).sum()) / (size * float(first.norm()))
        if float(first.norm()) > 0
        else 0.0,
    }
    sentence = (
        f"The outputs moved by {format_number(details['function_movement'])} of their norm; the linearised model "
        f"misses {format_number(error)} of that."
    )
    return answer("linearised_error", error, sentence, state=State.EXACT, details=details)

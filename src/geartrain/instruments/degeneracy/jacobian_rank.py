"""Rank of the Jacobian of the outputs: how many directions in parameter space change the outputs on the data at all.

Parameters beyond the rank are free here. Misleads as a count of what the network could represent: it is the rank at
this point on these examples, and it cannot exceed examples x outputs. Ledger: 2.16.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from geartrain.budget import Budget
from geartrain.errors import InputError
from geartrain.instruments import _tangent
from geartrain.instruments._answers import answer
from geartrain.instruments._base import instrument
from geartrain.instruments.degeneracy import _jacobians
from geartrain.records import Cost, Measurement, State, format_number

MAX_ROWS = 1000
EXPLICIT = 2_000_000
"""Entries up to which the Jacobian itself is formed: its singular values resolve what the kernel's, squared, do not."""

_CLEAR = 100.0


def _price(
    objective: Any,
    num_examples: int = _tangent.EXAMPLES,
    *,
    max_outputs: int | None = _tangent.OUTPUTS,
    **options: Any,
) -> Cost:
    full = _tangent.kernel_price(objective, num_examples, "full", max_outputs=max_outputs, max_rows=MAX_ROWS)
    if full == Cost():
        return full
    total = _tangent.count_outputs(objective)
    used = total if max_outputs is None else min(total, max_outputs)
    count = max(1, min(num_examples, objective.num_examples, MAX_ROWS // used))
    if count * used * objective.num_params > EXPLICIT:
        return full
    share = count / objective.num_examples
    return Cost(
        forwards=share, gradients=used * share, peak_bytes=8 * 3 * count * used * objective.num_params
    )


@instrument(needs="objective", unit="1", price=_price)
def jacobian_rank(
    objective: Any,
    num_examples: int = _tangent.EXAMPLES,
    *,
    max_outputs: int | None = _tangent.OUTPUTS,
    tol: float | None = None,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Numerical rank of the Jacobian of the outputs with respect to the parameters, on some examples.

    Counts singular values above ``tol`` times the largest. The Jacobian is formed where it is small (up to 2 million
    entries); else its singular values are the roots of the eigenvalues of the tangent kernel. In float64 always.

    **Cost** one gradient per output on ``num_examples`` examples (the kernel: one pass back per output), and singular
    values of a matrix with at most 1,000 rows: fewer examples are taken to keep to that.

    **Assumes** that an example's outputs depend on that example alone.

    **Misleads** where the singular values fall off without a gap: any threshold is then arbitrary, and
    ``details["gap"]`` and the status say so.

    Args:
        objective: What to measure; an `Objective` with ``loss_fn``.
        num_examples: Examples, a random subset where there are more.
        max_outputs: A random subset of so many outputs is used where there are more.
        tol: Threshold relative to the largest singular value; 1e-10 for the Jacobian, 1e-6 for the kernel if omitted.
        generator: Source of the choice of examples and outputs; a fixed seed if ``None``.
        budget: Limit: passes back, ``"5s"`` or a `Budget`.

    Returns:
        The rank, exact for these examples where there is a clear gap. ``details``: ``gap`` (smallest singular value
        counted over the largest one not), ``threshold``, ``rows`` (examples x outputs), ``num_params``, ``free``
        (params - rank), ``limited_by_rows``, ``singular_values``, ``method``.

    Raises:
        InputError: A setting is out of range.

    References:
        Watanabe (2009), Algebraic Geometry and Statistical Learning Theory; Grigsby et al. (2022), arXiv:2209.04036
        (functional dimension of ReLU networks).

    >>> import geartrain as gt
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 1, bias=False), torch.nn.Linear(1, 2, bias=False)).double()
    >>> data = torch.eye(3).double(), torch.zeros(3, 2).double()  # rank-1 maps: 3 + 2 - 1 dimensions
    >>> float(jacobian_rank(gt.Objective(model, torch.nn.functional.mse_loss, data)))
    4.0
    """
    if tol is not None and not 0 < tol < 1:
        raise InputError(f"tol is {tol}; it must lie between 0 and 1, or be None.")
    passes = _tangent.Passes(Budget.of(budget).start())

    def compute() -> Measurement:
        place = _tangent.tangent(
            objective, num_examples, generator, max_outputs=max_outputs, max_rows=MAX_ROWS
        )
        if passes.clock.exhausted():
            raise _tangent.OutOfBudgetError
        values, explicit = _singular_values(passes, place)
        return _counted(values, explicit, tol, place)

    return _tangent.guarded("jacobian_rank", compute)


def _singular_values(passes: _tangent.Passes, place: _tangent.Tangent) -> tuple[np.ndarray, bool]:
    wide = _jacobians.in_double(place.objective)
    rows = place.num_examples * place.num_outputs
    if rows * wide.num_params <= EXPLICIT:
        if passes.clock.exhausted(place.num_outputs - 1):
            raise _tangent.OutOfBudgetError
        jacobian = _tangent.jacobian(wide, place.outputs).flatten(0, 1)
        return torch.linalg.svdvals(jacobian).cpu().numpy(), True
    kernel = passes.kernel(place, wide, "full").matrix.reshape(rows, rows).double()
    eigenvalues = torch.linalg.eigvalsh(kernel).flip(0).clamp(min=0)
    return eigenvalues.sqrt().cpu().numpy(), False


def _counted(values: np.ndarray, explicit: bool, tol: float | None, place: _tangent.Tangent) -> Measurement:
    found = _jacobians.rank_of(values, tol if tol is not None else 1e-10 if explicit else 1e-6)
    rows, params = place.num_examples * place.num_outputs, place.objective.num_params
    limited = found.rank == rows < params
    details = {
        "gap": found.gap,
        "threshold": found.threshold,
        "rows": rows,
        "num_params": params,
        "free": params - found.rank,
        "limited_by_rows": limited,
        "singular_values": values,
        "method": "jacobian" if explicit else "kernel",
    }
    sentence = f"{found.rank} of {params} directions change the outputs on {place.num_examples} examples"
    sentence += "; more examples may find more." if limited else "."
    if found.gap < _CLEAR:
        sentence += f" There is no clear gap below them (a factor of {format_number(found.gap)})."
        return answer(
            "jacobian_rank",
            found.rank,
            sentence,
            state=State.NOT_CONVERGED,
            error=float("nan"),
            details=details,
        )
    return answer("jacobian_rank", found.rank, sentence, state=State.EXACT, details=details)

"""The empirical neural tangent kernel: how much a step on one example moves the outputs of another.

Misleads where training is far from linear in the parameters: it is the kernel of *this* point, and it moves
(`ntk_drift`). Reference: Jacot, Gabriel, Hongler (2018), arXiv:1806.07572. Ledger: 0.7, 0.16.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from geartrain.budget import Budget
from geartrain.errors import InputError
from geartrain.instruments import _tangent
from geartrain.instruments._base import instrument
from geartrain.records import Cost, Measurement, State, Status

Kind = Literal["mean", "sum", "per_output", "full"]

_CONTRACTED = {"mean": "sum", "sum": "sum", "per_output": "per_output", "full": "full"}
_DIMS = {
    "mean": ("example", "example"),
    "sum": ("example", "example"),
    "per_output": ("output", "example", "example"),
    "full": ("example", "output", "example", "output"),
}


def _price(
    objective: Any,
    num_examples: int = _tangent.EXAMPLES,
    *,
    kind: Kind = "mean",
    max_outputs: int | None = _tangent.OUTPUTS,
    **options: Any,
) -> Cost:
    return _tangent.kernel_price(objective, num_examples, _CONTRACTED[kind], max_outputs=max_outputs)  # type: ignore[arg-type]


@instrument(needs="objective", unit="1/θ²", price=_price)
def ntk(
    objective: Any,
    num_examples: int = _tangent.EXAMPLES,
    *,
    kind: Kind = "mean",
    max_outputs: int | None = _tangent.OUTPUTS,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Empirical neural tangent kernel: inner products of the gradients of the outputs with respect to the parameters.

    K[(i,a), (j,b)] = Σ_θ ∂f_a(x_i)/∂θ · ∂f_b(x_j)/∂θ. Contracted layer by layer from what went into each layer and the
    gradients of what came out, places (words, pixels) summed exactly; the Jacobian is never formed. Parameters that no
    layer of a known kind explains (recurrent cells, fused attention, tied weights) take rows of the Jacobian of their
    own; every layer is checked against autograd, so that the kernel is exact for any module.

    **Cost** one forward pass, one gradient for the check, and one pass back per output, without weights, on
    ``num_examples`` examples; parameters without structure take one gradient per output. Memory: the kernel, and at
    most 256 MB for the gradients at the layers (for ``"full"`` those of the largest layer, if more) plus 256 MB of
    working space: ``details["bytes"]``, and the price.

    **Assumes** that an example's outputs depend on that example alone (no batch normalisation in training mode).

    **Misleads** as a description of training once the kernel moves; see `ntk_drift` and `lazy_index`. In float32
    eigenvalues below about 1e-6 of the largest one are rounding.

    Args:
        objective: What to measure; an `Objective` with ``loss_fn``.
        num_examples: Examples, a random subset where there are more.
        kind: ``"mean"`` over outputs, ``"sum"``, ``"per_output"``, or ``"full"``.
        max_outputs: A random subset of so many outputs is used where there are more; ``None`` for all.
        generator: Source of the choice of examples and outputs; a fixed seed if ``None``.
        budget: Limit: passes back, ``"5s"`` or a `Budget`.

    Returns:
        The kernel, unit (output)²/θ². Exact for these examples; where outputs were drawn, the mean and the sum carry
        the standard error of that choice. ``details``: ``trace`` (over examples, of the kernel shown), ``examples``,
        ``outputs`` (indices), ``num_outputs``, ``structured`` and ``rows`` (names of parameters), ``bytes``.

    Raises:
        InputError: A setting is out of range.

    References:
        Jacot, Gabriel, Hongler (2018), arXiv:1806.07572, eq. (4); Novak, Sohl-Dickstein, Schoenholz (2022),
        arXiv:2206.08720 (structured derivatives).

    >>> import geartrain as gt
    >>> model = torch.nn.Linear(2, 1).double()  # f = w·x + b, so that K = x·x' + 1
    >>> data = torch.tensor([[1.0, 0.0], [1.0, 2.0]]).double(), torch.zeros(2, 1).double()
    >>> ntk(gt.Objective(model, torch.nn.functional.mse_loss, data)).value
    array([[2., 2.],
           [2., 6.]])
    """
    if kind not in _DIMS:
        raise InputError(f"kind is {kind!r}; allowed: {', '.join(map(repr, _DIMS))}.")
    passes = _tangent.Passes(Budget.of(budget).start())

    def compute() -> Measurement:
        place = _tangent.tangent(objective, num_examples, generator, max_outputs=max_outputs)
        drawn = place.outputs is not None and kind in {"mean", "sum"}
        contracted = "per_output" if drawn else _CONTRACTED[kind]
        found = passes.kernel(place, place.objective, contracted)  # type: ignore[arg-type]
        value, error = _reduced(found.matrix, kind, drawn, place)
        details = {
            "trace": float(np.einsum(_TRACE[kind], value)),
            "examples": place.chosen.numpy(),
            "outputs": np.arange(place.all_outputs) if place.outputs is None else place.outputs.cpu().numpy(),
            "num_outputs": place.all_outputs,
            "structured": found.structured,
            "rows": found.rows,
            "bytes": found.bytes,
        }
        status = Status(State.ESTIMATE if drawn else State.EXACT, _sentence(place, len(found.rows)))
        coords = {"example": place.chosen.tolist(), "output": details["outputs"].tolist()}
        used = {k: v for k, v in coords.items() if k in _DIMS[kind]}
        cost = Cost(peak_bytes=found.bytes)
        return Measurement("ntk", value, "1/θ²", status, error, _DIMS[kind], used, cost, details)

    return _tangent.guarded("ntk", compute, unit="1/θ²")


_TRACE = {"mean": "ii->", "sum": "ii->", "per_output": "aii->", "full": "iaia->"}


def _reduced(
    matrix: Tensor, kind: Kind, drawn: bool, place: _tangent.Tangent
) -> tuple[np.ndarray, np.ndarray | float]:
    """The kernel asked for, and its error from the choice of outputs (drawn without replacement)."""
    if not drawn:
        value = matrix / place.all_outputs if kind == "mean" else matrix
        return value.cpu().double().numpy(), 0.0
    factor = 1.0 if kind == "mean" else float(place.all_outputs)
    used, total = place.num_outputs, place.all_outputs
    value = matrix.mean(0) * factor
    if used < 2:
        return value.cpu().double().numpy(), np.full(value.shape, np.nan)
    error = factor * matrix.std(0) * float(np.sqrt((1 - used / total) / used))
    return value.cpu().double().numpy(), error.cpu().double().numpy()


def _sentence(place: _tangent.Tangent, num_rows: int) -> str:
    which = (
        f"all {place.all_outputs}" if place.outputs is None else f"{place.num_outputs} of {place.all_outputs}"
    )
    rest = f"; {num_rows} parameters by rows of the Jacobian" if num_rows else ""
    return f"On {place.num_examples} examples and {which} outputs, layer by layer{rest}."

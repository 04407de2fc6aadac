"""What the curvature instruments share: choice of matrix, budget, and sentences about how a run ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from geartrain.budget import Clock
from geartrain.errors import InputError
from geartrain.instruments import _fisher, _outer
from geartrain.linalg import Stop
from geartrain.records import Measurement, State, Status

Operator = Literal["hessian", "ggn", "fisher", "fisher_mc", "empirical_fisher", "covariance"]
"""Which curvature matrix.

- ``"hessian"``: ∂²L/∂θ².
- ``"ggn"``: generalised Gauss-Newton, Jᵀ (∂²ℓ/∂f²) J: the Hessian without the curvature of the network itself.
- ``"fisher"``: expected squared slope under the model's own predictive distribution, exactly. For cross-entropy,
  squared error and binary cross-entropy on logits it *is* the Gauss-Newton matrix, and is computed as that.
- ``"fisher_mc"``: the same with one target drawn per prediction, the same in every product.
- ``"empirical_fisher"``: (1/n) Σ gᵢ gᵢᵀ with the targets that there are; uncentred, and no curvature in general.
- ``"covariance"``: that less g gᵀ, the noise of a batch of one.
"""

UNITS = {
    "hessian": "ℓ/θ²",
    "ggn": "ℓ/θ²",
    "fisher": "ℓ/θ²",
    "fisher_mc": "ℓ/θ²",
    "empirical_fisher": "ℓ²/θ²",
    "covariance": "ℓ²/θ²",
}
CURVATURES = ("hessian", "ggn", "fisher", "fisher_mc")
"""Those with the unit of a curvature, for which a Newton step has a meaning."""


def matvec_of(
    objective: Any, operator: str, generator: torch.Generator | None = None
) -> Callable[[Tensor], Tensor]:
    """The product of the objective with the matrix of that name.

    Args:
        objective: Whose matrix.
        operator: Its name.
        generator: Draws the targets of ``"fisher_mc"``; a fixed seed if ``None``.

    Raises:
        InputError: There is no such matrix.
        UnsupportedError: The objective has none: its loss hides the outputs, or is no likelihood.
    """
    if operator not in UNITS:
        raise InputError(f"operator is {operator!r}; allowed: {', '.join(map(repr, UNITS))}.")
    if operator == "hessian":
        return objective.hvp
    if operator == "ggn":
        return objective.ggnvp
    if operator == "fisher":
        return _fisher.fisher_vp(objective)
    if operator == "fisher_mc":
        return _fisher.sampled_fisher_vp(objective, generator)
    return _outer.outer_vp(objective, centred=operator == "covariance")


def bytes_of_operator(objective: Any, operator: str) -> int:
    """Memory that the products keep besides the graph of the model."""
    if operator in ("hessian", "ggn", "fisher", "fisher_mc"):
        return 0
    rows = _outer.bytes_of_rows(objective)
    return rows if rows <= _outer.KEPT_BYTES else 0


def place_of(objective: Any) -> dict[str, Any]:
    """Dtype and device of the objective's flat vectors."""
    return {"dtype": objective.dtype, "device": objective.device}


def limits_of(clock: Clock, default_products: int | None) -> dict[str, Any]:
    """A running budget as the arguments that the iterations take; without one the default limit holds."""
    products = clock.products if clock.products is not None else default_products
    return {"max_products": products, "should_stop": clock.exhausted}


def bytes_of(objective: Any, num_vectors: float) -> int:
    """Memory of that many flat vectors."""
    return int(num_vectors * objective.num_params * torch.finfo(objective.dtype).bits // 8)


def unfinished(stop: Stop, done: str) -> Status:
    """Status of a run that its budget ended."""
    return Status(State.OUT_OF_BUDGET, f"{stop.value[0].upper()}{stop.value[1:]}; {done}")


def not_symmetric(asymmetry: float) -> Status:
    """Status when the products cannot come from one symmetric matrix."""
    return Status(
        State.NOT_CONVERGED,
        f"Products are not those of one symmetric matrix (relative error {asymmetry:.1g}): the loss changes "
        "between evaluations, or its second derivative is wrong; nothing here can be trusted.",
    )


def nothing(
    name: str, unit: str, status: Status, shape: tuple[int, ...] = (), dims: tuple[str, ...] = ()
) -> Measurement:
    """A measurement that holds no number, only why."""
    empty = np.full(shape, np.nan) if dims else float("nan")
    return Measurement(name, empty, unit, status, standard_error=empty, dims=dims)


def padded(values: np.ndarray, length: int) -> np.ndarray:
    """The values, with NaN for those that were not reached."""
    return np.concatenate([values, np.full(length - len(values), np.nan)])


def count(number: int, noun: str) -> str:
    """``1 product``, ``2 products``.

    >>> count(1, "product"), count(2, "product")
    ('1 product', '2 products')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"

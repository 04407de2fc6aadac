"""Normalised margin: how far the answers are from changing, in units of how steep the network may be.

On separable data cross-entropy makes weights and margins grow for ever; their ratio settles. Networks fitted to random
labels have small normalised margins, however small their training loss.

Ledger: 1.18, 1.22
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from geartrain.budget import Budget
from geartrain.errors import InputError
from geartrain.instruments._answers import no_answer, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments._decisions import decided, may_decide
from geartrain.instruments._layers import in_evaluation
from geartrain.instruments._limits import out_of_budget, spent, stopped
from geartrain.instruments.complexity._matrices import singular_values
from geartrain.objective import Objective
from geartrain.records import Cost, Measurement, State, Status

NAME = "normalised_margin"
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def _price(objective: Any, **options: Any) -> Cost:
    return Cost(forwards=1 if may_decide(objective) else 0, peak_bytes=16 * objective.num_params)


@instrument(needs="objective", unit="1", price=_price)
def normalised_margin(
    objective: Objective,
    *,
    quantile: float = 0.0,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the margin of the classifier over the product of the spectral norms of its weight matrices.

    γ_i = (f_y(x_i) - max_{j≠y} f_j(x_i)) / Π_l ‖W_l‖₂, the smallest one over the data (or a quantile). For one score
    and two classes γ_i is ±f(x_i), from its cut. A linear classifier with one score has its geometric margin.

    **Cost** one forward pass in evaluation mode, and the singular values of the weights.

    **Assumes** that the network is homogeneous in its layers (ReLU, no biases): then rescaling layers changes nothing.

    **Misleads** with biases, normalisation layers or residual connections: the product then says little about how
    steep the network is. Compare the same architecture with itself. The smallest margin belongs to one example;
    a mislabelled one makes it negative.

    Args:
        objective: A classifier and its data.
        quantile: Which quantile of the margins over examples, from 0 (smallest) to 1.
        generator: Not used.
        budget: Limit.

    Returns:
        The margin, exact for these data; negative where the quantile is misclassified. ``details``: ``quantiles`` (of
        normalised margins), ``mean``, ``raw`` (the quantile before dividing), ``log_product_spectral``,
        ``per_norm`` (raw / ‖θ‖^depth), ``bartlett`` (raw over Π s_l (Σ (‖W_lᵀ‖₂,₁/s_l)^⅔)^(3/2)),
        ``depth`` (matrices), ``misclassified``. Not applicable where targets are no classes.

    Raises:
        InputError: The quantile is not between 0 and 1.

    References:
        Bartlett, Foster, Telgarsky (2017), arXiv:1706.08498, eq. (1.2) with reference matrices 0; Lyu and Li (2020),
        arXiv:1906.05890.

    >>> import geartrain as gt
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> _ = model.weight.data.copy_(torch.tensor([[30.0, 40.0]]))
    >>> data = torch.tensor([[1.0, 1.0], [-1.0, 0.0]]), torch.tensor([[1.0], [-1.0]])
    >>> round(float(normalised_margin(gt.Objective(model, torch.nn.functional.mse_loss, data))), 6)
    0.6
    """
    if not 0 <= quantile <= 1:
        raise InputError(f"quantile is {quantile}; allowed: 0 (the smallest margin) to 1.")
    clock = Budget.of(budget).start()
    if not may_decide(objective):
        return not_applicable(NAME, "The targets are not classes, so there is no margin.")
    if (answer := stopped(NAME, objective, clock)) is not None:
        return answer
    if spent(clock, 0):
        return out_of_budget(NAME)
    found = decided(in_evaluation(objective))
    if found is None:
        return not_applicable(NAME, "The outputs do not say which class they mean.")
    margins = found.margins[~np.isnan(found.margins)]
    if not len(margins) or not np.isfinite(margins).all():
        return no_answer(NAME, "A margin is NaN or infinite.", state=State.NON_FINITE)
    spectra = _spectra(objective)
    if not spectra or min(s[0] for s, _ in spectra) == 0:
        return not_applicable(NAME, "The model has no weight matrix, or one that is zero.")
    return _answer(margins, spectra, objective, quantile)


def _spectra(objective: Objective) -> list[tuple[np.ndarray, float]]:
    """Singular values of every weight matrix, and ‖Wᵀ‖₂,₁: the sum of the norms of its rows."""
    parts = objective.layout.unflatten(objective.parameters())
    matrices = [p.double().reshape(len(p), -1) for p in parts if p.ndim >= 2]
    return [(singular_values(m), float(torch.linalg.vector_norm(m, dim=1).sum())) for m in matrices]


def _answer(
    margins: np.ndarray, spectra: list[tuple[np.ndarray, float]], objective: Objective, quantile: float
) -> Measurement:
    tops = np.array([s[0] for s, _ in spectra])
    logarithm = float(np.log(tops).sum())
    ratios = np.array([r for _, r in spectra]) / tops
    scale = float(np.exp(-logarithm))
    raw = float(np.quantile(margins, quantile))
    total = float(torch.linalg.vector_norm(objective.parameters().double()))
    details = {
        "quantiles": dict(zip(QUANTILES, (np.quantile(margins, QUANTILES) * scale).tolist(), strict=True)),
        "mean": float(margins.mean()) * scale,
        "raw": raw,
        "log_product_spectral": logarithm,
        "per_norm": raw / total ** len(spectra),
        "bartlett": raw * scale / float((ratios ** (2 / 3)).sum() ** 1.5),
        "depth": len(spectra),
        "misclassified": float((margins <= 0).mean()),
    }
    which = "smallest" if quantile == 0 else f"{quantile:.0%} quantile of the"
    status = Status(
        State.EXACT,
        f"The {which} margin is {raw:.3g}, over a product of spectral norms of {np.exp(logarithm):.3g}.",
    )
    return Measurement(NAME, raw * scale, "1", status, 0.0, details=details)

"""Rank of the weight matrices: how many directions each layer really uses.

A matrix of random numbers uses nearly all of them; training concentrates the spectrum (fewer directions, larger ones),
weight decay and small initialisation more so. A layer whose rank has collapsed passes little on; one that still looks
random has hardly been trained, or is held by its initialisation.

References:
    Roy, Vetterli (2007), "The effective rank", EUSIPCO; Rudelson, Vershynin (2007), arXiv:math/0503442, for the stable
    rank.

Ledger: 0.15, 0.19
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from geartrain.budget import Budget
from geartrain.instruments._answers import no_answer, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments.flow import _matrices, _spectra
from geartrain.objective import Objective
from geartrain.records import Cost, Measurement, State, Status


def _price(objective: Objective, **options: Any) -> Cost:
    return _matrices.price(objective.layout)


@instrument(needs="objective", unit="1", price=_price)
def weight_rank(
    objective: Objective,
    *,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the effective rank of every weight matrix, the exponential of the entropy of its singular values.

    With shares p_i = σ_i / Σσ: exp(-Σ p_i ln p_i), between 1 and the smaller side; r for r equal singular values. The
    stable rank ‖A‖_F²/‖A‖₂² is never larger than the rank and ignores small singular values. A convolution counts as
    the matrix (channels out) x (channels in · places).

    **Cost** no pass over the data; one singular value decomposition per matrix, about mn·min(m, n) operations.

    **Assumes** nothing of the loss.

    **Misleads** across rescalings that leave the function alone (a rectifier unit's incoming weights times α, outgoing
    ones over α, change both matrices' ranks), for matrices whose inputs fill few directions (`activation_rank`), and
    for several matrices kept as one parameter (attention's query, key and value).

    Args:
        objective: What to measure; a restricted one measures its own parameters only.
        generator: Not used: nothing is drawn.
        budget: Limit in time; matrices that it does not reach are NaN.

    Returns:
        The effective rank, dims ``("layer",)``, exact; NaN for a matrix of zeros. ``details``: per layer
        ``stable_rank``, ``participation_ratio`` ((Σσ²)²/Σσ⁴), ``numerical_rank``, ``shape``, ``largest`` (σ₁),
        ``relative`` (over the smaller side), ``of_random`` (over that of independent entries in the same shape, by the
        Marchenko-Pastur law; 1 at the usual initialisations), and ``lowest`` (name of the layer where that is least).

    Raises:
        InputError: The budget is none.

    References:
        Roy, Vetterli (2007), definition 1.

    Example:
        Singular values 1 and 1:

        >>> import torch
        >>> model = torch.nn.Linear(2, 2, bias=False).double()
        >>> model.weight.data = torch.tensor([[0.0, 1.0], [-1.0, 0.0]]).double()
        >>> x = torch.ones(1, 2).double()
        >>> weight_rank(Objective(model, torch.nn.functional.mse_loss, (x, x))).value.round(12).tolist()
        [2.0]
    """
    name, shapes = "weight_rank", _matrices.shapes_of(objective.layout)
    if not shapes:
        return not_applicable(name, "No parameter is a matrix.")
    parameters = objective.parameters()
    if not bool(torch.isfinite(parameters).all()):
        return no_answer(name, "A parameter is NaN or infinite.", state=State.NON_FINITE)
    found = _matrices.spectra(objective.layout, parameters, Budget.of(budget).start())
    rows = {label: _matrices.ranks(values) for label, values in found.items()}
    value = _matrices.table(rows, "effective_rank")
    done = sum(len(values) > 0 for values in found.values())
    details = _details(rows, found, shapes, value)
    return Measurement(
        name,
        value,
        "1",
        _status(done, len(found), details),
        np.where(np.isnan(value), np.nan, 0.0),
        ("layer",),
        {"layer": list(found)},
        details=details,
    )


def _details(
    rows: dict[str, dict[str, float]],
    found: dict[str, np.ndarray],
    shapes: dict[str, tuple[int, int]],
    value: np.ndarray,
) -> dict[str, Any]:
    labels = list(found)
    relative = value / [min(shapes[n]) for n in labels]
    of_random = value / [max(_spectra.gaussian_effective_rank(*shapes[n]), 1.0) for n in labels]
    known = np.flatnonzero(np.isfinite(of_random))
    return {
        **{k: _matrices.table(rows, k) for k in ("stable_rank", "participation_ratio", "numerical_rank")},
        "shape": shapes,
        "largest": np.array([values.max() if len(values) else np.nan for values in found.values()]),
        "relative": relative,
        "of_random": of_random,
        "lowest": labels[int(known[np.argmin(of_random[known])])] if len(known) else "",
    }


def _status(done: int, total: int, details: dict[str, Any]) -> Status:
    if done < total:
        return Status(State.OUT_OF_BUDGET, f"The budget reached {done} of {total} matrices.")
    if not details["lowest"]:
        return Status(State.EXACT, "Every matrix is zero.")
    share = float(np.nanmin(details["of_random"]))
    return Status(
        State.EXACT,
        f"{total} matrices; lowest in {details['lowest']}: {share:.0%} of that of a random matrix.",
    )

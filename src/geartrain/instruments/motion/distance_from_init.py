"""Distance from the initialisation: how far training has carried the parameters, in all and layer by layer.

Small relative distances with a good fit are the sign of lazy training (the network behaves like its linearisation);
a layer that has not moved has not learnt. The path that was walked is longer: see `path_length`.

References:
    Chizat, Oyallon, Bach (2019), "On Lazy Training in Differentiable Programming", arXiv:1812.07956; Nagarajan, Kolter
    (2019), arXiv:1901.01672, for distance from initialisation in generalisation bounds.

Ledger: 0.7, 0.21
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from geartrain.budget import Budget
from geartrain.errors import InputError
from geartrain.instruments._answers import exact, no_answer, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments._pair import other_objective
from geartrain.objective import Objective
from geartrain.records import Cost, Measurement, State


def _price(objective: Objective, **options: Any) -> Cost:
    return Cost(peak_bytes=3 * objective.num_params * torch.finfo(objective.dtype).bits // 8)


@instrument(needs="pair", unit="θ", price=_price)
def distance_from_init(
    objective: Objective,
    other: Objective | nn.Module | Tensor,
    *,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure |θ - θ₀|, the Euclidean distance of the parameters from another state, such as the initialisation.

    **Cost** no pass over the data.

    **Assumes** that both states have the same parameters, by name and shape.

    **Misleads** across parametrisations: a rectifier network may be rescaled far away without any change of its
    function, and permuted units are at a distance although nothing differs. Weight decay and normalisation layers
    move weights that do not matter.

    Args:
        objective: The present state.
        other: What the distance is taken from: an `Objective`, a model, or a vector of parameters. Of a run,
            `geartrain.measure` passes its state before training.
        generator: Not used: nothing is drawn.
        budget: Not used: nothing is spent.

    Returns:
        The distance, unit θ, exact. ``details``: ``relative`` (over |θ₀|; NaN if that is 0), ``cosine`` (of θ and θ₀),
        ``growth`` (|θ|/|θ₀|), ``rms`` (distance per √parameter), and ``layers``: for every module the same numbers and
        its ``share`` of the squared distance; ``most_moved`` and ``least_moved`` (by relative distance).

    Raises:
        InputError: ``other`` is something else, or a vector of another length.

    References:
        Chizat, Oyallon, Bach (2019), arXiv:1812.07956.

    Example:
        From (3, 4) to (0, 4):

        >>> import torch
        >>> model = torch.nn.Linear(2, 1, bias=False).double()
        >>> model.weight.data = torch.tensor([[0.0, 4.0]]).double()
        >>> x, y = torch.ones(1, 2).double(), torch.ones(1, 1).double()
        >>> objective = Objective(model, torch.nn.functional.mse_loss, (x, y))
        >>> result = distance_from_init(objective, torch.tensor([3.0, 4.0]).double())
        >>> float(result), result.details["relative"], round(result.details["cosine"], 9)
        (3.0, 0.6, 0.8)
    """
    name = "distance_from_init"
    start = _start_of(objective, other, name)
    if start is None:
        return not_applicable(
            name, "The two states have different parameters, so there is no distance.", unit="θ"
        )
    present, start = objective.parameters().double(), start.double()
    if not bool(torch.isfinite(present).all() & torch.isfinite(start).all()):
        return no_answer(name, "A parameter is NaN or infinite.", unit="θ", state=State.NON_FINITE)
    slices = objective.layout.slices()
    layers = {}
    total = float((present - start).norm())
    for layer, names in objective.layers().items():
        parts = [torch.cat([v[slices[n]] for n in names]) for v in (present, start)]
        row = _compared(parts[0], parts[1])
        layers[layer or "(model)"] = row | {
            "share": (row["distance"] / total) ** 2 if total > 0 else math.nan
        }
    whole = _compared(present, start)
    ranked = sorted(
        (row["relative"], layer) for layer, row in layers.items() if row["relative"] == row["relative"]
    )
    details = {k: whole[k] for k in ("relative", "cosine", "growth", "rms")} | {
        "layers": layers,
        "most_moved": ranked[-1][1] if ranked else "",
        "least_moved": ranked[0][1] if ranked else "",
    }
    return exact(name, total, _sentence(whole["relative"], ranked), unit="θ", details=details)


def _start_of(objective: Objective, other: Any, name: str) -> Tensor | None:
    """The parameters of the other state in the order of the objective's, or ``None`` where they do not fit."""
    layout = objective.layout
    if isinstance(other, Tensor):
        if other.shape != (objective.num_params,):
            other_objective(objective, other, name)  # says what is wrong
        return other.detach().to(objective.device)
    model = other.model if isinstance(other, Objective) else other
    if not isinstance(model, nn.Module):
        raise InputError(
            f"{name}: other is a {type(other).__name__}; pass an Objective, a model, or a vector of parameters."
        )
    named = dict(model.named_parameters())
    found = [named.get(n) for n in layout.names]
    if any(p is None or p.shape != s for p, s in zip(found, layout.shapes, strict=True)):
        return None
    return layout.flatten(p.detach().to(objective.device) for p in found if p is not None)


def _compared(present: Tensor, start: Tensor) -> dict[str, float]:
    distance, now, before = (float(v.norm()) for v in (present - start, present, start))
    return {
        "distance": distance,
        "relative": distance / before if before > 0 else math.nan,
        "cosine": float(present @ start) / (now * before) if now * before > 0 else math.nan,
        "growth": now / before if before > 0 else math.nan,
        "rms": distance / np.sqrt(len(present)),
    }


def _sentence(relative: float, ranked: list[tuple[float, str]]) -> str:
    if not ranked:
        return "The parameters began at zero."
    far = f"{ranked[-1][1]} moved most ({ranked[-1][0]:.3g} of its norm)"
    if len(ranked) == 1:
        return f"{relative:.3g} of the norm at the start."
    return f"{relative:.3g} of the norm at the start; {far}, {ranked[0][1]} least ({ranked[0][0]:.3g})."

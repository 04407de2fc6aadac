"""Directions to look along from the present point: random by filter, downhill, an update, sharp ones, or given.

Filter normalisation (Li et al. 2018, arXiv:1712.09913, §4): a random direction whose every filter has the norm of the
network's own, so that a step of length 1 means the same in networks whose weights differ in scale.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from geartrain.errors import InputError
from geartrain.instruments import _curvature
from geartrain.linalg import top_eigenpairs
from geartrain.linalg.operators import ShouldStop
from geartrain.objective import Objective
from geartrain.run import Run

Direction = Literal["random", "gradient", "update", "hessian"]
KINDS = ("random", "gradient", "update", "hessian")


@dataclass(frozen=True)
class Along:
    """A direction and what it is.

    Attributes:
        vector: Shape (params,); the point t = 1 lies at the present parameters plus this.
        words: What it is, for a sentence: ``"a random filter-normalised direction"``.
        natural: Whether its length is arbitrary, to be chosen by the loss (a unit vector) or its own.
    """

    vector: Tensor
    words: str
    natural: bool = False


def filter_normalised(objective: Objective, generator: torch.Generator) -> Tensor:
    """A Gaussian direction in which every filter has the norm of the parameters' own; biases and scales stay put.

    Filters are the slices along the first axis of parameters with two axes or more. A model without any of these is
    one filter per parameter.
    """
    raw = torch.randn(objective.num_params, generator=generator, dtype=torch.float64, device=generator.device)
    raw = raw.to(objective.device, objective.dtype)
    here, direction = objective.parameters(), torch.zeros_like(raw)
    matrices = any(len(shape) > 1 for shape in objective.layout.shapes)
    where = objective.layout.slices()
    for name, shape in zip(objective.layout.names, objective.layout.shapes, strict=True):
        if matrices and len(shape) < 2:
            continue
        rows = shape[0] if len(shape) > 1 else 1
        weights, noise = (v[where[name]].reshape(rows, -1) for v in (here, raw))
        sizes = noise.norm(dim=1, keepdim=True).clamp_min(torch.finfo(raw.dtype).tiny)
        direction[where[name]] = (noise / sizes * weights.norm(dim=1, keepdim=True)).reshape(-1)
    if not bool(direction.any()):  # all weights are zero, so is what is relative to them
        return raw / raw.norm()
    return direction


def along(
    objective: Objective,
    direction: Any,
    *,
    name: str,
    index: int,
    run: Run | None,
    generator: torch.Generator,
    should_stop: ShouldStop | None = None,
) -> Along | None:
    """The direction that users mean by a word or a vector; ``None`` where the budget ended the search for it.

    Raises:
        InputError: There is no such direction.
    """
    if isinstance(direction, Tensor):
        return Along(_checked(objective, direction, name), "the direction given")
    if direction == "random":
        return Along(filter_normalised(objective, generator), "a random filter-normalised direction")
    if direction == "gradient":
        gradient = objective.gradient()
        size = float(gradient.norm())
        if size == 0:
            return Along(gradient, "the negative gradient, which vanishes")
        return Along(-gradient / size, "the negative gradient", natural=True)
    if direction == "update":
        return Along(_next_update(objective, run, name), "the next update")
    if direction == "hessian":
        negative = index < 0
        rows = sharp_directions(
            objective, max(index + 1, 1), generator, negative=negative, should_stop=should_stop
        )
        which = "the most negative Hessian eigenvector" if negative else f"Hessian eigenvector {index + 1}"
        return None if rows is None else Along(rows[-1], which, natural=True)
    raise InputError(
        f"{name}: direction is {direction!r}; allowed: {', '.join(map(repr, KINDS))}, "
        "or a vector of shape (params,)."
    )


def sharp_directions(
    objective: Objective,
    count: int,
    generator: torch.Generator,
    *,
    negative: bool = False,
    should_stop: ShouldStop | None = None,
) -> Tensor | None:
    """Unit eigenvectors in rows: the ``count`` of largest |curvature|, or the one most negative; ``None`` if too few.

    The sign of an eigenvector is arbitrary; its largest entry is made positive, so that pictures repeat.
    """
    found = top_eigenpairs(
        objective.hvp,
        objective.num_params,
        count,
        num_smallest=1 if negative else 0,
        which="magnitude",
        tol=1e-3,
        max_products=min(objective.num_params, 50 + 10 * count),
        generator=generator,
        should_stop=should_stop,
        eigenvectors=True,
        **_curvature.place_of(objective),
    )
    rows = found.smallest_eigenvectors if negative else found.eigenvectors
    if rows is None or len(rows) < (1 if negative else count):
        return None
    largest = rows.gather(1, rows.abs().argmax(dim=1, keepdim=True))
    return torch.where(largest < 0, -rows, rows)


def parabola_length(loss: float, slope: float, curvature: float) -> float:
    """How far along a unit vector the parabola (or, without curvature, the line) moves the loss by its own size."""
    size = abs(loss)
    if size == 0 or not math.isfinite(size):
        return 1.0
    if curvature != 0 and math.isfinite(curvature):
        return math.sqrt(2 * size / abs(curvature))
    return size / abs(slope) if slope != 0 else 1.0


def _checked(objective: Objective, direction: Tensor, name: str) -> Tensor:
    if direction.shape != (objective.num_params,):
        raise InputError(
            f"{name}: direction has shape {tuple(direction.shape)}; the objective has {objective.num_params} "
            f"parameters, so a vector of shape ({objective.num_params},) is needed, in the order of "
            "model.parameters()."
        )
    if not bool(torch.isfinite(direction).all()):
        raise InputError(f"{name}: direction holds NaN or infinite numbers; allowed: finite ones.")
    return direction.detach().to(objective.device, objective.dtype)


def _next_update(objective: Objective, run: Run | None, name: str) -> Tensor:
    if run is None:
        raise InputError(
            f"{name}: direction is 'update', and an Objective has no optimizer; pass the geartrain.Run, or the "
            "update as a vector."
        )
    before = objective.parameters()
    with run.preserved():
        run.advance(1)
        after = objective.parameters()
    return after - before

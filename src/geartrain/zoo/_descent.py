"""What the instruments of motion read while gradient descent runs, where theory knows every step in advance.

A toy hands in the points that its run passes through (`Path`), with the loss and the gradient at each; the numbers that
the instruments should give are then definitions. On a parabola L = floor + ½ (θ-θ*)ᵀ H (θ-θ*) the points are known as
soon as the first is, since a step of size η multiplies the gap to the minimum by I - ηH (`down_a_parabola`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from geartrain.zoo._base import Truth

STEPS = 16
"""Steps that the instruments of motion take by default."""
_STANDSTILL = 1e-10
"""Steps below this share of the parameters' size (or of the longest step) are rounding more than motion."""
_SOURCE = "Gradient descent followed by hand: θ ← θ - η∇L with the gradient in closed form (textbook)."
_ASSUMES = "Every step takes all the data."


@dataclass(frozen=True)
class Path:
    """The first steps of gradient descent.

    Attributes:
        points: Parameters before the first and after each step, shape (steps + 1, params).
        gradients: Of the loss at each, same shape.
        losses: Shape (steps + 1,).
        hessian: At the first point, shape (params, params).
        step: η.
        layers: Numbers of parameters of the modules, in their order; one module if omitted.
    """

    points: np.ndarray
    gradients: np.ndarray
    losses: np.ndarray
    hessian: np.ndarray
    step: float
    layers: Sequence[int] = ()

    @cached_property
    def updates(self) -> np.ndarray:
        """Changes of the parameters, shape (steps, params)."""
        return np.diff(self.points, axis=0)

    @cached_property
    def parts(self) -> list[slice]:
        """Where each module lies in the flat vector."""
        ends = np.cumsum([0, *(self.layers or [self.points.shape[1]])])
        return [slice(a, b) for a, b in pairwise(ends)]


def down_a_parabola(
    hessian: np.ndarray, gap: np.ndarray, step: float, minimum: np.ndarray, floor: float = 0.0
) -> Path:
    """Gradient descent on floor + ½ (θ-θ*)ᵀ H (θ-θ*): mode by mode a geometric series of ratio 1 - ηλ.

    Args:
        hessian: H, shape (params, params).
        gap: Start minus minimum, shape (params,).
        step: η.
        minimum: θ*, shape (params,).
        floor: Loss there.
    """
    values, vectors = np.linalg.eigh(hessian)
    powers = (1 - step * values) ** np.arange(STEPS + 1)[:, None]
    gaps = (powers * (vectors.T @ gap)) @ vectors.T
    losses = floor + 0.5 * np.einsum("ti,ij,tj->t", gaps, hessian, gaps)
    return Path(gaps + minimum, gaps @ hessian, losses, hessian, step)


def motion_truths(path: Path, probe: int) -> dict[str, Truth]:
    """What the instruments of motion and stability read on the next steps of a run that has not begun.

    Instruments that average over steps give the scatter of the steps as their error, although nothing is drawn here;
    where they keep the numbers of the single steps, those are compared.

    Args:
        path: What the run does.
        probe: All examples of the run, so that curvature is not taken on a part of them.
    """
    u, slopes = path.updates, path.gradients
    lengths = np.linalg.norm(u, axis=1)
    size = max(lengths.max(), float(np.linalg.norm(path.points[0])))
    if lengths[0] <= _STANDSTILL * size:
        return {}  # it begins at a minimum: every ratio is 0/0
    before, drop = (slopes[:-1] * u).sum(1), np.diff(path.losses)
    truths = {
        **_stability_truths(path, probe),
        **_ratio_truth(path),
        "update_norm": _truth(lengths, reading="norms"),
        "path_length": _truth(lengths.sum()),
        "path_length.efficiency": _truth(np.linalg.norm(u.sum(0)) / lengths.sum(), reading="efficiency"),
        "predicted_decrease": _truth(drop.sum() / before.sum(), strict=True),
    }
    if lengths.min() <= _STANDSTILL * size:
        return truths  # it arrives: the later steps are rounding, and their directions 0/0
    inner, after = u @ u.T, (slopes[1:] * u).sum(1)
    lags = [
        np.trace(inner, k) / np.sqrt((lengths[:-k] ** 2).sum() * (lengths[k:] ** 2).sum()) for k in (1, 2)
    ]
    cosines = np.diagonal(inner, 1) / (lengths[1:] * lengths[:-1])
    along = ((u @ path.hessian) * u).sum(1) / lengths**2
    return {
        **truths,
        "update_cosine": _truth(cosines, reading="cosines"),
        "update_autocorrelation": _truth(np.array(lags)),
        "step_length_gauge": _truth(-after / before, reading="alphas"),
        "curvature_along_update": _truth(along, reading="curvatures", options={"probe": probe}),
    }


def _ratio_truth(path: Path) -> dict[str, Truth]:
    """Update over weight per module, where the steps are alike enough for their scatter not to drown it."""
    moved = np.array([np.linalg.norm(path.updates[:, part], axis=1) for part in path.parts])
    ratios = moved / np.array([np.linalg.norm(path.points[:-1, part], axis=1) for part in path.parts])
    value, scatter = ratios.mean(1), ratios.std(1, ddof=1) / np.sqrt(ratios.shape[1])
    if np.sqrt(np.mean(scatter**2)) > 0.3 * value.max():
        return {}
    return {"update_ratio": _truth(value)}


def _stability_truths(path: Path, probe: int) -> dict[str, Truth]:
    values, vectors = np.linalg.eigh(path.hessian)
    top = float(values[-1])
    options = {"tol": 1e-4, "max_products": 200, "probe": probe}
    truths = {
        "edge_of_stability": _truth(path.step * top / 2, options=options),
        "preconditioned_sharpness": _truth(top, options=options),
    }
    projections = path.updates @ vectors[:, -1]
    alone = len(values) == 1 or values[-1] - values[-2] > 0.01 * top
    if alone and np.abs(projections).min() > 1e-6 * np.linalg.norm(path.updates[0]):
        share = float((projections[1:] * projections[:-1] < 0).mean())
        truths["back_and_forth"] = _truth(share, options={**options, "tol": 1e-6}, strict=True)
    return truths


def _truth(value: float | np.ndarray, tolerance: float = 1e-5, **how: Any) -> Truth:
    number = value if np.ndim(value) else float(value)
    return Truth(number, tolerance=tolerance, assumptions=_ASSUMES, source=_SOURCE, **how)

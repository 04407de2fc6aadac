"""Bumps and gates of one variable, from which landscapes with known basins are put together.

Each comes twice: as a function of tensors, from which the loss is made, and as a *jet* (value, first and second
derivative) by hand, from which the truths are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

Jet = np.ndarray
"""Value, slope and curvature of a function of one variable at one point, shape (3,)."""


def bump(x: Tensor, width: float | Tensor) -> Tensor:
    """(1 + cos(πx/width))/2 for |x| < width, 0 beyond."""
    return torch.where(x.abs() < width, 0.5 + 0.5 * torch.cos(math.pi * x / width), 0.0)


def gate(x: Tensor, inner: float, outer: float) -> Tensor:
    """1 for |x| ≤ inner, 0 for |x| ≥ outer, a cosine between them."""
    return bump((x.abs() - inner).clamp(min=0.0), outer - inner)


def bump_jet(x: float, width: float) -> Jet:
    """`bump` with its derivatives."""
    if abs(x) >= width:
        return np.zeros(3)
    pace, angle = math.pi / width, math.pi * x / width
    return 0.5 * np.array([1 + math.cos(angle), -pace * math.sin(angle), -(pace**2) * math.cos(angle)])


def gate_jet(x: float, inner: float, outer: float) -> Jet:
    """`gate` with its derivatives."""
    if abs(x) <= inner:
        return np.array([1.0, 0.0, 0.0])
    return bump_jet(abs(x) - inner, outer - inner) * [1.0, math.copysign(1.0, x), 1.0]


def multiplied(factors: Sequence[Jet]) -> Jet:
    """Jet of a product of functions of the same variable."""
    product = np.array([1.0, 0.0, 0.0])
    for f in factors:
        (a, da, dda), (b, db, ddb) = product, f
        product = np.array([a * b, da * b + a * db, dda * b + 2 * da * db + a * ddb])
    return product


def separable(jets: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Value, gradient and Hessian of Π_i f_i(x_i).

    Args:
        jets: Those of the f_i, shape (coordinates, 3).

    Returns:
        A number, shape (coordinates,), shape (coordinates, coordinates).
    """
    count = len(jets)
    chosen = np.eye(count, dtype=int)
    rows = np.arange(count)
    gradient = np.array([jets[rows, chosen[i]].prod() for i in rows])
    hessian = [[jets[rows, chosen[i] + chosen[j]].prod() for j in rows] for i in rows]
    return float(jets[:, 0].prod()), gradient, np.array(hessian)


def descend(
    loss: Callable[[Tensor], Tensor],
    starts: Tensor,
    curvature: float,
    arrived: Callable[[Tensor], Tensor],
    *,
    steps: int = 1200,
    length: float = 0.008,
) -> Tensor:
    """Ends of the gradient flow in the box [-1, 1]^k from many starts at once, in steps of bounded length.

    Points without a gradient stay where they are, and those that have arrived are not followed further.

    Args:
        loss: Of points in rows.
        starts: Shape (starts, k).
        curvature: Typical for where the flow ends; the first steps are ½ over it, times the slope.
        arrived: Which points, in rows, are at their end.
        steps: At most so many.
        length: Of the longest step.
    """
    x, moving = starts.clone(), torch.arange(len(starts))
    rate = torch.full((len(starts), 1), 0.5 / curvature, dtype=torch.float64)
    before = torch.zeros_like(x)
    for _ in range(steps):
        here = x[moving].requires_grad_()
        (slope,) = torch.autograd.grad(loss(here).sum(), here)
        size, along = slope.norm(dim=1, keepdim=True), (slope * before[moving]).sum(1, keepdim=True)
        # Shorter steps where the last one went too far, longer ones where the slope did not turn.
        rate[moving] *= torch.where(along < 0, 0.5, torch.where(along > 0, 1.2, 1.0))
        moved = here.detach() - slope * torch.minimum(length / size.clamp(min=1e-300), rate[moving])
        x[moving], before[moving] = moved.clamp(-1.0, 1.0), slope
        moving = moving[(size[:, 0] > 0) & ~arrived(moved)]
        if not len(moving):
            break
    return x


class Place(torch.nn.Module):
    """A point of the landscape: the parameters are its coordinates."""

    def __init__(self, x: Tensor | np.ndarray) -> None:
        super().__init__()
        self.x = torch.nn.Parameter(torch.as_tensor(x, dtype=torch.float64).clone())

    def forward(self) -> Tensor:
        """Its coordinates."""
        return self.x

"""The toy model of superposition: a loss in closed form, its polygons and their learning coefficients.

Inputs mu e_i with mu uniform on [0, 1] and i uniform over the features; the model is ReLU(W'W x + b) with two hidden
units. Its critical points are regular polygons of k columns, the other columns being zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy import optimize
from torch import Tensor

from geartrain.errors import InputError
from geartrain.sampling.truths import Coefficient


@dataclass(frozen=True)
class Polygon:
    """A critical point of the toy model.

    Attributes:
        weight: Shape (2, features).
        bias: Shape (features,).
        length: Length of the used columns.
        used_bias: Bias of the used columns.
        loss: Loss there.
        coefficient: Local learning coefficient.
    """

    weight: Tensor
    bias: Tensor
    length: float
    used_bias: float
    loss: float
    coefficient: Coefficient


def superposition_loss(weight: Tensor, bias: Tensor) -> Tensor:
    """E |x - ReLU(W'W x + b)|^2 exactly: a piecewise cubic integral per pair of features.

    Args:
        weight: Shape (..., hidden, features).
        bias: Shape (..., features).

    Returns:
        Shape (...); twice differentiable wherever the loss is.
    """
    gram = weight.transpose(-1, -2) @ weight
    slope, offset = gram, bias.unsqueeze(-1).expand_as(gram)  # output j (rows) on input i (columns)
    safe = torch.where(slope == 0, torch.ones_like(slope), slope)
    root = (-offset / safe).clamp(0, 1)
    zero, one = torch.zeros_like(root), torch.ones_like(root)
    # Where the output is active: above the root for rising lines, below it for falling ones.
    low = torch.where(slope > 0, root, zero)
    high = torch.where(slope < 0, root, torch.where((slope == 0) & (offset <= 0), zero, one))
    square = slope**2 * (high**3 - low**3) / 3 + slope * offset * (high**2 - low**2)
    square = square + offset**2 * (high - low)
    cross = slope * (high**3 - low**3) / 3 + offset * (high**2 - low**2) / 2
    own = torch.diagonal(1 / 3 - 2 * cross, dim1=-2, dim2=-1)
    return (square.sum((-1, -2)) + own.sum(-1)) / weight.shape[-1]


def superposition_energy(positions: Tensor, features: int) -> Tensor:
    """`superposition_loss` of flat vectors (..., 3 features): two rows of weights, then the biases."""
    weight, bias = positions.split([2 * features, features], dim=-1)
    return superposition_loss(weight.unflatten(-1, (2, features)), bias)


def polygon(features: int, corners: int, unused: Literal["negative", "positive"] = "negative") -> Polygon:
    """The critical point with a regular polygon of that many columns.

    With five corners or more the loss is smooth there in every direction but those of unused columns with a
    negative bias, which are flat: the coefficient is half the rank, (3k - 1)/2, plus 3/2 for every unused column with
    positive bias (its best value is 1/(2 features)). With four, biases are zero, the loss is not twice
    differentiable, and half the rank would be wrong: 5.5, plus 1 per unused column.

    Args:
        features: Number of features c.
        corners: Number of used columns k, from 4 to c.
        unused: Sign of the bias of the other columns.

    Returns:
        The point with loss and coefficient.

    Raises:
        InputError: Other numbers of corners; four corners with unused columns of positive bias (not known).

    References:
        Chen et al. (2023), arXiv:2310.06301; coefficients re-derived.

    Example:
        >>> point = polygon(6, 5)
        >>> round(point.length, 5), round(point.loss, 7), point.coefficient.value
        (1.17046, 0.0687436, 7.0)
    """
    left = features - corners
    if not 4 <= corners <= features or (corners == 4 and left and unused == "positive"):
        raise InputError(
            f"corners is {corners}, features {features}, unused {unused!r}; allowed: 4 to {features} corners, "
            "and with 4 corners only unused columns with negative bias."
        )
    if unused not in {"negative", "positive"}:
        raise InputError(f"unused is {unused!r}; allowed: 'negative', 'positive'.")
    length, used = (1.0, 0.0) if corners == 4 else _shape(corners)
    idle = 1 / (2 * features) if unused == "positive" else -1.0
    angles = 2 * math.pi * torch.arange(corners, dtype=torch.float64) / corners
    weight = torch.zeros(2, features, dtype=torch.float64)
    weight[:, :corners] = length * torch.stack([angles.cos(), angles.sin()])
    bias = torch.full((features,), idle, dtype=torch.float64)
    bias[:corners] = used
    positive = left if unused == "positive" else 0
    value = 5.5 + left if corners == 4 else (3 * corners - 1) / 2 + 1.5 * positive
    loss = float(superposition_loss(weight, bias))
    return Polygon(weight, bias, length, used, loss, Coefficient(value, 1))


def _shape(corners: int) -> tuple[float, float]:
    """Length and bias that minimise the loss among regular polygons; it does not depend on the unused columns."""
    angles = 2 * math.pi * torch.arange(corners, dtype=torch.float64) / corners
    directions = torch.stack([angles.cos(), angles.sin()])

    def value_and_slope(x: np.ndarray) -> tuple[float, np.ndarray]:
        point = torch.tensor(x, dtype=torch.float64, requires_grad=True)
        loss = superposition_loss(point[0] * directions, point[1].expand(corners))
        return float(loss.detach()), torch.autograd.grad(loss, point)[0].numpy()

    start = np.array([1.2 + 0.1 * (corners - 5), -0.3 * (corners - 4)])
    # A root of the gradient is found to machine precision; a minimum only to its square root.
    found = optimize.root(lambda x: value_and_slope(x)[1], start, tol=1e-13)
    return float(found.x[0]), float(found.x[1])

"""Two-layer ReLU networks on the cube {-1, 1}^d, parities that they compute exactly, and what follows."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from geartrain.objective import Objective
from geartrain.zoo import _matrices
from geartrain.zoo._base import Truth
from geartrain.zoo._losses import half_square

Sets = tuple[tuple[int, ...], ...]
_SOURCE = "Chain rule for a ReLU network, as a mean over all points of the cube."


def cube(d: int) -> np.ndarray:
    """All points of {-1, 1}^d, shape (2^d, d)."""
    return np.array(list(itertools.product((-1.0, 1.0), repeat=d)))


def parity(x: np.ndarray, members: Iterable[int]) -> np.ndarray:
    """χ_S(x) = Π_{i∈S} x_i."""
    return x[..., list(members)].prod(-1)


def sum_of_parities(x: np.ndarray, sets: Sets) -> np.ndarray:
    """Σ χ_S(x), shape (points,)."""
    return np.sum([parity(x, s) for s in sets], axis=0)


def sawtooth(d: int, members: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Weights W (k, d), b (k,), v (k,), c of a network that computes χ_S exactly: a unit for each tooth.

    With u = number of positive members, the parity is a zigzag in u with its corners between whole numbers, so that
    no point of the cube lies on a kink.
    """
    k = len(members)
    teeth = np.arange(1, k + 1)
    weight = np.zeros((k, d))
    weight[:, list(members)] = 0.5  # u = Σ (x_i + 1)/2
    first = (-1.0) ** k  # parity of k negative signs
    return weight, k / 2 - teeth + 0.5, first * (-1.0) ** teeth * (8.0 * teeth - 4.0), first


@dataclass(frozen=True)
class Net:
    """v · relu(Wx + b) + c on given points with given targets.

    Attributes:
        x: Shape (points, d).
        y: Shape (points,).
        weight: W, shape (hidden, d).
        bias: b, shape (hidden,).
        out: v, shape (hidden,).
        shift: c.
    """

    x: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    out: np.ndarray
    shift: float

    @classmethod
    def of_parities(cls, x: np.ndarray, y: np.ndarray, sets: Sets) -> Net:
        """The network that computes Σ χ_S, teeth by teeth."""
        parts = [sawtooth(x.shape[1], s) for s in sets]
        weight, bias, out = (np.concatenate([part[i] for part in parts]) for i in range(3))
        return cls(x, y, weight, bias, out, sum(part[3] for part in parts))

    def with_units(self, weight: np.ndarray, bias: np.ndarray) -> Net:
        """The same function with further units, which nothing listens to yet."""
        return Net(
            self.x,
            self.y,
            np.concatenate([self.weight, weight]),
            np.concatenate([self.bias, bias]),
            np.concatenate([self.out, np.zeros(len(bias))]),
            self.shift,
        )

    def model(self) -> nn.Sequential:
        """As a module."""
        hidden, d = self.weight.shape
        first, last = nn.Linear(d, hidden).double(), nn.Linear(hidden, 1).double()
        with torch.no_grad():
            first.weight.copy_(torch.from_numpy(self.weight))
            first.bias.copy_(torch.from_numpy(self.bias))
            last.weight.copy_(torch.from_numpy(self.out)[None])
            last.bias.fill_(self.shift)
        return nn.Sequential(first, nn.ReLU(), last)

    def objective(self) -> Objective:
        """½ mean (f - y)²."""
        data = torch.from_numpy(self.x), torch.from_numpy(self.y)[:, None]
        return Objective(self.model(), half_square, data)

    @cached_property
    def _by_hand(self) -> tuple[np.ndarray, np.ndarray]:
        out = np.append(self.out, self.shift)
        return _matrices.two_layers(self.x, self.weight, self.bias, out)

    @property
    def outputs(self) -> np.ndarray:
        """Values f(x), shape (points,)."""
        return self._by_hand[0]

    @property
    def jacobian(self) -> np.ndarray:
        """Shape (points, 1, params)."""
        return self._by_hand[1]

    @property
    def residuals(self) -> np.ndarray:
        """Errors f - y, shape (points,)."""
        return self.outputs - self.y

    @cached_property
    def hessian(self) -> np.ndarray:
        """Mean of JJᵀ + r ∂²f; a unit's outgoing weight is coupled with what comes into it."""
        hidden, d = self.weight.shape
        flat = self.jacobian[:, 0]
        total = flat.T @ flat / len(flat)
        active = self.x @ self.weight.T + self.bias > 0
        pulls = (active * self.residuals[:, None]).T / len(flat)  # (hidden, points)
        into, bias = pulls @ self.x, pulls.sum(1)
        for h in range(hidden):
            v = hidden * d + hidden + h
            for place, value in [
                *zip(range(h * d, h * d + d), into[h], strict=True),
                (hidden * d + h, bias[h]),
            ]:
                total[place, v] += value
                total[v, place] += value
        return total


def net_truths(net: Net) -> dict[str, Truth]:
    """Everything that instruments of curvature, noise, kernel, weights and data read on such a network."""
    hidden, d = net.weight.shape
    rows = net.residuals[:, None] * net.jacobian[:, 0]
    gradient, loss = rows.mean(0), 0.5 * float((net.residuals**2).mean())
    gradient = gradient if np.linalg.norm(gradient) > 1e-9 else np.zeros_like(gradient)
    sizes = [hidden * d + hidden, hidden + 1]
    norms = [np.sqrt((net.weight**2).sum() + (net.bias**2).sum()), np.sqrt((net.out**2).sum() + net.shift**2)]
    singular = np.linalg.svd(net.weight, compute_uv=False)
    shares = singular[singular > 1e-12 * singular[0]] / singular.sum()
    rank = float(np.exp(-(shares * np.log(shares)).sum()))
    active = net.x @ net.weight.T + net.bias > 0
    exact: dict[str, Any] = {"source": "Every point of the cube once.", "strict": True}
    up = np.zeros(sum(sizes))
    up[-1] = 1.0
    found = {
        "weight_norm": Truth(np.array(norms), source="Definition."),
        "weight_rank": Truth(np.array([rank, 1.0]), source="Singular values of W and of one row."),
        "dead_units": Truth(float((~active.any(0)).mean()), source="Enumeration.", strict=True),
        "dead_units.inactive_share": Truth(
            float((~active).mean()), reading="inactive_share", source="Enumeration."
        ),
        "constant_loss": Truth(0.5 * float(net.y.var()), 1e-5, **exact),
        "target_scale": Truth(float(net.y.std()), 0.05, assumptions="n or n - 1.", **exact),
        "feature_scales": Truth(1.0, **exact),
        "label_disagreement_floor": Truth(0.0, **exact),
        "missing_biases": Truth(0.0, source="By construction."),
        "output_reach": Truth(0.0, source="The output is unbounded."),
        "loss_slice": _matrices.parabola(loss, gradient, net.hessian, up),
        **_matrices.curvature_truths(
            net.hessian, gradient if gradient.any() else None, layers=sizes, source=_SOURCE
        ),
        **_matrices.kernel_truths(net.jacobian, net.y[:, None], source=_SOURCE),
    }
    if np.abs(net.residuals).max() > 1e-9:
        found |= _matrices.example_truths(rows, net.hessian, layers=sizes, source=_SOURCE)
        found["example_losses"] = Truth(0.5 * net.residuals**2, 1e-9, source=_SOURCE, strict=True)
    return found


def power_by_degree(sets: Sets, d: int) -> np.ndarray:
    """Shares of the variance of Σ χ_S at each degree 0 to d."""
    powers = np.bincount([len(s) for s in sets], minlength=d + 1)
    return powers / powers.sum()


def leap_of(sets: Sets) -> int:
    """Largest number of new coordinates that a term brings, the cheapest term always next."""
    known: set[int] = set()
    left, worst = [set(s) for s in sets], 0
    while left:
        cheapest = min(left, key=lambda s: len(s - known))
        worst = max(worst, len(cheapest - known))
        known |= cheapest
        left.remove(cheapest)
    return worst


def sampled_coefficients(
    function: Any, sets: Sets, d: int, count: int, generator: torch.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Means of f χ_S over random points of {-1, 1}^d, and their standard errors."""
    x = 2.0 * torch.randint(0, 2, (count, d), generator=generator).numpy() - 1
    values = function(x)
    products = np.stack([values * parity(x, s) for s in sets], 1)
    # A product that is always the same has no error of estimation but that of rounding.
    return products.mean(0), products.std(0) / np.sqrt(count) + 1e-12

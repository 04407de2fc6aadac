"""Losses ½ Σ_m u_m (t_m - Π_{i∈S_m} θ_i)²: circuits as products of their parts, and what their derivatives decide."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor, nn

from geartrain.objective import Objective
from geartrain.run import Run
from geartrain.zoo import _descent, _matrices
from geartrain.zoo._base import Truth
from geartrain.zoo._losses import half_square

_SOURCE = "Derivatives of a product: leave one factor out, or two."


class Part(nn.Module):
    """Some of the factors."""

    def __init__(self, factors: Tensor) -> None:
        super().__init__()
        self.factors = nn.Parameter(factors.clone())

    def forward(self) -> Tensor:
        """Their values."""
        return self.factors


class Products(nn.Module):
    """Products of chosen factors, times the input."""

    chosen: Tensor
    scales: Tensor

    def __init__(
        self, theta: np.ndarray, chosen: np.ndarray, scales: np.ndarray, sizes: Sequence[int]
    ) -> None:
        super().__init__()
        pieces = torch.from_numpy(np.asarray(theta, dtype=float)).split(list(sizes))
        self.parts = nn.ModuleList(Part(piece) for piece in pieces)
        self.register_buffer("chosen", torch.from_numpy(chosen))
        self.register_buffer("scales", torch.from_numpy(scales))

    def forward(self, x: Tensor) -> Tensor:
        """Shape (examples, products)."""
        theta = torch.cat([part() for part in self.parts])
        return x * torch.where(self.chosen, theta, 1.0).prod(1) * self.scales


@dataclass(frozen=True)
class Monomials:
    """Such a loss.

    Attributes:
        sets: S_m, places in θ.
        targets: t_m.
        shares: u_m.
        sizes: Numbers of factors of the modules, in their order.
    """

    sets: tuple[tuple[int, ...], ...]
    targets: tuple[float, ...]
    shares: tuple[float, ...]
    sizes: tuple[int, ...]

    @property
    def count(self) -> int:
        """Number of factors."""
        return sum(self.sizes)

    def _scaled(self) -> tuple[np.ndarray, np.ndarray]:
        chosen = np.array([[i in s for i in range(self.count)] for s in self.sets])
        return chosen, np.sqrt(self.shares)

    def _data(self) -> tuple[Tensor, Tensor]:
        targets = np.sqrt(self.shares) * self.targets
        return torch.ones(1, 1, dtype=torch.float64), torch.from_numpy(targets)[None]

    def objective(self, theta: np.ndarray) -> Objective:
        """The loss at θ, as that of a model on a single example."""
        return Objective(Products(theta, *self._scaled(), self.sizes), half_square, self._data())

    def run(self, theta: np.ndarray, rate: float, name: str) -> Run:
        """Gradient descent from θ."""
        model = Products(theta, *self._scaled(), self.sizes)
        optimizer = torch.optim.SGD(model.parameters(), lr=rate)
        return Run(
            model, half_square, optimizer, self._data(), epochs=40, batch_size=1, shuffle=False, name=name
        )

    # ------------------------------------------------------------------ by hand

    def outputs(self, theta: np.ndarray) -> np.ndarray:
        """√u_m Π θ_i."""
        chosen, scales = self._scaled()
        return scales * np.where(chosen, theta, 1.0).prod(1)

    def jacobian(self, theta: np.ndarray) -> np.ndarray:
        """Shape (products, factors)."""
        chosen, scales = self._scaled()
        found = np.zeros(chosen.shape)
        for m, i in zip(*np.nonzero(chosen), strict=True):
            rest = chosen[m].copy()
            rest[i] = False
            found[m, i] = scales[m] * theta[rest].prod()
        return found

    def residuals(self, theta: np.ndarray) -> np.ndarray:
        """√u_m (Π θ_i - t_m)."""
        return self.outputs(theta) - np.sqrt(self.shares) * self.targets

    def loss(self, theta: np.ndarray) -> float:
        """½ Σ residuals²."""
        return 0.5 * float((self.residuals(theta) ** 2).sum())

    def gradient(self, theta: np.ndarray) -> np.ndarray:
        """Jᵀ r."""
        return self.jacobian(theta).T @ self.residuals(theta)

    def hessian(self, theta: np.ndarray) -> np.ndarray:
        """JᵀJ + Σ r_m ∂²f_m."""
        chosen, scales = self._scaled()
        jacobian, residuals = self.jacobian(theta), self.residuals(theta)
        total = jacobian.T @ jacobian
        for m, picked in enumerate(chosen):
            places = np.nonzero(picked)[0]
            for i in places:
                for j in places:
                    rest = picked.copy()
                    rest[[i, j]] = False
                    total[i, j] += residuals[m] * scales[m] * theta[rest].prod() * (i != j)
        return total

    def flow(self, start: np.ndarray, product: Sequence[int], level: float, horizon: float) -> float:
        """Time at which a product of factors passes a level under gradient flow; NaN if it does not."""

        def passed(t: float, theta: np.ndarray) -> float:
            return float(theta[list(product)].prod()) - level

        passed.terminal = True  # type: ignore[attr-defined]
        found = solve_ivp(
            lambda t, theta: -self.gradient(theta),
            (0, horizon),
            start,
            "LSODA",
            rtol=1e-8,
            atol=1e-12,
            events=passed,
        )
        return float(found.t_events[0][0]) if len(found.t_events[0]) else float("nan")


def descent_path(loss: Monomials, start: np.ndarray, rate: float) -> _descent.Path:
    """Gradient descent by hand."""
    points = [start]
    for _ in range(_descent.STEPS):
        points.append(points[-1] - rate * loss.gradient(points[-1]))
    gradients = np.array([loss.gradient(x) for x in points])
    losses = np.array([loss.loss(x) for x in points])
    return _descent.Path(np.array(points), gradients, losses, loss.hessian(start), rate, loss.sizes)


def monomial_truths(
    loss: Monomials, theta: np.ndarray, other: np.ndarray, make: Callable[[Any], Objective], rate: float
) -> dict[str, Truth]:
    """Everything that instruments of curvature, kernel, motion and pairs read at θ.

    Args:
        loss: What is measured.
        theta: Where.
        other: A second state.
        make: Its objective, as a function of the toy.
        rate: Step size of the run.
    """
    truth = partial(Truth, source=_SOURCE)
    hessian, gradient, jacobian = loss.hessian(theta), loss.gradient(theta), loss.jacobian(theta)
    parts = np.split(theta, np.cumsum(loss.sizes)[:-1])
    along = gradient / np.linalg.norm(gradient)
    length = max(1.0, float(np.linalg.norm(theta)))
    t = np.linspace(-1, 1, 21)
    found = {
        **_matrices.curvature_truths(hessian, gradient, layers=loss.sizes, source=_SOURCE),
        **_matrices.kernel_truths(jacobian[None], source=_SOURCE),
        **_descent.motion_truths(descent_path(loss, theta, rate), probe=1),
        "weight_norm": truth(np.array([np.linalg.norm(part) for part in parts])),
        "loss_slice": truth(
            np.array([loss.loss(theta + s * length * along) for s in t]),
            options={"direction": torch.from_numpy(length * along)},
        ),
        "symmetry_orbit_dimension": Truth(
            float(loss.count - np.linalg.matrix_rank(jacobian)),
            source="θ_i → sθ_i, θ_j → θ_j/s inside a product: what the Jacobian's rank leaves over.",
        ),
        **_pair(loss, theta, other, make),
    }
    return found


def _pair(
    loss: Monomials, theta: np.ndarray, other: np.ndarray, make: Callable[[Any], Objective]
) -> dict[str, Truth]:
    truth = partial(Truth, source=_SOURCE, other=make)
    f, f0 = loss.outputs(theta), loss.outputs(other)
    here, there = loss.jacobian(theta), loss.jacobian(other)
    k, k0 = float((here**2).sum()), float((there**2).sum())
    t = np.linspace(0, 1, 11)
    line = np.array([loss.loss((1 - s) * theta + s * other) for s in t])
    first = there @ (theta - other)
    drift = abs(k - k0) / k0
    return {
        "distance_from_init": truth(float(np.linalg.norm(theta - other))),
        "linearised_error": truth(float(np.linalg.norm(f - f0 - first) / np.linalg.norm(f - f0))),
        "ntk_drift": truth(drift),
        "function_distance": truth(float(np.linalg.norm(f - f0) / np.sqrt(0.5 * (f @ f) + 0.5 * (f0 @ f0)))),
        "linear_connectivity": truth(line - (1 - t) * line[0] - t * line[-1], reading="excess", error="none"),
    }

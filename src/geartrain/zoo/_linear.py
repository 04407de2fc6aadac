"""A linear model under half the squared error on given data: everything about it can be written down.

f(x) = Wx, L(W) = 1/(2n) Σ_i ‖W x_i - y_i‖². With C = XᵀX/n and residuals r_i = W x_i - y_i the Hessian is I ⊗ C, the
gradient (1/n) Σ r_i ⊗ x_i, an example's gradient r_i ⊗ x_i, the Jacobian I ⊗ xᵀ, the minimum the least-squares fit.
The regressions of the zoo are this model on different data; what is true of all of them is said here once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from geartrain.objective import Objective
from geartrain.run import Run
from geartrain.zoo._base import Truth
from geartrain.zoo._descent import Path, down_a_parabola
from geartrain.zoo._losses import half_square
from geartrain.zoo._matrices import curvature_truths, example_truths, kernel_truths, linear_layer

_SOURCE = "Least squares: L = ½ mean ‖Wx - y‖², Hessian I ⊗ XᵀX/n (textbook)."
NO_ERROR = "none"
"""As the key of a standard error: the truth is about these very examples, so that their spread is no excuse."""


def linear(weights: np.ndarray) -> nn.Linear:
    """A linear layer without bias, float64, with these weights (rows = outputs)."""
    layer = nn.Linear(weights.shape[1], weights.shape[0], bias=False, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(weights)))
    return layer


@dataclass(frozen=True)
class LinearModel:
    """A linear model at given weights on given data.

    Attributes:
        inputs: X, shape (examples, features).
        targets: Y, shape (examples, outputs).
        weights: W, shape (outputs, features).
    """

    inputs: np.ndarray
    targets: np.ndarray
    weights: np.ndarray

    def objective(self, weights: np.ndarray | None = None) -> Objective:
        """The loss as an objective, at these weights or at others."""
        return Objective(linear(self.weights if weights is None else weights), half_square, self.data())

    def run(self, step: float, epochs: int = 200) -> Run:
        """Full-batch gradient descent from these weights; an epoch is a step."""
        model = linear(self.weights)
        optimizer = torch.optim.SGD(model.parameters(), lr=step)
        size = len(self.inputs)
        return Run(model, half_square, optimizer, self.data(), epochs=epochs, batch_size=size, shuffle=False)

    def data(self) -> tuple[Tensor, Tensor]:
        """Inputs and targets as tensors."""
        return torch.from_numpy(self.inputs), torch.from_numpy(self.targets)

    @cached_property
    def moments(self) -> np.ndarray:
        """C = XᵀX/n."""
        return self.inputs.T @ self.inputs / len(self.inputs)

    @cached_property
    def residuals(self) -> np.ndarray:
        """Errors f - y, shape (examples, outputs)."""
        return self.inputs @ self.weights.T - self.targets

    @cached_property
    def minimum(self) -> np.ndarray:
        """The least-squares weights (those of least norm), shape (outputs, features)."""
        return np.linalg.lstsq(self.inputs, self.targets, rcond=None)[0].T

    @cached_property
    def floor(self) -> float:
        """The loss there."""
        return 0.5 * float(((self.inputs @ self.minimum.T - self.targets) ** 2).sum(1).mean())

    @cached_property
    def loss(self) -> float:
        """The loss at these weights."""
        return 0.5 * float((self.residuals**2).sum(1).mean())

    @cached_property
    def rows(self) -> np.ndarray:
        """Gradient of each example's loss in the flat weights (row by row), shape (examples, params)."""
        return np.einsum("io,id->iod", self.residuals, self.inputs).reshape(len(self.inputs), -1)

    @cached_property
    def hessian(self) -> np.ndarray:
        """I ⊗ C, in the same order."""
        return np.kron(np.eye(len(self.weights)), self.moments)

    def descent(self, step: float) -> Path:
        """Full-batch gradient descent of that step from these weights (one output)."""
        gap, minimum = (self.weights - self.minimum).ravel(), self.minimum.ravel()
        return down_a_parabola(self.hessian, gap, step, minimum, self.floor)


def _truth(value: float | np.ndarray, tolerance: float = 1e-6, **how: Any) -> Truth:
    number = value if np.ndim(value) else float(value)
    return Truth(number, **{"tolerance": tolerance, "source": _SOURCE, **how})


def local_truths(model: LinearModel) -> dict[str, Truth]:
    """What the instruments of curvature, of gradient noise and of the tangent kernel read (the last up to 100 rows)."""
    shape = {"layers": (model.weights.size,), "source": _SOURCE}
    truths = curvature_truths(model.hessian, model.rows.mean(0), loss=model.loss, **shape)
    truths |= example_truths(model.rows, model.hessian, **shape)
    return truths | kernel_truths(
        linear_layer(model.inputs, len(model.weights)), model.targets, source=_SOURCE
    )


def function_truths(model: LinearModel) -> dict[str, Truth]:
    """What the instruments of outputs, weights and signal read."""
    x, w, r = model.inputs, model.weights, model.residuals
    singular = np.linalg.svd(w, compute_uv=False)
    shares = singular[singular > 0] / singular.sum()
    mean_gradient, bias_gradient = (r[:, :, None] * x[:, None, :]).mean(0), r.mean(0)
    asked = (bias_gradient**2).sum()
    direction = np.cos(1.0 + np.arange(w.size)).reshape(w.shape)  # any fixed direction will do
    along = float((mean_gradient * direction).sum())
    bend = float(np.einsum("od,de,oe->", direction, model.moments, direction))
    t = np.linspace(-1, 1, 11)
    truths = {
        "example_losses": _truth(0.5 * (r**2).sum(1)),
        "weight_norm": _truth(np.array([np.linalg.norm(w)])),
        "weight_rank": _truth(np.array([math.exp(-(shares * np.log(shares)).sum())])),
        "jacobian_singular_values": _truth(singular, options={"examples": len(x)}),
        "activation_flow": _truth(np.array([np.sqrt(((x @ w.T) ** 2).mean())])),
        "gradient_flow": _truth(np.array([np.sqrt((r**2).mean())])),
        "input_affinity": _truth(0.0, assumptions="The model is linear in its inputs."),
        "missing_biases": _truth(1.0),
        "missing_biases.gradient_share": _truth(
            asked / (asked + (mean_gradient**2).sum()), reading="gradient_share"
        ),
        "output_target_match": _truth(1.0),
        "symmetry_orbit_dimension": _truth(0.0, assumptions="W is identified by its values on all inputs."),
        "loss_slice": _truth(
            t * along + 0.5 * t**2 * bend,
            reading="rise",
            error=NO_ERROR,
            options={"direction": torch.from_numpy(direction.ravel()), "points": 11},
        ),
        "loss_plane": _plane(model, mean_gradient),
    }
    return truths


def _plane(model: LinearModel, gradient: np.ndarray) -> Truth:
    """Rise over the plane of two fixed directions: a quadratic form in two numbers."""
    count = model.weights.size
    d = np.stack([np.cos(1.0 + np.arange(count)), np.sin(0.5 + 2 * np.arange(count))])
    hessian = model.hessian
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 5)] * 2, indexing="ij"), axis=-1)
    rise = grid @ (d @ gradient.ravel()) + 0.5 * np.einsum("stk,kl,stl->st", grid, d @ hessian @ d.T, grid)
    plane = tuple(torch.from_numpy(v.copy()) for v in d)
    return _truth(rise, reading="rise", error=NO_ERROR, options={"plane": plane, "points": 5})


def data_truths(model: LinearModel) -> dict[str, Truth]:
    """What the instruments of the data read, and of a perturbation of it."""
    x, y, w = model.inputs, model.targets, model.weights
    spread = x.std(0)
    augmented = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    values = np.linalg.eigvalsh(augmented.T @ augmented / len(x))[::-1]
    truths = {
        "feature_scales": _truth(spread.max() / spread.min()),
        "target_scale": _truth(np.maximum(y.std(0), np.abs(y.mean(0))).max()),
        "constant_loss": _truth(0.5 * y.var(0).sum(), 1e-5),
        "label_disagreement_floor": _truth(0.0, assumptions="No two inputs are equal."),
    }
    if values[-1] > 1e-6 * values[0]:
        truths["input_conditioning"] = _truth(values[0] / values[-1], reading="raw_condition")
    if w.shape[0] == 1:
        size = 0.1 * math.sqrt(((x - x.mean(0)) ** 2).mean())
        worst = 0.5 * ((np.abs(model.residuals) + size * np.abs(w).sum()) ** 2).mean()
        truths["adversarial_drop"] = _truth(
            1 - model.loss / worst,
            source="A linear model moves by at most ε‖w‖₁ under a change of at most ε per feature (textbook).",
        )
    return truths


def pair_truths(model: LinearModel, other: np.ndarray, make: Callable[[Any], Objective]) -> dict[str, Truth]:
    """What the comparisons with other weights read: nothing curves, so kernels and lines stay as they are.

    Args:
        model: At the present weights.
        other: The other weights.
        make: From the toy to an objective at those.
    """
    x = model.inputs
    mine, theirs = x @ model.weights.T, x @ other.T
    apart = np.linalg.norm(mine - theirs)
    scale = math.sqrt(0.5 * (mine**2).sum() + 0.5 * (theirs**2).sum())
    variance = ((model.targets - model.targets.mean(0)) ** 2).mean()
    values = {
        "distance_from_init": np.linalg.norm(model.weights - other),
        "function_distance": apart / scale,
        "linearised_error": 0.0,
        "ntk_drift": 0.0,
        "lazy_index": 0.0,
        "linear_connectivity": 0.0,
        "permuted_barrier": math.nan,  # there are no hidden units to be exchanged
    }
    truths = {name: _truth(value, other=make) for name, value in values.items()}
    shift = ((mine - theirs) ** 2).mean() / variance
    return truths | {"prediction_disagreement": _truth(shift, other=make, strict=True)}


def minimum_truths(model: LinearModel, make: Callable[[Any], Objective]) -> dict[str, Truth]:
    """What the instruments of minima read at the least-squares fit (one output, C invertible).

    Args:
        model: The model.
        make: From the toy to an objective at the minimum.
    """
    size = len(model.moments)
    _, log_det = np.linalg.slogdet(model.moments)
    rise = 0.1
    ball = size / 2 * math.log(math.pi) - math.lgamma(size / 2 + 1)
    truths = {
        "basin_volume": _truth(
            ball + size / 2 * math.log(2 * rise) - 0.5 * log_det,
            1e-4,
            source="{½ xᵀCx < ε} is an ellipsoid of volume B_n (2ε)^(n/2) / √det C (textbook).",
            options={"cutoff": model.floor + rise, "max_radius": 1e4},
            subject=make,
        )
    }
    if size <= 6:  # beyond, too few of the rays count
        truths["volume_scaling"] = _truth(
            size / 2,
            0.02,
            source="The volume of an ellipsoid {L - L* < ε} grows as ε^(n/2) (textbook).",
            # A parabola is straight in log-log: few points along a ray show it.
            options={"num_directions": 32, "num_radii": 20},
            subject=make,
        )
    return truths

"""A chain of linear layers under half the squared error: gradient, Hessian and Jacobian written down.

f(x) = W_N ... W_1 x, L = 1/(2n) Σ ‖f(x_i) - y_i‖². With A_l = W_N ... W_{l+1}, B_l = W_{l-1} ... W_1, C the inputs'
second moments and E = (1/n) Σ (f(x_i) - y_i) x_iᵀ:

    ∂L/∂W_l = A_lᵀ E B_lᵀ,
    δ²L = tr(D C Dᵀ) + 2 Σ_{l<m} tr(Eᵀ A_m δW_m (W_{m-1} ... W_{l+1}) δW_l B_l),    D = Σ_l A_l δW_l B_l.

The first term of the second derivative is the Gauss-Newton matrix; the second, which couples pairs of layers through
the error, is what makes saddles.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from geartrain.objective import Objective
from geartrain.run import Run
from geartrain.zoo._base import Truth
from geartrain.zoo._losses import half_square
from geartrain.zoo._matrices import curvature_truths, example_truths, kernel_truths

_SOURCE = (
    "Derivatives of W_N ... W_1 x in closed form (textbook; Saxe, McClelland, Ganguli 2014, arXiv 1312.6120)."
)


def product(matrices: list[np.ndarray] | tuple[np.ndarray, ...], size: int) -> np.ndarray:
    """M_k ... M_1 of the matrices in the order of application; the identity of that size for none."""
    return reduce(lambda done, m: m @ done, matrices, np.eye(size))


@dataclass(frozen=True)
class LinearChain:
    """Linear layers at given weights, on given data.

    Attributes:
        inputs: Shape (examples, features).
        targets: Shape (examples, outputs).
        weights: W_1, ..., W_N, each of shape (out, in).
    """

    inputs: np.ndarray
    targets: np.ndarray
    weights: tuple[np.ndarray, ...]

    def model(self) -> nn.Sequential:
        """The chain as a PyTorch model."""
        layers = []
        for w in self.weights:
            layer = nn.Linear(w.shape[1], w.shape[0], bias=False, dtype=torch.float64)
            layer.weight.data = torch.from_numpy(w.copy())
            layers.append(layer)
        return nn.Sequential(*layers)

    def data(self) -> tuple[Tensor, Tensor]:
        """Inputs and targets as tensors."""
        return torch.from_numpy(self.inputs), torch.from_numpy(self.targets)

    def objective(self) -> Objective:
        """The loss at these weights."""
        return Objective(self.model(), half_square, self.data())

    def run(self, step: float, epochs: int) -> Run:
        """Full-batch gradient descent from these weights; an epoch is a step."""
        model, size = self.model(), len(self.inputs)
        optimizer = torch.optim.SGD(model.parameters(), lr=step)
        return Run(model, half_square, optimizer, self.data(), epochs=epochs, batch_size=size, shuffle=False)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of parameters of the layers."""
        return tuple(w.size for w in self.weights)

    @cached_property
    def sides(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """A_l (what follows layer l) and B_l (what comes before it)."""
        ends = self.weights[0].shape[1], self.weights[-1].shape[0]
        found = []
        for i, w in enumerate(self.weights):
            last = i + 1 == len(self.weights)
            after = np.eye(ends[1]) if last else product(self.weights[i + 1 :], w.shape[0])
            found.append((after, product(self.weights[:i], ends[0])))
        return found

    @cached_property
    def residuals(self) -> np.ndarray:
        """f(x) - y, shape (examples, outputs)."""
        return self.inputs @ product(self.weights, self.inputs.shape[1]).T - self.targets

    @cached_property
    def loss(self) -> float:
        """½ mean ‖f - y‖²."""
        return 0.5 * float((self.residuals**2).sum(1).mean())

    @cached_property
    def rows(self) -> np.ndarray:
        """Gradient of each example's own loss, A_lᵀ r ⊗ B_l x, shape (examples, params)."""
        parts = [np.einsum("ni,nj->nij", self.residuals @ a, self.inputs @ b.T) for a, b in self.sides]
        return np.concatenate([p.reshape(len(self.inputs), -1) for p in parts], axis=1)

    @cached_property
    def jacobian(self) -> np.ndarray:
        """Derivatives of the outputs, shape (examples, outputs, params)."""
        parts = [np.einsum("oi,nj->noij", a, self.inputs @ b.T) for a, b in self.sides]
        return np.concatenate([p.reshape(*p.shape[:2], -1) for p in parts], axis=2)

    @cached_property
    def hessian(self) -> np.ndarray:
        """Gauss-Newton part and coupling of pairs of layers, shape (params, params)."""
        flat = self.jacobian.reshape(-1, self.jacobian.shape[2])
        total = flat.T @ flat / len(self.inputs)
        error = self.residuals.T @ self.inputs / len(self.inputs)
        ends = np.cumsum([0, *self.sizes])
        for k, low in enumerate(self.weights):
            for m in range(k + 1, len(self.weights)):
                between = product(self.weights[k + 1 : m], low.shape[0])
                left, right = self.sides[m][0].T @ error @ self.sides[k][1].T, between
                # ∂²L/∂W_m[i,j]∂W_k[p,q] = (A_mᵀ E B_kᵀ)[i,q] · (W_{m-1} ... W_{k+1})[j,p]
                block = np.einsum("iq,jp->ijpq", left, right).reshape(self.sizes[m], self.sizes[k])
                total[ends[m] : ends[m + 1], ends[k] : ends[k + 1]] += block
                total[ends[k] : ends[k + 1], ends[m] : ends[m + 1]] += block.T
        return total


def chain_truths(chain: LinearChain) -> dict[str, Truth]:
    """What the instruments of curvature, noise, kernel, weights and signal read on such a chain."""
    how: dict[str, Any] = {"source": _SOURCE}
    gradient = chain.rows.mean(0)
    flat = not np.linalg.norm(gradient) > 1e-7 * np.abs(chain.hessian).max()
    truths = curvature_truths(chain.hessian, None if flat else gradient, layers=chain.sizes, **how)
    fitted = np.abs(chain.residuals).max() < 1e-6 * np.abs(chain.targets).max()
    if not fitted and np.abs(chain.rows).max() > 0:  # what is left of a fit is rounding
        truths |= example_truths(chain.rows, chain.hessian, layers=chain.sizes, **how)
    if chain.jacobian.any():
        truths |= kernel_truths(chain.jacobian, chain.targets, **how)
    return truths | _signal_truths(chain)


def _signal_truths(chain: LinearChain) -> dict[str, Truth]:
    x, weights = chain.inputs, chain.weights
    spectra = [np.linalg.svd(w, compute_uv=False) for w in weights]
    outputs = [x @ product(weights[: k + 1], x.shape[1]).T for k in range(len(weights))]
    backward = [chain.residuals @ a for a, _ in chain.sides]
    whole = np.linalg.svd(product(weights, x.shape[1]), compute_uv=False)
    values = {
        "weight_norm": np.array([np.linalg.norm(w) for w in weights]),
        "jacobian_singular_values": whole,
        "activation_flow": np.array([np.sqrt((h**2).mean()) for h in outputs]),
        "input_affinity": np.array(0.0),
        "missing_biases": np.array(1.0),
        "dead_units": np.array(math.nan),  # there are no rectifiers
    }
    truths = {k: Truth(float(v) if v.ndim == 0 else v, source=_SOURCE) for k, v in values.items()}
    if min(s.max() for s in spectra) > 0:
        ranks = np.array([effective_rank(s) for s in spectra])
        truths["weight_rank"] = Truth(ranks, source="exp of the entropy of the singular values' shares.")
    if np.abs(chain.residuals).max() > 1e-6 * np.abs(chain.targets).max():
        truths["example_losses"] = Truth(0.5 * (chain.residuals**2).sum(1), source=_SOURCE)
        rms = np.array([np.sqrt((g**2).mean()) for g in backward])
        truths["gradient_flow"] = Truth(rms, source=_SOURCE)
    covariances = [np.cov(h.T, ddof=0).reshape(h.shape[1], -1) for h in outputs]
    if min(np.trace(c) for c in covariances) > 0:
        ratios = np.array([np.trace(c) ** 2 / (c**2).sum() for c in covariances])
        truths["activation_rank.plug_in"] = Truth(ratios, source="(tr C)²/tr C².", reading="plug_in")
    return truths


def effective_rank(singular: np.ndarray) -> float:
    """Exponential of the entropy of the shares σ/Σσ."""
    shares = singular[singular > 1e-15 * singular.max()] / singular.sum()
    return math.exp(-float((shares * np.log(shares)).sum()))


def pair_truths(
    now: LinearChain, before: LinearChain, make: Callable[[Any], Objective], tolerance: float = 1e-6
) -> dict[str, Truth]:
    """What comparisons of two chains on the same data give: kernels, outputs, the line between them.

    Args:
        now: The one that is measured.
        before: The other one.
        make: From the toy to an objective at the other one.
        tolerance: Of all of them.
    """
    k, k0 = (np.einsum("iap,jap->ij", c.jacobian, c.jacobian) for c in (now, before))
    theta, start = (np.concatenate([w.ravel() for w in c.weights]) for c in (now, before))
    f, f0 = (c.residuals + c.targets for c in (now, before))
    first = before.jacobian @ (theta - start)
    drift = float(np.linalg.norm(k - k0) / np.linalg.norm(k0))
    values = {
        "distance_from_init": np.linalg.norm(theta - start),
        "function_distance": np.linalg.norm(f - f0) / math.sqrt(0.5 * (f**2).sum() + 0.5 * (f0**2).sum()),
        "linearised_error": np.linalg.norm(f - f0 - first) / np.linalg.norm(f - f0),
        "ntk_drift": drift,
        "lazy_index": drift / (abs(now.loss - before.loss) / before.loss),
    }
    how: dict[str, Any] = {"tolerance": tolerance, "source": _SOURCE, "other": make}
    truths = {name: Truth(float(value), **how) for name, value in values.items()}
    t = np.linspace(0, 1, 11)
    line = np.array([_between(now, before, s).loss for s in t])
    excess = line - (1 - t) * now.loss - t * before.loss
    # The error given is over examples; these are the very ones.
    truths["linear_connectivity"] = Truth(excess, reading="excess", error="none", **how)
    return truths


def _between(first: LinearChain, last: LinearChain, t: float) -> LinearChain:
    weights = tuple((1 - t) * a + t * b for a, b in zip(first.weights, last.weights, strict=True))
    return LinearChain(first.inputs, first.targets, weights)

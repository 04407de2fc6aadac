"""A network of two hidden tanh layers and one output, with its first and second derivatives written down.

a₁ = W₁x + b₁, h₁ = tanh a₁, a₂ = W₂h₁ + b₂, h₂ = tanh a₂, f = v·h₂ + c. With s = 1 - h² (the slope of tanh) and
d = -2hs (its second derivative), β = W₂ᵀ(v∘s₂) what reaches h₁ from above, and Jₖ the derivative of aₖ in the weights,

    ∇f  = J₂ᵀ(v∘s₂) + (h₂ in v) + (1 in c),
    ∇²f = J₂ᵀ diag(v∘d₂) J₂ + J₁ᵀ diag(β∘d₁) J₁ + [v with J₂: diag(s₂)] + [row k of W₂ with J₁: (v∘s₂)ₖ diag(s₁)],

the last two with their transposes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from scipy.linalg import eigh
from torch import nn


@dataclass(frozen=True)
class TanhNet:
    """The network at given weights, on given points, under half the mean squared error.

    Attributes:
        inputs: Shape (examples, features).
        targets: Shape (examples,).
        weights: W₁, b₁, W₂, b₂, v of shape (1, hidden), c of shape (1,).
    """

    inputs: np.ndarray
    targets: np.ndarray
    weights: tuple[np.ndarray, ...]

    def model(self) -> nn.Sequential:
        """The same in PyTorch."""
        first, _, second, _, last, _ = self.weights
        layers = [nn.Linear(w.shape[1], w.shape[0], dtype=torch.float64) for w in (first, second, last)]
        model = nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])
        for p, w in zip(model.parameters(), self.weights, strict=True):
            p.data = torch.from_numpy(w.copy())
        return model

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of parameters of the three layers."""
        counts = [w.size for w in self.weights]
        return counts[0] + counts[1], counts[2] + counts[3], counts[4] + counts[5]

    @cached_property
    def places(self) -> list[slice]:
        """Where each tensor lies in the flat vector."""
        ends = np.cumsum([0, *[w.size for w in self.weights]])
        return [slice(int(a), int(b)) for a, b in pairwise(ends)]

    @cached_property
    def flat(self) -> np.ndarray:
        """All weights."""
        return np.concatenate([w.ravel() for w in self.weights])

    @cached_property
    def layers(self) -> list[np.ndarray]:
        """a₁, h₁, a₂, h₂, f over the examples, each of shape (examples, units)."""
        first, one, second, two, last, c = self.weights
        before = self.inputs @ first.T + one
        hidden = np.tanh(before)
        between = hidden @ second.T + two
        active = np.tanh(between)
        return [before, hidden, between, active, active @ last.T + c]

    @cached_property
    def residuals(self) -> np.ndarray:
        """Errors f - y, shape (examples,)."""
        return self.layers[4][:, 0] - self.targets

    @property
    def loss(self) -> float:
        """½ mean (f - y)²."""
        return 0.5 * float((self.residuals**2).mean())

    @cached_property
    def _slopes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """s₁, s₂, v∘s₂ and β, each of shape (examples, hidden)."""
        slope1, slope2 = 1 - self.layers[1] ** 2, 1 - self.layers[3] ** 2
        above = slope2 * self.weights[4]
        return slope1, slope2, above, above @ self.weights[2]

    @property
    def backward(self) -> list[np.ndarray]:
        """Derivatives of f in a₁, h₁, a₂, h₂, f, each of shape (examples, units)."""
        slope1, _, above, reach = self._slopes
        count = len(self.inputs)
        return [reach * slope1, reach, above, np.repeat(self.weights[4], count, axis=0), np.ones((count, 1))]

    @property
    def input_slopes(self) -> np.ndarray:
        """∂f/∂x, shape (examples, features)."""
        slope1, _, _, reach = self._slopes
        return (reach * slope1) @ self.weights[0]

    @cached_property
    def jacobian(self) -> np.ndarray:
        """∂f/∂θ, shape (examples, params)."""
        slope1, _, above, reach = self._slopes
        low = reach * slope1
        parts = [_outer(low, self.inputs), low, _outer(above, self.layers[1]), above, self.layers[3]]
        return np.concatenate([*parts, np.ones((len(low), 1))], axis=1)

    @property
    def gradient(self) -> np.ndarray:
        """Of the loss, shape (params,); without the Jacobian, for training."""
        slope1, _, above, reach = self._slopes
        error = self.residuals[:, None] / len(self.inputs)
        low, high = error * reach * slope1, error * above
        parts = [low.T @ self.inputs, low.sum(0), high.T @ self.layers[1], high.sum(0)]
        return np.concatenate([p.ravel() for p in [*parts, error.T @ self.layers[3], error.sum(0)]])

    @cached_property
    def hessian(self) -> np.ndarray:
        """Of the loss: JᵀJ/n + mean (f - y) ∇²f, shape (params, params)."""
        total = self.jacobian.T @ self.jacobian + sum(map(self._bend, range(len(self.inputs))))
        return (total + total.T) / (2 * len(self.inputs))

    def _bend(self, n: int) -> np.ndarray:
        """(f - y) ∇²f of one example; the mixed terms in one triangle only, doubled."""
        slope1, slope2, above, reach = (s[n] for s in self._slopes)
        hidden, active, size = self.layers[1][n], self.layers[3][n], len(slope1)
        w1, b1, w2, b2, last, _ = self.places
        first, second = np.zeros((size, len(self.flat))), np.zeros((size, len(self.flat)))
        first[:, w1] = np.kron(np.eye(size), self.inputs[n])
        first[:, b1] = np.eye(size)
        second[:, w2] = np.kron(np.eye(size), hidden)
        second[:, b2] = np.eye(size)
        second += (self.weights[2] * slope1) @ first
        total = second.T @ ((-2 * active * above)[:, None] * second)
        total += first.T @ ((-2 * hidden * slope1 * reach)[:, None] * first)
        total[last] += 2 * slope2[:, None] * second
        total[w2] += 2 * np.kron(above[:, None], slope1[:, None] * first)
        return self.residuals[n] * total

    @cached_property
    def _top(self) -> tuple[float, np.ndarray]:
        values, vectors = eigh(self.hessian, subset_by_index=[len(self.flat) - 1] * 2)
        return float(values[0]), vectors[:, 0]

    @property
    def sharpness(self) -> float:
        """Largest eigenvalue of the Hessian."""
        return self._top[0]

    @property
    def sharpest(self) -> np.ndarray:
        """Its eigenvector."""
        return self._top[1]

    def at(self, flat: np.ndarray) -> TanhNet:
        """The network elsewhere."""
        parts = [flat[p].reshape(w.shape) for p, w in zip(self.places, self.weights, strict=True)]
        return TanhNet(self.inputs, self.targets, tuple(parts))

    def descend(self, step: float, steps: int) -> TanhNet:
        """The network after so many steps of full-batch gradient descent."""
        net, theta = self, self.flat
        for _ in range(steps):
            theta = theta - step * net.gradient
            net = self.at(theta)
        return net


def _outer(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Outer products, example by example, flat."""
    return np.einsum("ni,nj->nij", left, right).reshape(len(left), -1)

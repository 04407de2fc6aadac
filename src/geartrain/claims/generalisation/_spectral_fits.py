"""Least squares through one decomposition: least norm, ridge, and gradient flow stopped at any time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RANK = 1e-10
"""Singular values below this share of the largest are rounding."""


@dataclass(frozen=True)
class Decomposition:
    """Of inputs X with n rows: X = left · diag(values) · right. The loss is half the mean squared residual.

    Attributes:
        left: Shape (n, r).
        values: Singular values above rounding, shape (r,).
        right: Shape (r, features).
    """

    left: np.ndarray
    values: np.ndarray
    right: np.ndarray

    @staticmethod
    def of(inputs: np.ndarray) -> Decomposition:
        """Decompose."""
        left, values, right = np.linalg.svd(inputs, full_matrices=False)
        kept = values > RANK * values[0]
        return Decomposition(left[:, kept], values[kept], right[kept])

    def least_norm(self, targets: np.ndarray) -> np.ndarray:
        """Least squares; of all perfect fits that of least norm, where gradient descent from zero ends."""
        return self._filtered(1 / self.values, targets)

    def ridge(self, targets: np.ndarray, strength: float) -> np.ndarray:
        """Minimiser of the loss plus half of `strength` times the squared norm."""
        return self._filtered(self.values / (self.values**2 + len(self.left) * strength), targets)

    def flow(self, targets: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Gradient flow from zero at these times, shape (features, times)."""
        learnt = -np.expm1(-np.outer(self.values**2 / len(self.left), times))
        return self.right.T @ (learnt * (self.left.T @ targets / self.values)[:, None])

    def _filtered(self, factors: np.ndarray, targets: np.ndarray) -> np.ndarray:
        return self.right.T @ (factors * (self.left.T @ targets))

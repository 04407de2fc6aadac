"""An orthonormal basis that grows row by row without ever being copied."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_MAX_ROWS_PER_CHUNK = 256


class Basis:
    """Orthonormal vectors as rows of preallocated chunks.

    Orthogonalisation is classical Gram-Schmidt as matrix-vector products, taken twice where the first time
    removed much: as accurate as modified Gram-Schmidt ("twice is enough", Giraud et al. 2005) and several times
    faster.

    Args:
        n: Length of the vectors.
        dtype: Their dtype.
        device: Where they live.
    """

    def __init__(self, n: int, dtype: torch.dtype, device: torch.device) -> None:
        self.n = n
        self.dtype = dtype
        self.device = device
        self.size = 0
        self._chunks: list[Tensor] = []
        self._fill = 0

    def __len__(self) -> int:
        return self.size

    @property
    def bytes(self) -> int:
        """Memory held."""
        return sum(chunk.numel() * chunk.element_size() for chunk in self._chunks)

    def append(self, vector: Tensor) -> None:
        """Add one vector; it must already be normalised and orthogonal to the rest."""
        if not self._chunks or self._fill == self._chunks[-1].shape[0]:
            # Doubling keeps the number of chunks small and the unused memory below one half.
            rows = min(max(16, self.size), _MAX_ROWS_PER_CHUNK, max(self.n - self.size, 1))
            self._chunks.append(torch.empty(rows, self.n, dtype=self.dtype, device=self.device))
            self._fill = 0
        self._chunks[-1][self._fill].copy_(vector)
        self._fill += 1
        self.size += 1

    def filled(self) -> list[Tensor]:
        """The chunks, without unused rows."""
        return [*self._chunks[:-1], self._chunks[-1][: self._fill]] if self._chunks else []

    def last(self) -> Tensor:
        """The vector added last, shape (n,)."""
        return self._chunks[-1][self._fill - 1]

    def before_last(self) -> Tensor:
        """The one added before it, shape (n,)."""
        return self._chunks[-1][self._fill - 2] if self._fill > 1 else self._chunks[-2][-1]

    def remove_from(self, vector: Tensor) -> np.ndarray:
        """Subtract from ``vector``, in place, its components in the basis; returns them, shape (size,)."""
        before = float(torch.linalg.vector_norm(vector))
        total = self._remove_once(vector)
        # Cancellation costs orthogonality in proportion: without it once is enough (Daniel et al. 1976, η = 1/√2).
        if float(torch.linalg.vector_norm(vector)) < 0.7071 * before:
            total += self._remove_once(vector)
        return total

    def _remove_once(self, vector: Tensor) -> np.ndarray:
        chunks = self.filled()
        components = [chunk @ vector for chunk in chunks]
        for chunk, part in zip(chunks, components, strict=True):
            vector.addmv_(chunk.T, part, alpha=-1)
        return torch.cat(components).double().cpu().numpy() if components else np.zeros(0)

    def combine(self, coefficients: np.ndarray) -> Tensor:
        """Linear combinations of the basis, shape (m, n), from coefficients of shape (size, m)."""
        weights = torch.as_tensor(np.ascontiguousarray(coefficients.T), dtype=self.dtype, device=self.device)
        result = torch.zeros(weights.shape[0], self.n, dtype=self.dtype, device=self.device)
        start = 0
        for chunk in self.filled():
            result += weights[:, start : start + chunk.shape[0]] @ chunk
            start += chunk.shape[0]
        return result

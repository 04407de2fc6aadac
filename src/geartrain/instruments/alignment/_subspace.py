"""Top eigenspaces with a bound on how far they may be tilted, and what random subspaces would show."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geartrain.errors import InputError
from geartrain.instruments import _curvature
from geartrain.linalg import top_eigenpairs

# Values below this share of the largest are no directions of the matrix but rounding.
_RANK_TOL = 1e-6


@dataclass(frozen=True)
class Subspace:
    """The span of the leading eigenvectors.

    Attributes:
        vectors: Orthonormal rows, shape (k, n); fewer than asked for where the matrix has no more positive eigenvalues.
        values: Their eigenvalues, largest first.
        gap: Distance to the next eigenvalue.
        tilt: Bound on the sine of the largest angle to the true eigenspace (Davis and Kahan 1970: residual over gap),
            provided that no eigenvalue was missed; 1 where the gap does not exceed the residuals.
        products: Products spent.
        complete: Whether the residuals reached the tolerance.
    """

    vectors: Tensor
    values: np.ndarray
    gap: float
    tilt: float
    products: int
    complete: bool

    def __len__(self) -> int:
        return len(self.values)


def check(k: int, tol: float) -> None:
    """Refuse sizes and tolerances that mean nothing.

    Raises:
        InputError: One is out of range.
    """
    if k < 1:
        raise InputError(f"k is {k}; allowed: 1 or more.")
    if not 0 < tol < 1:
        raise InputError(f"tol is {tol}; allowed: between 0 and 1, a fraction of the largest eigenvalue.")


def dimension(k: int, n: int) -> int:
    """At most half of the space: a larger part of it overlaps with everything."""
    return min(k, n // 2)


def limit_of(k: int) -> int:
    """Products allowed for one subspace where the budget sets no limit."""
    return 20 * (k + 1) + 100


def expected_products(objective: Any, k: int) -> int:
    """Products that one subspace is likely to take."""
    return min(3 * (k + 1) + 3, objective.num_params)


def top_subspace(
    matvec: Callable[[Tensor], Tensor],
    objective: Any,
    k: int,
    *,
    tol: float,
    max_products: int,
    should_stop: Callable[[], bool],
    generator: torch.Generator | None,
    confirm: bool = False,
) -> Subspace:
    """The span of the k leading eigenvectors; one eigenvalue more is found, to know the gap."""
    result = top_eigenpairs(
        matvec,
        objective.num_params,
        k + 1,
        tol=tol,
        max_products=max_products,
        should_stop=should_stop,
        generator=generator,
        eigenvectors=True,
        confirm=confirm,
        **_curvature.place_of(objective),
    )
    assert result.eigenvectors is not None
    values, residuals = result.eigenvalues, result.residuals
    largest = float(np.abs(result.ritz.values).max(initial=0.0))
    rank = int((values[:k] > np.maximum(_RANK_TOL * largest, residuals[:k])).sum())
    below = float(values[rank] + residuals[rank]) if rank < len(values) else -math.inf
    gap = float(values[rank - 1]) - below if rank else 0.0
    leak = float(np.linalg.norm(residuals[:rank]))
    tilt = min(leak / gap, 1.0) if gap > 0 else 1.0
    return Subspace(
        result.eigenvectors[:rank], values[:rank], gap, tilt, result.num_products, result.converged
    )


def error_of_share(share: float, tilt: float) -> float:
    """Bound on the error of a share (a squared cosine) when the space is tilted by ``tilt`` (a sine).

    The cosine and the sine each move by at most the tilt, the squared cosine by no more than it.
    """
    cosine, sine = math.sqrt(min(share, 1.0)), math.sqrt(max(1.0 - share, 0.0))
    return min(tilt, 2 * min(cosine, sine) * tilt + tilt**2)


def share_spread(k: int, n: int) -> float:
    """Standard deviation of the share of a random direction in k of n dimensions: that of Beta(k/2, (n-k)/2).

    >>> share_spread(1, 2) == math.sqrt(1 / 8)
    True
    """
    return math.sqrt(2 * k * (n - k) / (n * n * (n + 2)))


def overlap_spread(k: int, m: int, n: int) -> float:
    """Standard deviation of tr(P Q)/min(k, m) for random projectors of ranks k and m in n dimensions.

    For m = 1 it is `share_spread`. Var tr(P Q) = 2 k m (n-k)(n-m)/(n² (n-1)(n+2)) for Haar-distributed subspaces.
    """
    if n < 2:
        return 0.0
    variance = 2 * k * m * (n - k) * (n - m) / (n * n * (n - 1) * (n + 2))
    return math.sqrt(variance) / min(k, m)


def standardised(value: float, chance: float, spread: float) -> float:
    """How many standard deviations above chance; NaN where chance has no spread."""
    return (value - chance) / spread if spread > 0 else float("nan")

"""Unbiased estimates of tr(HΣ) and GᵀHG from blocks of examples, by U-statistics of third order.

With gradient g_k and Hessian h_k of block k (b examples each), all that can be known of the two lies in the numbers
q[k, i, j] = g_iᵀ h_k g_j. Averaged over *different* blocks k, i, j they are unbiased for GᵀHG; over k ≠ i = j, for
GᵀHG + tr(HΣ)/b. Nothing is used twice, so the noise that H and g share on the same examples does not enter. All K³
numbers cost K Hessian products with the whole data: K products of K blocks each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geartrain._torch import batches as _batches
from geartrain._torch import kernels, per_example
from geartrain.budget import Clock
from geartrain.instruments.noise import _rows
from geartrain.objective import Objective

BLOCKS = 24
LEAST = 4


@dataclass(frozen=True)
class Forms:
    """Quadratic forms of blocks of examples.

    Attributes:
        table: q[k, i, j] = g_iᵀ h_k g_j, symmetric in i and j, shape (done, blocks, blocks) for the blocks k that the
            budget reached.
        gradients: Inner products of the blocks' gradients, shape (blocks, blocks).
        size: Examples per block.
        blocks: How many there are.
    """

    table: np.ndarray
    gradients: np.ndarray
    size: int
    blocks: int

    @property
    def complete(self) -> bool:
        """Whether every block's Hessian was reached."""
        return len(self.table) == self.blocks


def blocks_of(objective: Objective, groups: int) -> int:
    """Number of blocks that the data allow."""
    return min(groups, objective.num_examples)


def split(objective: Objective, groups: int, generator: torch.Generator | None) -> list[Any]:
    """Random blocks of equal size; what does not fill one is left out."""
    size = max(1, objective.num_examples // groups)
    source = generator or torch.Generator().manual_seed(objective.seed)
    return list(_rows.random_groups(objective, size, source))[:groups]


def check_mean(objective: Objective, blocks: list[Any]) -> None:
    """Refuse a loss that is no mean over examples, where that can be seen.

    Raises:
        UnsupportedError: The mean over the blocks of their losses is not the loss of all of them.
    """
    with kernels.mode(objective.model, objective.training):
        free = kernels.mixes_examples(objective.model) or kernels.draws_random_numbers(objective.model)
    try:
        joined = objective.on([_batches.join(blocks)])
    except RuntimeError:  # blocks of different lengths
        return
    if not free:
        apart = torch.stack([objective.on([block]).value() for block in blocks]).mean()
        per_example.check_mean(apart, joined.value(), kernels_random=False)


def forms_of(objective: Objective, blocks: list[Any], clock: Clock) -> Forms:
    """The table of quadratic forms, as far as the budget goes.

    A budget in products counts products with all data: block by block, 1/K of one at a time.
    """
    parts = [objective.on([block]) for block in blocks]
    rows = torch.stack([part.gradient() for part in parts])
    table, count = [], len(parts)
    for done, part in enumerate(parts):
        # One block costs `count` products with 1/count of the data: one product in all.
        if clock.exhausted(done):
            break
        images: Tensor = part.hvp(rows.T)
        table.append((rows.double() @ images.double()).cpu().numpy())
        part.release()
    inner = (rows.double() @ rows.double().T).cpu().numpy()
    forms = np.array(table) if table else np.zeros((0, count, count))
    return Forms((forms + forms.swapaxes(1, 2)) / 2, inner, _batches.size_of(blocks[0]), count)


def estimates(table: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unbiased tr(HΣ_b) and GᵀHG with their jackknife covariance, Σ_b being the covariance of a block's gradient.

    Args:
        table: Shape (..., K, K, K) or, with fewer Hessians than gradients, (..., k, K, K), where the k-th Hessian is
            that of the k-th block. Further axes are separate problems.

    Returns:
        tr(HΣ_b) and GᵀHG, shape (...), and their covariance, shape (..., 2, 2).
    """
    hessians, count = table.shape[-3], table.shape[-1]
    own = np.arange(hessians)
    twice = np.diagonal(table, axis1=-2, axis2=-1).copy()  # q[k, i, i]
    twice[..., own, own] = 0.0
    thrice = table.copy()
    thrice[..., np.arange(count), np.arange(count)] = 0.0
    thrice[..., own, own, :] = 0.0
    thrice[..., own, :, own] = 0.0
    sums = np.stack([twice.sum((-2, -1)), thrice.sum((-3, -2, -1))])
    # What block a takes part in, as a Hessian or as either gradient.
    as_hessian = np.zeros((2, *table.shape[:-3], count))
    as_hessian[0][..., :hessians] = twice.sum(-1)
    as_hessian[1][..., :hessians] = thrice.sum((-2, -1))
    as_gradient = np.stack([twice.sum(-2), 2 * thrice.sum((-3, -2))])
    kept = sums[..., None] - as_hessian - as_gradient
    # A deleted block takes its own Hessian with it, if it has one; each that stays meets one gradient fewer.
    left = np.where(np.arange(count) < hessians, hessians - 1, hessians)
    pairs = np.stack([left * (count - 2), left * (count - 2) * (count - 3)])
    full = np.array([hessians * (count - 1), hessians * (count - 1) * (count - 2)])
    means = sums / full.reshape(2, *[1] * (sums.ndim - 1))
    rest = kept / pairs.reshape(2, *[1] * (kept.ndim - 2), count)
    jack = np.stack([rest[0] - rest[1], rest[1]])
    centred = jack - jack.mean(-1, keepdims=True)
    covariance = (count - 1) / count * np.einsum("a...n,b...n->...ab", centred, centred)
    return means[0] - means[1], means[1], covariance


def interval(top: float, bottom: float, covariance: np.ndarray) -> tuple[float, float]:
    """Fieller's 95 % interval of the ratio; (0, ∞) where the sign of either part is open.

    >>> interval(1.0, -1.0, np.zeros((2, 2)))
    (0.0, inf)
    """
    if top <= 0 or bottom <= 0 or not np.isfinite(covariance).all():
        return 0.0, math.inf
    return _rows.fieller(top, bottom, covariance)

"""The loss at many points, each in blocks of the same examples, so that differences carry an honest error.

Two points share their examples, and most of what varies from example to example is the same at both. The spread over
blocks of the *difference* is therefore the error to report, and it is far below that of either loss.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geartrain._torch import batches as _batches
from geartrain._torch import kernels
from geartrain.budget import Clock
from geartrain.errors import NonFiniteError
from geartrain.objective import Objective

BLOCKS = 64


class Probe:
    """The loss in blocks of examples, at any parameters.

    Where the examples of a batch are coupled (batch statistics, dropout masks drawn per batch) or the loss is not the
    mean over its examples, the batches stay whole, and without several of them there is no error.

    Args:
        objective: Whose loss.

    Attributes:
        weights: Share of each block in the loss, shape (blocks,).
        splits: Whether the loss is the weighted mean of its blocks, so that their spread is an error.
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        whole = [b for _, b in objective._weighted()]
        with kernels.mode(objective.model, objective.training):
            coupled = kernels.mixes_examples(objective.model) or kernels.draws_random_numbers(objective.model)
        self.blocks = whole if coupled else _shuffled_blocks(objective, whole)
        self._weigh()
        self.splits = len(self.blocks) > 1 and (coupled or self._is_mean())
        if not self.splits:
            self.blocks = whole
            self._weigh()

    def losses(self, params: Tensor | None = None) -> np.ndarray:
        """Loss of each block, float64, shape (blocks,); not finite where the loss is not. **Cost**: one forward."""
        objective = self.objective
        with objective._quiet():
            leaves = objective._leaves(params)
            found = [objective._forward_loss(leaves, block) for block in self.blocks]
        objective.charge(forwards=1)
        return torch.stack(found).double().cpu().numpy()

    def mean(self, losses: np.ndarray) -> float | np.ndarray:
        """The loss, from those of its blocks, shape (..., blocks)."""
        with np.errstate(invalid="ignore"):
            return losses @ self.weights

    def error(self, losses: np.ndarray) -> np.ndarray:
        """Standard error over the examples of `mean`, for losses or differences of shape (..., blocks).

        NaN where the loss does not split, 0 where all blocks agree exactly (the two points are the same function).
        """
        if not self.splits:
            return np.full(losses.shape[:-1], np.nan)
        count = len(self.weights)
        with np.errstate(invalid="ignore"):
            rest = losses - np.asarray(self.mean(losses))[..., None]
            return np.sqrt(count / (count - 1) * np.sum((self.weights * rest) ** 2, axis=-1))

    def _weigh(self) -> None:
        sizes = np.array([_batches.size_of(block) for block in self.blocks], dtype=float)
        self.weights = sizes / sizes.sum()

    def _is_mean(self) -> bool:
        # Not at the present point: where every example is fitted, a sum of zeros looks like a mean of zeros.
        here = self.objective.parameters()
        source = torch.Generator().manual_seed(self.objective.seed)
        noise = torch.randn(len(here), generator=source, dtype=torch.float64).to(here)
        aside = here + (0.1 * here.norm() / len(here) ** 0.5 + 1e-2) * noise
        try:
            together, apart = float(self.objective.value(aside)), float(self.mean(self.losses(aside)))
        except (NonFiniteError, RuntimeError, ValueError, TypeError, IndexError):
            return False  # nothing can be said there, or the loss refuses parts of a batch
        rounding = 1e-8 if self.objective.dtype == torch.float64 else 1e-4
        return abs(apart - together) <= rounding * (1 + abs(together))


def _shuffled_blocks(objective: Objective, whole: list[Any]) -> list[Any]:
    """The batches cut into about `BLOCKS` random parts; the order of sorted data would make blocks differ."""
    source, blocks = torch.Generator().manual_seed(objective.seed), []
    for batch in whole:
        size = _batches.size_of(batch)
        parts = min(size, max(1, round(BLOCKS * size / objective.num_examples)))
        order = torch.randperm(size, generator=source).to(objective.device)
        blocks += [_batches.take(batch, index) for index in order.tensor_split(parts)]
    return blocks


# ---------------------------------------------------------------------- spending


class Spending:
    """What has been spent since here, in products (a product is about two gradients, or six forward passes)."""

    def __init__(self, objective: Any, clock: Clock) -> None:
        self.objective, self.clock = objective, clock
        self.before = objective.work

    @property
    def products(self) -> float:
        """Spent so far."""
        spent = self.objective.work - self.before
        return spent.products + spent.gradients / 2 + spent.forwards / 6

    def exhausted(self) -> bool:
        """Whether the budget is over."""
        return self.clock.exhausted(math.floor(self.products))

"""Gradients of single examples or of groups, as rows, and the unbiased parts |G|² and trΣ that all noise scales use.

Group means of b examples have the covariance Σ/b; whoever reports Σ undoes that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from geartrain._torch import batches as _batches
from geartrain._torch import kernels
from geartrain.budget import Budget
from geartrain.errors import InputError
from geartrain.objective import Objective

GROUPS = 64
"""Micro-batches, where gradients are not taken example by example."""

KEEP_BYTES = 2**28
"""Rows of gradients are kept in memory up to here; beyond, they are computed twice."""


@dataclass(frozen=True)
class Sums:
    """What is needed of the rows g_k, k = 1..count, float64.

    Attributes:
        total: Σ g_k, shape (params,).
        squares: |g_k|² per layer, shape (count, layers).
        products: g_k·Σg per layer, shape (count, layers).
        layer_totals: |Σ g|² per layer, shape (layers,).
        layers: Names.
    """

    total: np.ndarray
    squares: np.ndarray
    products: np.ndarray
    layer_totals: np.ndarray
    layers: tuple[str, ...]

    @property
    def count(self) -> int:
        return len(self.squares)


class Rows:
    """Gradients of examples or of random groups, as rows, in pieces of bounded size."""

    def __init__(self, objective: Objective, size: int, generator: torch.Generator | None) -> None:
        self.objective = objective
        self.size = size
        self.batches = list(objective.batches)
        if size > 1:
            source = generator or torch.Generator().manual_seed(objective.seed)
            self.batches = list(random_groups(objective, size, source))
            # Groups that are compared must be drawn once: a second pass has to see the same ones.

    def pieces(self) -> Iterator[Tensor]:
        objective = self.objective
        if self.size == 1:
            chunk = max(1, min(512, 2**26 // (8 * objective.num_params)))
            yield from (rows.double() for rows in objective.per_example_gradient_chunks(chunk=chunk))
            return
        for batch in self.batches:
            yield objective.on([batch]).gradient()[None].double()

    def sums(self) -> Sums:
        objective = self.objective
        kept: list[Tensor] | None = []
        held, squares = 0, []
        total = torch.zeros(objective.num_params, dtype=torch.float64, device=objective.device)
        for rows in self.pieces():
            total += rows.sum(0)
            squares.append(self._by_layer(rows.square()))
            held += rows.nbytes
            kept = [*kept, rows] if kept is not None and held <= KEEP_BYTES else None
        again = kept if kept is not None else self.pieces()
        products = [self._by_layer(rows * total) for rows in again]
        none = torch.zeros(0, len(objective.layers()), dtype=torch.float64, device=objective.device)
        return Sums(
            total.cpu().numpy(),
            torch.cat([none, *squares]).cpu().numpy(),
            torch.cat([none, *products]).cpu().numpy(),
            self._by_layer(total.square()[None])[0].cpu().numpy(),
            tuple(objective.layers()),
        )

    def _by_layer(self, table: Tensor) -> Tensor:
        """Sums over the parameters of each layer, shape (rows, layers)."""
        slices = self.objective.layout.slices()
        columns = [
            torch.stack([table[:, slices[n]].sum(1) for n in names]).sum(0)
            for names in self.objective.layers().values()
        ]
        return torch.stack(columns, dim=1)


def sums_of(
    objective: Objective,
    groups: int | None,
    generator: torch.Generator | None,
    budget: Budget,
    name: str,
) -> tuple[Sums, int]:
    """The sums of the rows that an instrument asked for, and the number of examples behind each row.

    Args:
        objective: What to measure.
        groups: Rows asked for; chosen if ``None``.
        generator: Draws the groups.
        budget: A short one makes groups of examples.
        name: Of the instrument, for messages.

    Returns:
        The sums and the group size.

    Raises:
        InputError: Fewer than two groups were asked for.
        UnsupportedError: Examples have no gradients of their own, and the loss is no mean over groups either.
    """
    if groups is not None and groups < 2:
        raise InputError(f"{name}: groups is {groups}; at least 2 groups are needed to see how they differ.")
    size = group_size(objective, groups, budget)
    return Rows(objective, size, generator).sums(), size


def group_size(objective: Objective, groups: int | None, budget: Budget) -> int:
    """Examples per gradient: 1 wherever it is defined and affordable."""
    total = objective.num_examples
    if groups is not None:
        return max(1, total // groups)
    with kernels.mode(objective.model, objective.training):
        coupled = kernels.mixes_examples(objective.model)
    if coupled:
        return max(2, min(total // 4, max(8, total // GROUPS)))
    recurrent = any(isinstance(m, (nn.RNNBase, nn.RNNCellBase)) for m in objective.model.modules())
    hurried = budget.seconds is not None and budget.seconds < 2
    dear = total * objective.num_params > 3e8 or (recurrent and total > GROUPS) or hurried
    return max(1, total // GROUPS) if dear else 1


def random_groups(objective: Objective, size: int, generator: torch.Generator) -> Iterator[Any]:
    """Random groups of exactly ``size`` examples; what does not fill one is left out."""
    try:
        parts = [_batches.join(objective.batches)]
    except RuntimeError:  # batches of different lengths cannot be mixed
        parts = list(objective.batches)
    for part in parts:
        order = torch.randperm(_batches.size_of(part), generator=generator)
        for start in range(0, len(order) - size + 1, size):
            yield _batches.take(part, order[start : start + size].to(objective.device))


def parts_of(
    squares: np.ndarray, products: np.ndarray, total: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unbiased trΣ and |G|² of rows, and the jackknife covariance of the two.

    Args:
        squares: |g_k|², shape (rows, ...); further axes (layers, seeds) are separate problems.
        products: g_k·Σg, likewise.
        total: |Σg|², shape (...).

    Returns:
        trΣ and |G|², shape (...), and their covariance matrix, shape (..., 2, 2); NaN with fewer than three rows.

    >>> noise, signal, _ = parts_of(np.array([1.0, 9.0]), np.array([-2.0, 6.0]), np.array(4.0))
    >>> float(noise), float(signal)
    (8.0, -3.0)
    """
    n = len(squares)
    noise, signal = _parts(squares.sum(0), total, n)
    if n < 3:
        return noise, signal, np.full((*np.shape(noise), 2, 2), math.nan)
    both = np.stack(_parts(squares.sum(0) - squares, total - 2 * products + squares, n - 1))
    centred = both - both.mean(1, keepdims=True)
    return noise, signal, (n - 1) / n * np.einsum("an...,bn...->...ab", centred, centred)


def _parts(squares: np.ndarray, total: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    mean_square = total / count**2
    # Rounding must not make a variance of equal rows negative.
    noise = np.maximum(squares - count * mean_square, 0.0) / (count - 1)
    return noise, mean_square - noise / count


def ratio_error(top: float, bottom: float, covariance: np.ndarray) -> float:
    """Standard error of top/bottom by linearisation; NaN where the denominator is not positive."""
    if not bottom > 0 or not np.isfinite(covariance).all():
        return math.nan
    ratio = top / bottom
    spread = covariance[0, 0] - 2 * ratio * covariance[0, 1] + ratio**2 * covariance[1, 1]
    return math.sqrt(max(float(spread), 0.0)) / bottom


def fieller(top: float, bottom: float, covariance: np.ndarray, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a positive ratio top/bottom whose parts are uncertain; unbounded where ``bottom`` may be 0.

    >>> fieller(2.0, 1.0, np.zeros((2, 2)))
    (2.0, 2.0)
    """
    if not np.isfinite(covariance).all():
        return 0.0, math.inf
    (a, b), (_, c) = (covariance * z**2).tolist()
    # The ratios r with (top - r bottom)² ≤ z² Var(top - r bottom): a quadratic in r.
    quadratic, linear, constant = bottom**2 - c, top * bottom - b, top**2 - a
    root = math.sqrt(max(linear**2 - quadratic * constant, 0.0))
    if bottom <= 0 or quadratic <= 0:
        # No upper end: below it, the smaller of the ratios that the data still allow.
        reach = bottom + math.sqrt(max(c, 0.0))
        return (max(top - math.sqrt(max(a, 0.0)), 0.0) / reach if reach > 0 else math.inf), math.inf
    return max((linear - root) / quadratic, 0.0), (linear + root) / quadratic

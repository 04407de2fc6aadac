"""Gradient noise scale: how many examples it takes until the mean gradient is as large as its noise.

Batches far below it waste no example (twice the batch allows nearly twice the step); batches far above it waste
most of them. It says nothing about which directions are noisy, it changes along the run (usually it grows), and
near the end of training, where the mean gradient vanishes, it can only be bounded from below.

Both parts are unbiased (the squared norm of a mean gradient over n examples contains trΣ/n of pure noise) and the
result is in examples: tools that forget the size of the groups they compare are off by that factor.

References:
    McCandlish, Kaplan, Amodei et al. (2018), "An Empirical Model of Large-Batch Training", arXiv:1812.06162, App. A.

Ledger: 4.5
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
from geartrain.instruments._answers import estimate, not_applicable
from geartrain.instruments._base import Budget, instrument
from geartrain.objective import Objective
from geartrain.records import Cost, Measurement

GROUPS = 64
"""Micro-batches, where gradients are not taken example by example."""

KEEP_BYTES = 2**28
"""Rows of gradients are kept in memory up to here; beyond, they are computed twice."""


def _price(objective: Objective, **options: Any) -> Cost:
    return Cost(gradients=2)


@instrument(needs="objective", unit="examples", price=_price)
def gradient_noise_scale(
    objective: Objective,
    *,
    groups: int | None = None,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure B = trΣ / |G|², the simple noise scale, in examples.

    With gradients g_i of single examples: trΣ = Σ|g_i - ḡ|² / (n - 1), |G|² = |ḡ|² - trΣ / n. With gradients of
    groups of b examples, the covariance of a group mean is Σ / b, which is undone. Standard errors by the
    jackknife; the interval is Fieller's for a ratio, so its upper end is infinite where |G|² is not clearly above 0.

    **Cost**: one pass of per-example gradients (a few gradients where the model can be vectorised), a second one
    where they do not fit in memory; or one gradient in ``groups`` pieces.

    **Assumes** that the loss is a mean over independent examples.

    Args:
        objective: What to measure.
        groups: Take gradients of that many random groups instead of single examples. By default only where single
            examples are undefined (batch normalisation in training mode) or too dear (recurrent or large models).
        generator: Draws the groups; seeded by the objective if omitted.
        budget: With a time limit under two seconds, groups are used as well.

    Returns:
        The noise scale, in examples; infinite where the unbiased |G|² is not positive. Details: ``interval`` (95 %),
        ``grad_sq_norm`` and ``covariance_trace`` with their standard errors, ``signal_to_noise`` per layer
        (|G|²/trΣ, per example, unbiased), ``group_size``, ``num_groups``.

    Raises:
        NonFiniteError: A gradient is not finite.

    Example:
        Two opposite gradients, -1 and 3: ḡ = 1, trΣ = 8, |G|² = 1 - 8/2 < 0, so the data show no mean gradient.

        >>> import torch
        >>> model = torch.nn.Linear(1, 1, bias=False).double()
        >>> loss = lambda outputs, targets: (outputs * targets).mean()
        >>> x, y = torch.ones(2, 1).double(), torch.tensor([[-1.0], [3.0]]).double()
        >>> gradient_noise_scale(Objective(model, loss, (x, y))).details["covariance_trace"]
        8.0
    """
    name = "gradient_noise_scale"
    size = _group_size(objective, groups, Budget.of(budget))
    rows = _Rows(objective, size, generator)
    sums = rows.sums()
    if (sums.count < 4 and size > 1) or sums.count < 2:
        return not_applicable(
            name, f"{sums.count} groups of examples are too few to see noise.", unit="examples"
        )
    noise, signal = _parts(sums.squares.sum(1), float(sums.total @ sums.total), sums.count)
    if noise == 0 and signal == 0:
        return not_applicable(name, "Every example's gradient is zero.", unit="examples")
    return _answer(name, sums, noise, signal, size)


@dataclass(frozen=True)
class _Sums:
    """What is needed of the rows g_k, k = 1..count, float64.

    Attributes:
        total: Σ g_k, shape (params,).
        squares: |g_k|² per layer, shape (count, layers).
        products: g_k·Σg, shape (count,).
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


class _Rows:
    """Gradients of examples or of random groups, as rows, in pieces of bounded size."""

    def __init__(self, objective: Objective, size: int, generator: torch.Generator | None) -> None:
        self.objective = objective
        self.size = size
        self.batches = list(objective.batches)
        if size > 1:
            source = generator or torch.Generator().manual_seed(objective.seed)
            self.batches = list(_groups(objective, size, source))
            # Groups that are compared must be drawn once: a second pass has to see the same ones.

    def pieces(self) -> Iterator[Tensor]:
        objective = self.objective
        if self.size == 1:
            chunk = max(1, min(512, 2**26 // (8 * objective.num_params)))
            yield from (rows.double() for rows in objective.per_example_gradient_chunks(chunk=chunk))
            return
        for batch in self.batches:
            yield objective.on([batch]).gradient()[None].double()
        objective.charge(gradients=1)

    def sums(self) -> _Sums:
        objective = self.objective
        slices, groups = objective.layout.slices(), objective.layers()
        kept: list[Tensor] | None = []
        held, squares, total = (
            0,
            [],
            torch.zeros(objective.num_params, dtype=torch.float64, device=objective.device),
        )
        for rows in self.pieces():
            total += rows.sum(0)
            per_name = {n: rows[:, s].square().sum(1) for n, s in slices.items()}
            squares.append(torch.stack([sum(per_name[n] for n in names) for names in groups.values()], dim=1))  # type: ignore[arg-type]
            held += rows.nbytes
            kept = [*kept, rows] if kept is not None and held <= KEEP_BYTES else None
        products = torch.cat([rows @ total for rows in (kept if kept is not None else self.pieces())])
        layer_totals = [
            float(sum(total[slices[n]].square().sum() for n in names)) for names in groups.values()
        ]
        return _Sums(
            total.cpu().numpy(),
            torch.cat(squares).cpu().numpy(),
            products.cpu().numpy(),
            np.array(layer_totals),
            tuple(groups),
        )


def _group_size(objective: Objective, groups: int | None, budget: Budget) -> int:
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


def _groups(objective: Objective, size: int, generator: torch.Generator) -> Iterator[Any]:
    """Random groups of exactly ``size`` examples; what does not fill one is left out."""
    try:
        parts = [_batches.join(objective.batches)]
    except RuntimeError:  # batches of different lengths cannot be mixed
        parts = list(objective.batches)
    for part in parts:
        order = torch.randperm(_batches.size_of(part), generator=generator)
        for start in range(0, len(order) - size + 1, size):
            yield _batches.take(part, order[start : start + size].to(objective.device))


def _parts(squares: np.ndarray, total: float, count: int) -> tuple[float, float]:
    """Unbiased trΣ and |G|² of the rows."""
    mean_square = total / count**2
    noise = max(float(squares.sum()) - count * mean_square, 0.0) / (count - 1)
    return noise, mean_square - noise / count


def _jackknife(sums: _Sums) -> np.ndarray:
    """Covariance matrix of (trΣ, |G|²) of the rows, shape (2, 2)."""
    n = sums.count
    if n < 3:
        return np.full((2, 2), math.nan)
    squares = sums.squares.sum(1)
    totals = float(sums.total @ sums.total) - 2 * sums.products + squares
    mean_squares = totals / (n - 1) ** 2
    noise = (squares.sum() - squares - (n - 1) * mean_squares) / (n - 2)
    both = np.stack([noise, mean_squares - noise / (n - 1)])
    centred = both - both.mean(1, keepdims=True)
    return (n - 1) / n * centred @ centred.T


def _answer(name: str, sums: _Sums, noise: float, signal: float, size: int) -> Measurement:
    covariance = _jackknife(sums)
    low, high = fieller(noise, signal, covariance)
    ratio = noise / signal if signal > 0 else math.inf
    spread = (
        covariance[0, 0] - 2 * ratio * covariance[0, 1] + ratio**2 * covariance[1, 1]
        if signal > 0
        else math.nan
    )
    error = math.sqrt(max(spread, 0.0)) / signal if spread == spread else math.nan
    details = {
        "interval": (size * low, size * high),
        "grad_sq_norm": signal,
        "grad_sq_norm_error": math.sqrt(covariance[1, 1]),
        "covariance_trace": size * noise,
        "covariance_trace_error": size * math.sqrt(covariance[0, 0]),
        "signal_to_noise": _by_layer(sums, size),
        "group_size": size,
        "num_groups": sums.count,
    }
    what = "examples" if size == 1 else f"groups of {size}"
    sentence = f"From {sums.count} {what}; 95 % interval {size * low:.3g} to {size * high:.3g} examples."
    if not math.isfinite(high):
        sentence = f"From {sums.count} {what}; the mean gradient is lost in noise: at least {size * low:.3g} examples."
    return estimate(name, size * ratio, size * error, sentence, unit="examples", details=details)


def _by_layer(sums: _Sums, size: int) -> dict[str, float]:
    ratios = {}
    for i, layer in enumerate(sums.layers):
        noise, signal = _parts(sums.squares[:, i], float(sums.layer_totals[i]), sums.count)
        ratios[layer or "(model)"] = signal / (size * noise) if noise > 0 else math.nan
    return ratios


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

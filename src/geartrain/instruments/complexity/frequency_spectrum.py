"""Frequency spectrum: how quickly the model's output varies along straight lines between examples.

Networks learn low frequencies first (spectral bias) and memorise with high ones: a share that falls during training
says that detail, wanted or not, is being added.

Ledger: 1.11
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.fft import dct
from torch import Tensor

from geartrain._torch import batches as _batches
from geartrain.budget import Budget
from geartrain.errors import InputError
from geartrain.instruments._answers import no_answer, not_applicable, ratio_and_error
from geartrain.instruments._base import instrument
from geartrain.instruments._layers import first_tensor, in_evaluation
from geartrain.instruments._limits import out_of_budget, spent, stopped
from geartrain.objective import Objective
from geartrain.records import Cost, Measurement, State, Status

NAME = "frequency_spectrum"
CHUNK = 4096


def _price(objective: Any, *, segments: int = 32, points: int = 64, **options: Any) -> Cost:
    lines = max(min(segments, objective.num_examples // 2), 0)
    return Cost(forwards=lines * points / objective.num_examples)


@instrument(needs="objective", unit="1", price=_price)
def frequency_spectrum(
    objective: Objective,
    *,
    segments: int = 32,
    points: int = 64,
    low: int = 2,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the share of the output's variation along segments that lies at the ``low`` lowest frequencies.

    f(a + t (b - a)) for t in (0, 1) is expanded in cos(π k t), k = 0, 1, 2, ... (a cosine transform: a segment has two
    ends that need not agree, and this basis makes no jump of them). The share is Σ_{1 ≤ k ≤ low} P_k / Σ_{k ≥ 1} P_k,
    powers summed over outputs and disjoint random pairs of examples (a, b). k counts half waves along the segment.

    **Cost** ``segments`` x ``points`` evaluations of the model, in evaluation mode.

    **Assumes** inputs that are numbers, so that there is something in between two of them.

    **Misleads** where mixtures of examples look like no data at all (images): the model is then measured off the data.
    A straight line is not a single frequency: it has 98.6 % at k = 1. Frequencies above ``points`` / 2 fold back.

    Args:
        objective: What to measure; inputs of one floating tensor.
        segments: How many pairs; at most half the examples.
        points: Points on each; at least 8.
        low: Highest k that counts as low.
        generator: Draws the pairs; a fixed seed if omitted.
        budget: Limit; fewer segments are taken in it.

    Returns:
        The share, with the jackknife error over segments. ``details``: ``power`` (share of each k ≥ 1), ``mean``
        (mean k), ``variation`` (mean variance along a segment), ``segments``.

    Raises:
        InputError: A setting is out of range.

    References:
        Rahaman et al. (2019), arXiv:1806.08734; Xu et al. (2020), arXiv:1901.06523.

    >>> import geartrain as gt
    >>> x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    >>> linear = gt.Objective(torch.nn.Linear(3, 1), torch.nn.functional.mse_loss, (x, x[:, :1]))
    >>> round(float(frequency_spectrum(linear, low=1)), 3)  # 96 / π⁴
    0.986
    """
    if segments < 1 or points < 8 or not 1 <= low < points:
        raise InputError(
            f"segments is {segments}, points {points}, low {low}; allowed: segments >= 1, points >= 8, "
            "1 <= low < points."
        )
    clock = Budget.of(budget).start()
    inputs = _inputs(objective)
    if isinstance(inputs, str):
        return not_applicable(NAME, inputs)
    if (answer := stopped(NAME, objective, clock)) is not None:
        return answer
    pairs = _pairs(inputs, segments, generator)
    quiet, rows, used = in_evaluation(objective), [], 0.0
    # Under a budget one segment at a time, so that it can end between any two.
    group = 1 if budget is not None else max(1, CHUNK // points)
    for begin in range(0, len(pairs), group):
        part = pairs[begin : begin + group]
        price = len(part) * points / objective.num_examples
        if spent(clock, used + price - 1e-9):
            break
        values = _along(quiet, part, points)
        used += price
        if values is None:
            return not_applicable(NAME, "The model does not give one row of outputs per example.")
        rows.extend(values)
    if not rows:
        return out_of_budget(NAME)
    if not all(np.isfinite(r).all() for r in rows):
        return no_answer(NAME, "An output is NaN or infinite.", state=State.NON_FINITE)
    return _answer(rows, low, len(rows) == len(pairs))


def _inputs(objective: Objective) -> Tensor | str:
    if objective.loss_fn is None:
        return "batch_loss hides the model's outputs; build the Objective with loss_fn(outputs, targets)."
    try:
        inputs = _batches.join(objective.batches)[0]
    except RuntimeError:  # batches of different lengths
        inputs = objective.batches[0][0]
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        return "The inputs are not one tensor of numbers, so there is nothing between two of them."
    if len(inputs) < 2:
        return "One example has no other one to draw a line to."
    return inputs


def _pairs(inputs: Tensor, segments: int, generator: torch.Generator | None) -> list[tuple[Tensor, Tensor]]:
    source = generator if generator is not None else torch.Generator().manual_seed(0)
    order = torch.randperm(len(inputs), generator=source, device=source.device).to(inputs.device)
    count = min(segments, len(inputs) // 2)
    return [(inputs[order[2 * i]], inputs[order[2 * i + 1]]) for i in range(count)]


def _along(objective: Objective, pairs: list[tuple[Tensor, Tensor]], points: int) -> np.ndarray | None:
    """Outputs at the middles of equal pieces of each segment, shape (segments, points, outputs)."""
    first, second = (torch.stack(ends).double() for ends in zip(*pairs, strict=True))
    t = (torch.arange(points, device=first.device, dtype=torch.float64) + 0.5) / points
    t = t.reshape(1, -1, *[1] * (first.ndim - 1))
    lines = first[:, None] + t * (second - first)[:, None]
    found = first_tensor(objective.on([(lines.flatten(0, 1).to(pairs[0][0].dtype),)]).outputs())
    if found is None or len(found) != len(pairs) * points:
        return None
    return found.double().reshape(len(pairs), points, -1).cpu().numpy()


def _answer(rows: list[np.ndarray], low: int, complete: bool) -> Measurement:
    # Orthonormal, so that the powers of k >= 1 add up to the variance along the segment (Parseval).
    parts = [np.asarray(dct(r, type=2, norm="ortho", axis=0))[1:] for r in rows]
    powers = np.stack([(p**2).sum(1) / len(r) for p, r in zip(parts, rows, strict=True)])
    variation = powers.sum(1)
    sizes = np.array([float(np.square(r).sum()) for r in rows])
    if not np.any(variation > 1e-12 * (sizes / len(rows[0]))):
        return not_applicable(NAME, "The outputs do not vary along any segment.")
    share, error = ratio_and_error(powers[:, :low].sum(1), variation)
    mean = powers.sum(0) / variation.sum()
    details = {
        "power": mean,
        "mean": float(mean @ np.arange(1, len(mean) + 1)),
        "variation": float(variation.mean()),
        "segments": len(rows),
    }
    words = f"{share:.1%} of the variation along {len(rows)} segments has at most {low} half waves"
    state = State.ESTIMATE if complete else State.OUT_OF_BUDGET
    status = Status(state, f"{words}." if complete else f"{words}; the budget allowed no more segments.")
    return Measurement(NAME, share, "1", status, error, details=details)

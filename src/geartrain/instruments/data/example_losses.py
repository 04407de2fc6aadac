"""Losses per example: whether the loss is shared by all examples or carried by a few.

A mean hides its tail. The examples at the top of the list are the first to look at: mislabelled, broken, or rare.

Ledger: 0.13, 0.22
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from geartrain._torch import batches as _batches
from geartrain.budget import Budget
from geartrain.errors import NonFiniteError, UnsupportedError
from geartrain.instruments._answers import no_answer, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments._layers import in_evaluation
from geartrain.instruments._limits import out_of_budget, spent, stopped
from geartrain.objective import Objective
from geartrain.records import Cost, Measurement, State, Status

NAME = "example_losses"
CHUNK = 64
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)


def _price(objective: Any, *, limit: int = 4096, **options: Any) -> Cost:
    return Cost(forwards=min(1.0, limit / objective.num_examples))


@instrument(needs="objective", unit="ℓ", price=_price)
def example_losses(
    objective: Objective,
    *,
    limit: int = 4096,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the loss of every example by itself.

    ℓ_i, whose mean is the loss where that is a mean over examples. The share of the top 1 % is Σ of the largest
    ⌈n/100⌉ over Σ of all (of losses that are not negative): 0.01 if all are equal.

    **Cost** one small forward pass per example: one pass over the data in work, more in time.

    **Assumes** that a batch of one example makes sense. Where batch normalisation couples the examples, evaluation
    mode is used, and said.

    **Misleads** for losses that are sums, or weighted by batch: then the mean of ℓ_i is not the loss (``gap`` tells).

    Args:
        objective: What to measure.
        limit: Examples at most, from the first on.
        generator: Not used.
        budget: Limit; fewer examples are measured in it.

    Returns:
        A loss per example, dims ``("example",)``, exact. ``details``: ``mean``, ``mean_error`` (its standard error
        over examples), ``quantiles``, ``top_share`` (of the top 1 %), ``top`` (numbers of the up to 20 largest),
        ``gini`` (0 = all equal), ``gap`` (mean of ℓ_i minus the loss of those examples together; NaN if not all
        were measured).

    References:
        Koh and Liang (2017), arXiv:1703.04730, §5.4 (finding mislabelled examples).

    >>> import geartrain as gt
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> _ = model.weight.data.zero_()
    >>> data = torch.ones(3, 1), torch.tensor([[1.0], [2.0], [3.0]])
    >>> example_losses(gt.Objective(model, torch.nn.functional.mse_loss, data)).value.tolist()
    [1.0, 4.0, 9.0]
    """
    clock = Budget.of(budget).start()
    if (answer := stopped(NAME, objective, clock, unit="ℓ")) is not None:
        return answer
    subject, note = objective, ""
    losses: list[np.ndarray] = []
    done = 0
    wanted = min(limit, objective.num_examples)
    for batch in objective.batches:
        for begin in range(0, _batches.size_of(batch), CHUNK):
            part = _batches.take(batch, slice(begin, begin + min(CHUNK, wanted - done)))
            if done >= wanted or spent(clock, (done + 1) / objective.num_examples):
                break
            try:
                rows = _rows(subject, part)
            except UnsupportedError:
                subject, note = in_evaluation(objective), " In evaluation mode."
                rows = _rows(subject, part)
            except NonFiniteError as error:
                return no_answer(NAME, str(error), unit="ℓ", state=State.NON_FINITE)
            losses.append(rows)
            done += len(rows)
    if not losses:
        return out_of_budget(NAME, unit="ℓ")
    values = np.concatenate(losses)
    if not np.isfinite(values).all():
        bad = int(np.flatnonzero(~np.isfinite(values))[0])
        return not_applicable(NAME, f"The loss of example {bad} by itself is NaN or infinite.", unit="ℓ")
    return _answer(values, subject, note, done >= wanted)


def _rows(objective: Objective, part: Any) -> np.ndarray:
    return objective.on([part]).per_example_losses().double().cpu().numpy()


def _answer(values: np.ndarray, objective: Objective, note: str, complete: bool) -> Measurement:
    count = len(values)
    order = np.argsort(-values, kind="stable")
    share = top_share(values)
    whole = complete and count == objective.num_examples
    gap = float(values.mean()) - float(objective.value()) if whole else float("nan")
    details = {
        "mean": float(values.mean()),
        "mean_error": float(values.std(ddof=1) / np.sqrt(count)) if count > 1 else float("nan"),
        "quantiles": dict(zip(QUANTILES, np.quantile(values, QUANTILES).tolist(), strict=True)),
        "top_share": share,
        "top": tuple(order[:20].tolist()),
        "gini": _gini(values),
        "gap": gap,
    }
    words = f"Mean {values.mean():.3g} over {count} examples; the top 1 % carry {share:.1%} of it.{note}"
    if not complete:
        words += " The budget allowed no more examples."
    status = Status(State.EXACT if complete else State.OUT_OF_BUDGET, words)
    labels = list(range(count))
    return Measurement(
        NAME, values, "ℓ", status, np.zeros(count), ("example",), {"example": labels}, details=details
    )


def top_share(values: np.ndarray, part: float = 0.01) -> float:
    """Share of the sum that the largest carry; NaN where one is negative or all are zero.

    >>> top_share(np.array([1.0] * 99 + [99.0]))
    0.5
    """
    if values.min() < 0 or values.sum() <= 0:
        return float("nan")
    top = int(np.ceil(part * len(values)))
    return float(np.sort(values)[-top:].sum() / values.sum())


def _gini(values: np.ndarray) -> float:
    if values.min() < 0 or values.sum() <= 0:
        return float("nan")
    count = len(values)
    ranks = 2 * np.arange(1, count + 1) - count - 1
    return float(ranks @ np.sort(values) / (count * values.sum()))

"""Sudden upward jumps of the training loss.

Misleads when the run is wild throughout (then nothing sticks out: see `loss_oscillation`) and on batches of one
example with rare mislabelled ones. Reference: Cohen et al. (2021), arXiv:2103.00065, on what makes them.
Ledger: 0.21.
"""

from __future__ import annotations

from typing import Any

import torch

from geartrain.budget import Budget
from geartrain.instruments import _series
from geartrain.instruments._answers import answer, no_answer
from geartrain.instruments._base import instrument
from geartrain.records import Measurement

_LEAST = 24


@instrument(needs="history", unit="1", price=_series.price)
def loss_spikes(
    history: Any,
    *,
    sigmas: float = 6.0,
    least: float = 1.2,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Count upward jumps of the loss per 1,000 steps.

    A jump is a batch loss more than ``sigmas`` robust deviations and more than the factor ``least`` above the median of
    the 50 losses before it. Deviations are those of ln(loss) from that median over the last 100 steps (never less
    than half of what they are over the whole run). Successive steps above the limit are one jump.

    **Cost** nothing.

    **Assumes** a loss that is not negative (zeros count as the smallest positive value).

    **Misleads** where the run is wild throughout: nothing then sticks out (see `loss_oscillation`). With
    batches of one example, rare mislabelled ones look like spikes of training.

    Args:
        history: A `History`, or a `Run`.
        sigmas: Deviations that count as a jump.
        least: Factor that counts as a jump.
        generator: Not used.
        budget: Not used.

    Returns:
        Jumps per 1,000 steps; the standard error is that of a Poisson count. ``details``: ``count``, ``steps``,
        ``largest`` (largest ratio to the running median among them; 1 if there is none).

    >>> from geartrain.run import History
    >>> losses = [1.0 + 0.01 * (t % 7) for t in range(200)]
    >>> losses[100] = 5.0
    >>> float(loss_spikes(History({"step": list(range(200)), "loss": losses})))
    5.0
    """
    recorded = _series.series(history)
    if (why := _series.too_short(recorded, _LEAST)) is not None:
        return no_answer("loss_spikes", why)
    if recorded.values.min() < 0 or not recorded.values.max() > 0:
        return no_answer("loss_spikes", "The loss is not positive, so jumps cannot be told by their ratio.")
    found = _series.jumps(recorded.values, sigmas=sigmas, least=least)
    count, per = len(found.places), 1000.0 / len(recorded)
    details = {
        "count": count,
        "steps": recorded.steps[found.places].astype(int).tolist(),
        "largest": float(found.peaks.max()) if count else 1.0,
    }
    sentence = f"{count} jumps of the loss in {len(recorded)} steps."
    return answer("loss_spikes", count * per, sentence, error=max(count, 1) ** 0.5 * per, details=details)

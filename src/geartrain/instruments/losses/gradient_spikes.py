"""Sudden upward jumps of the gradient norm that the optimizer sees.

Misleads on very small batches late in training, where most gradients are nearly zero and single examples
stand out by large factors without harm: ``count`` in the details judges them against that scatter, the value does
not. Reference: Pascanu, Mikolov, Bengio (2013), arXiv:1211.5063. Ledger: 0.14.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from geartrain.budget import Budget
from geartrain.instruments import _series
from geartrain.instruments._answers import answer, no_answer
from geartrain.instruments._base import instrument
from geartrain.records import Measurement, State

_LEAST = 24


@instrument(needs="history", unit="1", price=_series.price)
def gradient_spikes(
    history: Any,
    *,
    sigmas: float = 6.0,
    least: float = 2.0,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Compute the largest gradient norm over the median of the 50 before it.

    Jumps are counted as in `loss_spikes`: more than ``sigmas`` robust deviations (of the logarithm) and more than the
    factor ``least`` above the running median. Norms are those before clipping.

    **Cost** nothing.

    **Assumes** a watched run.

    **Misleads** on very small batches late in training, where most gradients are nearly zero and single
    examples stand out by large factors without harm: ``count`` judges them against that scatter, the value does
    not.

    Args:
        history: A `History`, or a `Run`.
        sigmas: Deviations that count as a jump.
        least: Factor that counts as a jump.
        generator: Not used.
        budget: Not used.

    Returns:
        The largest ratio, a pure number, at least 0. ``details``: ``count`` (jumps), ``rate`` (per 1,000 steps),
        ``steps``, ``largest_step``, ``overall`` (largest norm over the median of all).

    >>> from geartrain.run import History
    >>> norms = [1.0 + 0.01 * (t % 7) for t in range(200)]
    >>> norms[100] = 50.0
    >>> result = gradient_spikes(History({"step": list(range(200)), "grad_norm": norms}))
    >>> result.details["steps"], round(float(result))
    ([100], 49)
    """
    recorded = _series.series(history, "grad_norm")
    if (why := _series.too_short(recorded, _LEAST, "grad_norm")) is not None:
        return no_answer("gradient_spikes", why)
    middle = float(np.median(recorded.values))
    if not middle > 0:
        return no_answer(
            "gradient_spikes", "The gradient is zero at most steps, so there is no level to jump from."
        )
    found = _series.jumps(recorded.values, sigmas=sigmas, least=least)
    largest = int(np.nanargmax(found.ratios))
    details = {
        "count": len(found.places),
        "rate": 1000.0 * len(found.places) / len(recorded),
        "steps": recorded.steps[found.places].astype(int).tolist(),
        "largest_step": int(recorded.steps[largest]),
        "overall": float(recorded.values.max()) / middle,
    }
    where = f"at step {details['largest_step']}"
    sentence = f"Largest of {len(recorded)} gradient norms over the median of the 50 before it, {where}."
    return answer(
        "gradient_spikes", float(found.ratios[largest]), sentence, state=State.EXACT, details=details
    )

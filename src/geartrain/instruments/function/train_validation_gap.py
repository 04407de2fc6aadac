"""Difference between the validation loss and the training loss, on fixed probes.

Both are taken in the same (evaluation) mode on data that the model sees the same way; the training losses recorded
during an epoch are not used, because they lag behind and include dropout. Misleads when the two sets differ in
difficulty: a gap that was there at step 0 is no overfitting. Ledger: 3.44.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from geartrain.budget import Budget
from geartrain.instruments._answers import answer, mean_and_error, no_answer
from geartrain.instruments._base import instrument
from geartrain.records import Cost, Measurement, State
from geartrain.run import Run


def _price(run: Any, **options: Any) -> Cost:
    return Cost(forwards=2)


@instrument(needs="run", unit="ℓ", price=_price)
def train_validation_gap(
    run: Run,
    *,
    chunks: int = 16,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure mean validation loss minus mean training loss, on probes of at most 512 examples each.

    **Cost** one forward pass over each probe.

    **Assumes** that the loss is a mean over examples.

    **Misleads** where the two sets differ in difficulty: a gap that was there at step 0 is no overfitting.

    Args:
        run: The run.
        chunks: Pieces of each probe whose scatter gives the error.
        generator: Not used: the probes are fixed.
        budget: Not used.

    Returns:
        The gap, unit ℓ; the standard error is that of two independent means. ``details``: ``train``, ``validation``,
        ``train_error``, ``validation_error``, ``ratio`` (validation/training), ``relative`` (gap over the validation
        loss: 0 no gap, 1 the training loss has vanished), ``z`` (gap over its error).
    """
    train = run.probe_losses("train", chunks=chunks)
    validation = run.probe_losses("validation", chunks=chunks)
    if train is None or validation is None:
        missing = "validation data" if train is not None else "loss function"
        return no_answer("train_validation_gap", f"The run has no {missing}.", unit="ℓ")
    if not (np.isfinite(train).all() and np.isfinite(validation).all()):
        return no_answer("train_validation_gap", "A loss is not finite.", unit="ℓ", state=State.NON_FINITE)
    (low, low_error), (high, high_error) = mean_and_error(train), mean_and_error(validation)
    gap, error = high - low, float(np.hypot(low_error, high_error))
    details = {
        "train": low,
        "validation": high,
        "train_error": low_error,
        "validation_error": high_error,
        "ratio": high / low if low > 0 else float("nan"),
        "relative": gap / high if high > 0 else float("nan"),
        "z": gap / error if error > 0 else float("nan"),
    }
    sentence = f"Validation loss {high:.3g}, training loss {low:.3g}, on fixed probes in evaluation mode."
    return answer("train_validation_gap", gap, sentence, unit="ℓ", error=error, details=details)

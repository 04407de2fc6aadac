"""Alternation of the loss from step to step, beyond what independent batch noise makes.

Independent noise around a smooth curve has second differences three times as large (in mean square) as first
differences; a loss that goes up, down, up, down has four times. Misleads when momentum makes the oscillation
slower than two steps (see ``period`` in the details) and when the parameters oscillate symmetrically about a minimum:
the loss then does not alternate at all, only the parameters do (see `back_and_forth`). Reference: von Neumann
(1941), Ann. Math. Stat. 12:367, for the ratio of successive differences. Ledger: 0.4, 0.21.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from geartrain.budget import Budget
from geartrain.instruments import _series
from geartrain.instruments._answers import answer, no_answer, ratio_and_error
from geartrain.instruments._base import instrument
from geartrain.records import Measurement

_LEAST = 24
_WINSOR = 6.0


@instrument(needs="history", unit="1", price=_series.price)
def loss_oscillation(
    history: Any, *, generator: torch.Generator | None = None, budget: Budget | int | str | None = None
) -> Measurement:
    """Compute Σ(second differences)² / Σ(first differences)² - 3 of ln(loss) over the last half.

    With ρ the correlation of successive changes of the loss the value is -1 - 2ρ: 0 for independent noise (ρ = -1/2),
    1 for strict alternation (ρ = -1), negative for a loss that moves smoothly (ρ > -1/2). Logarithms are cut at six
    robust deviations so that single spikes do not decide. (A loss that is not positive is taken as it is.)

    **Cost** nothing.

    **Assumes** that noise of successive batches is independent.

    **Misleads** where momentum makes the oscillation slower than two steps (see ``period``), and where the
    parameters oscillate symmetrically about a minimum: the loss then does not alternate at all, only the
    parameters do (see `back_and_forth`).

    Args:
        history: A `History`, or a `Run`.
        generator: Not used.
        budget: Not used.

    Returns:
        The alternation, a pure number in [-3, 1]. The standard error is a jackknife over eight stretches.
        ``details``: ``amplitude`` (step-to-step scatter of the loss relative to its level: rms of second
        differences of ln(loss) / √6), ``correlation`` (ρ), ``period`` (steps; of the strongest line in the spectrum
        of the detrended loss) and ``period_share`` (its share of that variance).

    >>> from geartrain.run import History
    >>> history = History({"step": list(range(100)), "loss": [1.0, 2.0] * 50})
    >>> round(float(loss_oscillation(history)), 6)
    1.0
    """
    recorded = _series.series(history)
    if (why := _series.too_short(recorded, _LEAST)) is not None:
        return no_answer("loss_oscillation", why)
    curve = _series.logarithm(recorded.values[len(recorded) // 2 :])
    curve = _winsorised(curve)
    first, second = np.diff(curve)[1:], np.diff(curve, 2)
    if not np.sum(first**2) > 0:
        return no_answer("loss_oscillation", "The loss does not change at all.")
    parts = [
        np.array([np.sum(p**2) for p in np.array_split(d, min(8, len(second)))]) for d in (second, first)
    ]
    ratio, error = ratio_and_error(*parts)
    period, share = _period(curve)
    details = {
        "amplitude": float(np.sqrt(np.mean(second**2) / 6.0)),
        "correlation": 1.0 - ratio / 2.0,
        "period": period,
        "period_share": share,
    }
    sentence = f"From {len(curve)} steps; 0 is independent noise, 1 strict alternation."
    return answer("loss_oscillation", ratio - 3.0, sentence, error=error, details=details)


def _winsorised(curve: np.ndarray) -> np.ndarray:
    middle, width = float(np.median(curve)), _WINSOR * _series.spread(curve)
    return np.clip(curve, middle - width, middle + width) if width > 0 else curve


def _period(curve: np.ndarray) -> tuple[float, float]:
    """Period of the strongest line of the spectrum after a straight line is taken out, and its share."""
    time = np.arange(len(curve))
    flat = curve - np.polyval(np.polyfit(time, curve, 1), time)
    power = np.abs(np.fft.rfft(flat))[1:] ** 2
    if not power.sum() > 0:
        return float("nan"), float("nan")
    strongest = int(np.argmax(power))
    return len(curve) / (strongest + 1), float(power[strongest] / power.sum())

"""Length of the updates relative to the weights, layer by layer.

About 1e-3 per step is usual for healthy runs of medium length; a layer far below the others hardly learns, one
far above is shaken. Misleads for layers that begin at zero (NaN until they have moved) and late in a decayed
schedule. Reference: Bottou, as quoted in Goodfellow, Bengio, Courville (2016), §8.3. Ledger: 0.21.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch

from geartrain.budget import Budget
from geartrain.instruments import _window
from geartrain.instruments._base import instrument
from geartrain.records import Measurement, State, Status
from geartrain.run import Run


@instrument(needs="run", unit="1", price=_window.price)
def update_ratio(
    run: Run,
    *,
    steps: int = _window.STEPS,
    window: _window.Window | None = None,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure |update| / |weights| per training step for every module that owns parameters.

    **Cost** three gradients per step.

    **Assumes** that the next steps are like the present ones.

    **Misleads** for layers that begin at zero (NaN until they have moved), for weights before a normalisation
    layer, whose scale means nothing, and late in a decayed schedule.

    Args:
        run: The run; it is put back exactly.
        steps: Further steps to take.
        window: Steps taken already.
        generator: Not used.
        budget: Limit in time.

    Returns:
        One ratio per module, dims ``("layer",)``, a pure number, with standard errors over the steps; NaN for a
        module whose weights are all zero. ``details``: ``median`` (over modules), ``smallest``, ``largest``,
        ``spread`` (largest/smallest), ``smallest_layer``, ``largest_layer``.
    """
    taken = _window.of(run, steps, window, budget)
    layers = list(taken.layers)
    if not len(taken):
        state = State.NON_FINITE if taken.failure else State.OUT_OF_BUDGET
        status = Status(state, taken.failure or "No step was affordable.")
        nan = np.full(len(layers), np.nan)
        return Measurement("update_ratio", nan, "1", status, nan, ("layer",), {"layer": layers})
    weights = np.where(taken.layer_weights > 0, taken.layer_weights, np.nan)
    ratios = taken.layer_updates / weights
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a column of NaN has a NaN mean
        value = np.nanmean(ratios, axis=0)
        count = np.sum(np.isfinite(ratios), axis=0)
        error = np.nanstd(ratios, axis=0, ddof=1) / np.sqrt(np.maximum(count, 1))
    status = Status(State.ESTIMATE, f"Mean over {len(taken)} steps.")
    return Measurement(
        "update_ratio",
        value,
        "1",
        status,
        error,
        ("layer",),
        {"layer": layers},
        details=_details(value, layers),
    )


def _details(value: np.ndarray, layers: list[str]) -> dict[str, float | str]:
    known = np.flatnonzero(np.isfinite(value))
    if not len(known):
        return {"median": float("nan")}
    low, high = known[np.argmin(value[known])], known[np.argmax(value[known])]
    return {
        "median": float(np.median(value[known])),
        "smallest": float(value[low]),
        "largest": float(value[high]),
        "spread": float(value[high] / value[low]) if value[low] > 0 else float("inf"),
        "smallest_layer": layers[int(low)],
        "largest_layer": layers[int(high)],
    }

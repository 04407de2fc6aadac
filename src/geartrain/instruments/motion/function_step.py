"""How far one step moves the *function*: change of the outputs on fixed examples.

Unlike the length of the update it does not depend on how the network is parametrised. Misleads on probes that are
not like the data, and compares classifiers only with classifiers (KL) and regressions only with regressions
(squared change over variance). References: Kakade (2001); Schulman et al. (2015), arXiv:1502.05477.
Ledger: 0.20, 0.21.
"""

from __future__ import annotations

import numpy as np
import torch

from geartrain.budget import Budget
from geartrain.instruments import _window
from geartrain.instruments._answers import answer, mean_and_error, no_answer
from geartrain.instruments._base import instrument
from geartrain.records import Measurement, State
from geartrain.run import Run


@instrument(needs="run", unit="1", price=_window.price)
def function_step(
    run: Run,
    *,
    steps: int = _window.STEPS,
    window: _window.Window | None = None,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the mean change of the model's outputs per training step, on a fixed probe in evaluation mode.

    Classifiers: mean KL(softmax before || softmax after) in nats. Otherwise: mean squared change of the outputs over
    their variance across examples.

    **Cost** three gradients and one forward pass over 256 examples per step.

    **Assumes** ``loss_fn(outputs, targets)``.

    **Misleads** on probes that are not like the data; and it compares classifiers only with classifiers (KL),
    regressions only with regressions (squared change over variance).

    Args:
        run: The run; it is put back exactly.
        steps: Further steps to take.
        window: Steps taken already.
        generator: Not used.
        budget: Limit in time.

    Returns:
        The change, a pure number, with its standard error over the steps. ``details``: ``kind`` (``"kl"`` or
        ``"relative squared change"``), ``largest``, ``per_step``.
    """
    taken = _window.of(run, steps, window, budget)
    if taken.failure and not len(taken):
        return no_answer("function_step", taken.failure, state=State.NON_FINITE)
    changes = taken.column("function_change")
    known = changes[np.isfinite(changes)]
    if taken.classes is None or not len(known):
        return no_answer(
            "function_step",
            "The model's outputs on a probe cannot be compared: the run hides them, or they do not vary.",
        )
    value, error = mean_and_error(known)
    details = {
        "kind": "kl" if taken.classes else "relative squared change",
        "largest": float(known.max()),
        "per_step": changes,
    }
    return answer("function_step", value, f"Mean over {len(known)} steps.", error=error, details=details)

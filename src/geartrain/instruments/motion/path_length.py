"""Path length: how far the parameters have walked, and how much of the way led anywhere.

The sum of the lengths of all updates so far; its ratio to the distance between the ends is 1 for a straight line, about
1/√steps for a random walk, and less for a run that goes back and forth across a valley. A path shorter than the
distance cannot be: then something other than the optimizer moved the parameters.

Ledger: 0.4, 0.21
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geartrain.budget import Budget
from geartrain.instruments import _window
from geartrain.instruments._answers import answer, no_answer
from geartrain.instruments._base import instrument
from geartrain.records import Cost, Measurement, State
from geartrain.run import Run


def _price(run: Run, *, steps: int = _window.STEPS, window: Any = None, **options: Any) -> Cost:
    if window is None and len(_recorded(run)):
        return Cost()
    return _window.price(run, steps=steps)


@instrument(needs="run", unit="θ", price=_price)
def path_length(
    run: Run,
    *,
    steps: int = _window.STEPS,
    window: _window.Window | None = None,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure Σ|θ_{t+1} - θ_t|, the length of the way of the parameters through their space.

    Of all steps recorded so far; of a run that has not begun (or was not watched), of its next ``steps``. Gradient
    descent on one mode of curvature λ goes straight (ratio 1) while ηλ < 1; beyond, w ← mw with m = 1 - ηλ < 0, the
    ratio after T steps is (1 - mᵀ)/(1 - |m|ᵀ) · (1 - |m|)/(1 - m).

    **Cost** nothing where steps were recorded, else three gradients per step.

    **Assumes** that every step of the optimizer was recorded.

    **Misleads** as a measure of how much was learnt: at a constant step size noise alone lengthens the path for ever.
    Parameters that the program moves by itself (averaging, clamping, weight reset) are not in the path.

    Args:
        run: The run; it is put back exactly.
        steps: Further steps to take where none were recorded.
        window: Steps taken already; they are then what is measured.
        generator: Not used.
        budget: Limit in time.

    Returns:
        The length, unit θ, exact for these steps. ``details``: ``distance`` (between the ends, NaN where the start is
        not known), ``efficiency`` (distance/path), ``random_walk`` (what it would be for equal steps in unrelated
        directions, √Σu²/Σ|u|), ``relative`` (path over the norm of the parameters at its start), ``steps``,
        ``source`` (``"history"`` or ``"window"``), ``halves`` (path of the first and of the second half of the steps).

    Raises:
        InputError: A setting is out of range.

    Example:
        Gradient descent on ½·w² with step 1.5 from 1: updates -1.5, 0.75, -0.375, ... = 3 in all, to a place 1 away.

        >>> import torch
        >>> model = torch.nn.Linear(1, 1, bias=False).double()
        >>> _ = torch.nn.init.ones_(model.weight)
        >>> data = torch.ones(1, 1).double(), torch.zeros(1, 1).double()
        >>> half_square = lambda f, y: 0.5 * ((f - y) ** 2).mean()
        >>> run = Run(model, half_square, torch.optim.SGD(model.parameters(), lr=1.5), data, batch_size=1, epochs=50)
        >>> _ = run.train()
        >>> result = path_length(run)
        >>> round(float(result), 9), round(result.details["efficiency"], 9)
        (3.0, 0.333333333)
    """
    recorded = _recorded(run)
    if window is None and len(recorded):
        return _answer(_from_history(run, recorded), run)
    taken = _window.of(run, steps, window, budget)
    if taken.failure or not len(taken):
        state = State.NON_FINITE if taken.failure else State.OUT_OF_BUDGET
        return no_answer("path_length", taken.failure or "No step was affordable.", unit="θ", state=state)
    moved = float(taken.updates.double().sum(0).norm())
    return _answer(_Path(taken.norms(), moved, float(taken.start.double().norm()), "window"), run)


@dataclass(frozen=True)
class _Path:
    lengths: np.ndarray
    distance: float
    start: float
    source: str


def _recorded(run: Run) -> np.ndarray:
    """Lengths of the recorded updates; steps that only gathered gradients have none."""
    lengths = run.history.column("update_norm")
    return lengths[~np.isnan(lengths)] if len(lengths) else lengths


def _from_history(run: Run, lengths: np.ndarray) -> _Path:
    start = _start(run)
    if start is None:
        return _Path(lengths, math.nan, math.nan, "history")
    pairs = [(p.detach().double(), s.to(p.device).double()) for p, s in start]
    distance = math.sqrt(sum(float((p - s).square().sum()) for p, s in pairs))
    return _Path(lengths, distance, math.sqrt(sum(float(s.square().sum()) for _, s in pairs)), "history")


def _start(run: Run) -> list[tuple[Tensor, Tensor]] | None:
    """Present parameters with their values where the record begins; ``None`` if it begins somewhere else."""
    steps = run.history.column("step")
    if run.origin is None or not len(steps) or steps[0] != run.origin.step or len(steps) != run.step_count:
        return None
    before = {id(state.tensor): state.value for state in run.origin.tensors}
    trained = [p for p in run.model.parameters() if p.requires_grad]
    if any(id(p) not in before or before[id(p)].shape != p.shape for p in trained):
        return None
    return [(p, before[id(p)]) for p in trained]


def _answer(path: _Path, run: Run) -> Measurement:
    total = float(path.lengths.sum())
    if not math.isfinite(total) or (math.isnan(path.distance) and math.isfinite(path.start)):
        sentence = "An update is not finite." if not math.isfinite(total) else "A parameter is NaN by now."
        return no_answer("path_length", sentence, unit="θ", state=State.NON_FINITE)
    efficiency = path.distance / total if total > 0 else math.nan
    half = len(path.lengths) // 2
    details = {
        "distance": path.distance,
        "efficiency": efficiency,
        "random_walk": float(np.linalg.norm(path.lengths / total)) if total > 0 else math.nan,
        "relative": total / path.start if path.start > 0 else math.nan,
        "steps": len(path.lengths),
        "source": path.source,
        "halves": (float(path.lengths[:half].sum()), float(path.lengths[half:].sum())),
    }
    return answer(
        "path_length",
        total,
        _sentence(path, efficiency, run),
        unit="θ",
        state=State.EXACT,
        details=details,
    )


def _sentence(path: _Path, efficiency: float, run: Run) -> str:
    steps = f"{len(path.lengths)} {'recorded' if path.source == 'history' else 'further'} steps"
    if math.isnan(path.distance):
        return f"{steps}; where they began is not known."
    if math.isnan(efficiency):
        return f"{steps}; none of them moved the parameters."
    eps = torch.finfo(next(run.model.parameters()).dtype).eps
    # Rounding of the parameters themselves may make a straight path look short.
    slack = 10 * eps * path.start * math.sqrt(len(path.lengths))
    if path.distance > float(path.lengths.sum()) * (1 + 1e-4) + slack:
        return f"{steps}; shorter than the distance: something besides the optimizer moved the parameters."
    return f"{steps}; {efficiency:.3g} of the way led from the start to where it stands."

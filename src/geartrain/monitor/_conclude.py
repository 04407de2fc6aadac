"""What can be said when a stretch of a loop has been watched: noise scale, step lengths, and a diagnosis."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from geartrain.errors import InputError
from geartrain.instruments._answers import answer, no_answer, ratio_and_error
from geartrain.instruments.noise._rows import fieller
from geartrain.monitor.governor import Governor
from geartrain.records import Measurement
from geartrain.run import History, Run

if TYPE_CHECKING:
    from geartrain.diagnosis import Diagnosis
    from geartrain.monitor.watch import Monitor


def noise_scale(history: History, why_not: str | None, last: int) -> Measurement:
    """Mean noise over mean signal of the last readings, times the batch size where it was seen.

    Args:
        history: Where the readings are.
        why_not: Why there are none, where it is known.
        last: How many readings to use.

    Returns:
        The noise scale in examples (in batches, unit ``"batches"``, where no batch size was seen), with the jackknife
        error over the readings; infinite where no mean gradient can be told from the noise. Details: ``interval``
        (95 %), ``over_batch``, ``readings``.
    """
    noise, signal = history.column("gradient_noise"), history.column("gradient_signal")
    good = np.isfinite(noise) & np.isfinite(signal) if len(noise) else np.array([], bool)
    if good.sum() < 2:
        reason = f": {why_not}" if why_not else ""
        return no_answer(
            "noise_scale", f"{int(good.sum())} readings of the noise are too few{reason}.", unit="examples"
        )
    places = np.flatnonzero(good)[-last:]
    noise, signal = noise[places], signal[places]
    sizes = history.column("batch_size")
    size = float(np.median(sizes[places])) if len(sizes) else math.nan
    unit, factor = ("examples", size) if math.isfinite(size) else ("batches", 1.0)
    covariance = np.cov(np.stack([noise, signal])) / len(places)
    low, high = fieller(float(noise.mean()), float(signal.mean()), covariance)
    ratio, error = ratio_and_error(noise, signal) if signal.mean() > 0 else (math.inf, math.nan)
    sentence = f"From {len(places)} steps; 95 % interval {factor * low:.3g} to {factor * high:.3g} {unit}."
    details = {"interval": (factor * low, factor * high), "over_batch": ratio, "readings": len(places)}
    return answer("noise_scale", factor * ratio, sentence, unit=unit, error=factor * error, details=details)


def step_length_gauge(history: History, last: int) -> Measurement:
    """α = -Σ slope after / Σ slope before, along the updates; corrected for the noise that went into them.

    The slope before a step is taken on the batch that made it. Where the noise scale B is known, it is divided by
    1 + B / batch size, which is exact for gradient descent on a quadratic.

    Args:
        history: Where the readings are.
        last: How many readings to use.

    Returns:
        α, a pure number, with the jackknife error over the readings. Details: ``uncorrected``, ``noise_over_batch``,
        ``share_beyond`` (of the single steps).
    """
    before, after = history.column("slope_before"), history.column("slope_after")
    good = np.isfinite(before) & np.isfinite(after) if len(before) else np.array([], bool)
    places = np.flatnonzero(good)[-last:]
    if len(places) < 2 or not before[places].sum() < 0:
        return no_answer("step_length_gauge", f"{len(places)} pairs of downhill steps are too few.")
    before, after = before[places], after[places]
    raw, error = ratio_and_error(-after, before)
    over = noise_scale(history, None, 64).details.get("over_batch", math.nan)
    known = math.isfinite(over) and over >= 0
    factor = 1.0 + over if known else 1.0
    # -after / (before / factor); the part that hardly moves stays -1.
    words = (
        f"corrected for a noise scale of {over:.2g} batches"
        if known
        else "not corrected for the noise of the batches"
    )
    details = {
        "uncorrected": raw,
        "noise_over_batch": over,
        "share_beyond": float(np.mean((before < 0) & (after > 0))),
    }
    return answer(
        "step_length_gauge",
        factor * raw,
        f"From {len(places)} steps, {words}.",
        error=factor * error,
        details=details,
    )


def overhead(governor: Governor) -> dict[str, Any]:
    """What the watching cost."""
    groups = {
        n: {"period": a.period, "times": a.occurrences, "seconds_each": a.cost, "off": a.off}
        for n, a in governor.accounts.items()
    }
    return {
        "allowed": governor.share,
        "share": governor.overhead,
        "seconds": governor.own,
        "step_seconds": governor.plain,
        "groups": groups,
    }


def diagnose(
    monitor: Monitor,
    loss_fn: Any = None,
    data: Any = None,
    *,
    budget: str | float = "60s",
    seed: int = 0,
    progress: Any = None,
    steps: int | None = None,
    **options: Any,
) -> Diagnosis:
    """Diagnose the loop from where it stands, on a `geartrain.Run` of the same model and optimizer.

    The run goes on from the present state; afterwards everything is as before, and nothing of it is noted.

    Args:
        monitor: What was watched.
        loss_fn: ``loss_fn(outputs, targets) -> scalar``; or pass ``batch_loss=`` or ``step=`` among the options.
        data: Training data in any form that `geartrain.Run` takes.
        budget: Time it may take.
        seed: Seed of everything random in it.
        progress: Called as ``progress(share done, words)``.
        steps: Steps that the run looks ahead; as many as were watched if omitted, 50 at least.
        **options: Further options of `geartrain.Run` (``validation``, ``metric``, ``scheduler``, ...). Batch size and
            clipping are those that were watched unless given.

    Returns:
        The diagnosis.

    Raises:
        InputError: No data were given, or the monitor came from a file.
    """
    from geartrain.diagnosis import diagnose as diagnose_run

    if monitor.model is None:
        raise InputError("This monitor was read from a file: it holds what was seen, not the loop.")
    if data is None:
        raise InputError(
            "monitor.diagnose needs data=(inputs, targets), a dataset or a loader: watching keeps none of it."
        )
    run = run_of(monitor, loss_fn, data, steps, options)
    monitor.pause()
    try:
        return diagnose_run(run, budget, seed=seed, progress=progress)
    finally:
        run.unwatch()
        monitor.resume()


def run_of(monitor: Monitor, loss_fn: Any, data: Any, steps: int | None, options: dict[str, Any]) -> Run:
    """A run that goes on as the loop did: same model, optimizer, batch size and clipping."""
    history = monitor.history
    made = {"name": monitor.name, **options}
    sizes = history.column("batch_size")
    sizes = sizes[np.isfinite(sizes)]
    if "batch_size" not in made and len(sizes):
        made["batch_size"] = int(np.median(sizes))
    if "clip_grad_norm" not in made and "step" not in made:
        made["clip_grad_norm"] = clipping(history)
    epochs = made.pop("epochs", None)
    run = Run(monitor.model, loss_fn, monitor.optimizer, data, epochs=epochs or 1, **made)  # type: ignore[arg-type]
    per_epoch = run.stream.steps_per_epoch
    if epochs is None and per_epoch:
        run.epochs = math.ceil((steps or max(monitor.steps, 50)) / per_epoch)
    return run


def clipping(history: History) -> float | None:
    """The norm that gradients were clipped to, if they were: the largest that was used, where clipping was at work."""
    used, factor = history.column("used_grad_norm"), history.column("clip_factor")
    at_work = factor < 0.999 if len(factor) else np.array([], bool)
    if not at_work.any():
        return None
    clipped = used[: len(factor)][at_work]
    # Clipping to a norm gives the same norm every time; anything else was another change of the gradients.
    norm = float(np.median(clipped))
    return norm if np.allclose(clipped, norm, rtol=1e-2) else None

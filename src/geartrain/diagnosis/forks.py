"""Trying things: interventions on forks, compared with the original on the same probe at the same steps."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from geartrain import instruments
from geartrain.ensemble import forks
from geartrain.mechanisms import Intervention
from geartrain.mechanisms._base import need
from geartrain.records import ForkResult
from geartrain.run import Branch, Change, Checkpoint, Run

if TYPE_CHECKING:
    from geartrain.diagnosis.evidence import Evidence

CEILING = 3.0
"""Losses are counted up to this many times the baseline: beyond it, worse is not more informative."""
DIVERGED = 10.0
SUCCESS = 0.1
TELLING = 0.5
"""A fork that the budget ended before this share of its steps says nothing: early leads do not last."""


def attempt(evidence: Evidence, name: str) -> None:
    """Try one intervention; the result, or the reason why not, is put into the evidence. The run is restored."""
    intervention = evidence.interventions[name]
    run = evidence.run
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            evidence.forks[name] = _try(evidence, run, intervention)
    except Exception as error:
        # A fork changes a stranger's program; where that does not work, the report says so and goes on.
        evidence.refused[name] = str(error).splitlines()[0] if str(error) else type(error).__name__
    finally:
        evidence.moved()


def _try(evidence: Evidence, run: Run, intervention: Intervention) -> ForkResult:
    origin = evidence.watched.point("end" if intervention.beyond else intervention.at)
    evidence.run.restore(origin)
    run.history = evidence.history  # what is to be tried may depend on all that was seen
    change = intervention.make(run)
    marks = _marks(evidence, intervention, origin)
    expected = marks[-1] * max(intervention.stretch, 1.0) * evidence.step_seconds
    need(evidence.remaining > TELLING * expected, "too little time was left to try it")
    # Twice what it should take: larger batches and wider nets are dearer than the original's steps.
    allowance = max(2.0 * expected, 0.25 * evidence.remaining, 0.05)
    tries = [change] if intervention.tries == 1 else _redrawn(change, evidence.seed, intervention.tries)
    allowance *= 1.0 if len(tries) == 1 else 3.0
    deadline = min(evidence.deadline, time.perf_counter() + allowance)
    results = _compared(evidence, run, intervention, tries, origin, marks, deadline)
    best = max(results, key=lambda r: r.gain)
    success = sum(r.gain >= SUCCESS for r in results) / len(results)
    details = {
        **best.details,
        "success": success,
        "tries": len(results),
        "mean_gain": _mean(r.gain for r in results),
    }
    return replace(best, details=details, seconds=sum(r.seconds for r in results))


def _mean(values: Any) -> float:
    return float(np.mean(list(values)))


def _marks(evidence: Evidence, intervention: Intervention, origin: Checkpoint) -> list[int]:
    """Steps of the original, relative to the fork's origin, at which the two are compared."""
    watched = evidence.watched
    limit = evidence.fork_steps or watched.steps
    if intervention.beyond:
        return sorted({round(s) for s in np.linspace(0, min(limit, max(watched.steps, 1)), 10)})
    end = watched.marks[-1]
    if evidence.history.failure is not None:
        # The original broke early; a fork has to show that it goes on well beyond that point.
        end = max(end, origin.step + min(limit, watched.total or 200, 300))
    limit = round(limit / intervention.stretch) if intervention.stretch > 1 else limit
    inside = [m - origin.step for m in watched.marks if 0 <= m - origin.step <= limit]
    beyond = [round(s) for s in np.linspace(inside[-1], min(end - origin.step, limit), 6)]
    return sorted({*inside, *beyond})


def _redrawn(change: Change, seed: int, tries: int) -> list[Change]:
    return [replace(change, seed=seed + 1 + k) for k in range(tries)]


def _compared(
    evidence: Evidence,
    run: Run,
    intervention: Intervention,
    changes: list[Change],
    origin: Checkpoint,
    marks: list[int],
    deadline: float,
) -> list[ForkResult]:
    """Every change on a fork of its own, beside the original. Several are computed together where that is possible."""
    noted: list[dict[str, float]] = [{} for _ in changes]
    made = [
        replace(change, prepare=_noting_baseline(change.prepare, evidence, change, notes))
        for change, notes in zip(changes, noted, strict=True)
    ]
    points = [round(m * intervention.stretch) for m in marks]
    if len(made) > 1 and not intervention.measure:
        branches = list(forks(run, made, at=origin, points=points, deadline=deadline).branches)
    else:
        branches = []
        for change, notes in zip(made, noted, strict=True):
            conclude = _reading_at_end(intervention, notes, evidence.seed)
            branches.append(run.fork(change, at=origin, points=points, deadline=deadline, conclude=conclude))
    return [
        _judged(evidence, intervention, branch, origin, points, notes)
        for branch, notes in zip(branches, noted, strict=True)
    ]


def _judged(
    evidence: Evidence,
    intervention: Intervention,
    branch: Branch,
    origin: Checkpoint,
    points: list[int],
    noted: dict[str, float],
) -> ForkResult:
    steps = (branch.steps - origin.step) / intervention.stretch + origin.step
    own, reference = _lefts(evidence, branch, steps, noted["baseline"], intervention)
    held = _lefts(evidence, branch, steps, noted["baseline"], intervention, validation=True)
    gain, error = _gain(own, reference, branch)
    validation_gain, validation_error = (
        _gain(*held, branch) if branch.validation is not None else (math.nan, math.nan)
    )
    gain = min(gain, _at_stake(evidence, steps, intervention))
    validation_gain = min(validation_gain, _at_stake(evidence, steps, intervention, validation=True))
    left = _capped(own).mean(1)
    return ForkResult(
        name=intervention.name,
        description=intervention.description,
        point="end" if intervention.beyond else intervention.at,
        start=origin.step,
        steps=branch.taken,
        step_axis=steps,
        losses=own.mean(1) * evidence.baseline,
        reference=reference.mean(1) * evidence.baseline,
        gain=gain,
        gain_error=error,
        validation_gain=validation_gain,
        validation_gain_error=validation_error,
        diverged=_diverged(branch, left),
        seconds=branch.seconds,
        complete=branch.complete,
        details={
            **noted,
            "planned": float(points[-1]),
            "end_left": float(left[-3:].mean()) if len(left) else CEILING,
        },
    )


def _reading_at_end(intervention: Intervention, noted: dict[str, float], seed: int) -> Callable[[Run], None]:
    def conclude(run: Run) -> None:
        for name in intervention.measure:
            function = instruments.get(name)
            subject = run if function.spec.needs in {"run", "data"} else run.objective(probe=256)
            noted[name] = float(function(subject, generator=torch.Generator().manual_seed(seed)))

    return conclude


def _noting_baseline(
    prepare: Callable[[Run], None] | None, evidence: Evidence, change: Change, noted: dict[str, float]
) -> Callable[[Run], None]:
    """A fork that changes loss or data is measured against the constant predictor of *its* problem."""

    def prepared(run: Run) -> None:
        if prepare is not None:
            prepare(run)
        changed = change.loss_fn is not None or change.transform is not None or prepare is not None
        noted["baseline"] = baseline(run)[0] if changed else evidence.baseline

    return prepared


def baseline(run: Run) -> tuple[float, str]:
    """Loss of the best constant predictor on the training probe, or else the present loss, and words for which."""
    try:
        constant = float(
            instruments.get("constant_loss")(
                run.objective(probe=256), generator=torch.Generator().manual_seed(0)
            )
        )
        if math.isfinite(constant) and constant > 0:
            return constant, "the loss of the best constant predictor"
    except Exception:  # targets of a kind that has no constant predictor: the start serves instead
        pass
    losses = run.probe_losses("train")
    return (float(np.mean(losses)) if losses is not None else math.nan), "the loss at the start"


def _lefts(
    evidence: Evidence,
    branch: Branch,
    steps: np.ndarray,
    base: float,
    intervention: Intervention,
    *,
    validation: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Losses over baseline of fork and original, shape (marks, chunks); NaN where the original was broken."""
    table = branch.validation if validation else branch.losses
    if table is None or not len(table):
        return np.zeros((0, 1)), np.zeros((0, 1))
    watched, broke = evidence.watched, evidence.history.failure is not None
    rows = []
    for step in steps:
        row = watched.reference(watched.marks[-1] if intervention.beyond else step, validation=validation)
        known = row is not None and not (broke and step > watched.marks[-1])
        rows.append(
            row / evidence.baseline if known and row is not None else np.full(table.shape[1], math.nan)
        )
    return table / base, np.array(rows)


def _capped(lefts: np.ndarray) -> np.ndarray:
    """Rows of chunk losses, scaled down where their mean exceeds the ceiling; unknown ones are at the ceiling.

    The mean is capped, not the chunks: where chunks differ (sorted data, rare classes), a net that is hopeless on a
    few of them would otherwise look better than one that is mediocre on all.
    """
    known = np.nan_to_num(lefts, nan=CEILING, posinf=1e30)
    return known * np.minimum(1.0, CEILING / np.maximum(known.mean(axis=1, keepdims=True), 1e-12))


def _at_stake(
    evidence: Evidence, steps: np.ndarray, intervention: Intervention, *, validation: bool = False
) -> float:
    """The most that a fork can win in the end: what the original has left there, since losses end at zero.

    A fork that time or its stretch ends far before the original's end leads on a curve that is still falling; where
    the original gets all the way down by itself, such a lead is worth nothing.
    """
    watched = evidence.watched
    reached = not len(steps) or steps[-1] >= watched.marks[-1]
    if reached or intervention.beyond or evidence.history.failure is not None:
        return math.inf
    left = watched.level(validation=validation) / evidence.baseline
    return math.inf if math.isnan(left) else max(left, 0.0)


def _gain(own: np.ndarray, reference: np.ndarray, branch: Branch) -> tuple[float, float]:
    """Mean difference over the last marks, and its standard error: over the paired examples and from mark to mark."""
    if branch.history.failure is not None:
        return -CEILING, 0.0
    if len(own) < 2:
        return math.nan, math.nan
    last = slice(-min(3, len(own) - 1), None)
    difference = _capped(reference)[last] - _capped(own)[last]
    return float(difference.mean()), math.hypot(_spread(difference.mean(0)), _spread(difference.mean(1)))


def _spread(values: np.ndarray) -> float:
    """Standard error of the mean."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0


def _diverged(branch: Branch, lefts: np.ndarray) -> bool:
    if branch.history.failure is not None:
        return True
    return bool(len(lefts) > 1 and lefts[-1] >= min(CEILING, DIVERGED * max(lefts[0], 1e-12)))

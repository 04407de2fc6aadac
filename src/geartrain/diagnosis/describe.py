"""The words and curves of a diagnosis."""

from __future__ import annotations

import math

import numpy as np

from geartrain.diagnosis.evidence import Evidence
from geartrain.diagnosis.watched import Watched
from geartrain.records import Curve, Finding, format_number
from geartrain.run import Run


def verdict(found: tuple[Finding, ...], evidence: Evidence, interrupted: bool) -> str:
    """The verdict in one sentence."""
    watched = evidence.watched
    likely = [f for f in found if f.probability > 0.5]
    stopped = " (interrupted: this is what was measured so far)" if interrupted else ""
    if not likely:
        steps = "one step that was" if watched.steps == 1 else f"{watched.steps:,} steps that were"
        partly = "" if watched.complete else f" in the {steps} watched"
        nearest = (
            f"; the nearest suspicion is “{found[0].title.lower()}” at {found[0].probability:.0%}"
            if found
            else ""
        )
        if evidence.history.failure is not None:
            broke = f"This run breaks ({evidence.history.failure})"
            return f"{broke}, and no mechanism is likely enough to explain it{nearest}{stopped}."
        # A run is not called healthy because nothing was tried.
        found_nothing = (
            f"Nothing is wrong with this run{partly}"
            if evidence.forks
            else f"Nothing wrong was found{partly}, but there was no time to try anything"
        )
        return f"{found_nothing}{nearest}{stopped}."
    first = likely[0]
    more = f"; also likely: {', '.join(f.title.lower() for f in likely[1:])}" if likely[1:] else ""
    return f"{first.title} ({first.probability:.0%}){_effect(first, evidence)}{more}{stopped}."


def _effect(first: Finding, evidence: Evidence) -> str:
    """What the remedy did on its fork, in losses that can be checked against the curves."""
    fork = evidence.forks.get(first.remedy_fork or "")
    if fork is None or first.remedy_effect is None or first.remedy_effect <= 0:
        return ""
    before, after = (float(line[-1]) if len(line) else math.nan for line in (fork.reference, fork.losses))
    if first.remedy_effect == fork.gain and math.isfinite(after):
        original = (
            f"instead of {format_number(before)}" if math.isfinite(before) else "where the original broke"
        )
        early = evidence.watched.marks[-1] - float(fork.step_axis[-1])
        when = f" at step {float(fork.step_axis[-1]):.0f}" if early > 0 else ""
        return (
            f": on a fork, “{fork.name}” ends at a training loss of {format_number(after)} {original}{when}"
        )
    error = f" ± {first.remedy_effect_error:.0%}" if first.remedy_effect_error else ""
    return f": on a fork, “{fork.name}” won back {first.remedy_effect:.0%}{error} of the baseline in validation loss"


def surprises(found: list[Finding]) -> tuple[str, ...]:
    """Gears that turned the other way in what won, and gears that turned for nothing in what was ruled out."""
    said = []
    healthy = not any(
        f.probability > 0.5 for f in found
    )  # in a sick run much turns that is only a consequence
    for finding in found:
        for gear in finding.predictions:
            if gear.measured is None:
                continue
            value = f"{gear.title[:1].upper()}{gear.title[1:]}: {format_number(gear.measured)}"
            if finding.probability > 0.5 and gear.degree <= -0.6 and gear.weight <= -0.3:
                said.append(
                    f"{value}, although “{finding.title.lower()}”, which is likely, predicts {gear.expected}: "
                    "the explanation is incomplete."
                )
            elif (
                healthy
                and finding.probability < 0.2
                and gear.internal
                and gear.degree >= 0.8
                and gear.weight >= 1.0
            ):
                said.append(
                    f"{value}, as “{finding.title.lower()}” predicts ({gear.expected}), "
                    "although the rest of the evidence speaks against it."
                )
    return tuple(said[:6])


def curves(evidence: Evidence) -> tuple[Curve, ...]:
    """The run's curves: probes where there are some, the batches' own, gradient norm, step size, metric."""
    history, watched = evidence.history, evidence.watched
    steps = history.column("step")
    lines = []
    for name, column, unit in (
        ("loss of each batch", "loss", "ℓ"),
        ("gradient norm", "grad_norm", "ℓ/θ"),
        ("step size", "lr", "θ²/ℓ"),
    ):
        values = history.column(column)
        if len(values) and np.isfinite(values).any():
            lines.append(Curve(name, steps, values, unit))
    marks = np.array(watched.marks, dtype=float)
    for name, rows in (("training loss", watched.losses), ("validation loss", watched.validation)):
        known = [float(np.mean(row)) if row is not None else math.nan for row in rows]
        if known and np.isfinite(known).any():
            lines.append(Curve(name, marks, np.array(known), "ℓ"))
    where, values = history.evaluation("metric")
    if len(where):
        lines.append(Curve("validation metric", where, values, "1"))
    order = [
        "training loss",
        "validation loss",
        "loss of each batch",
        "validation metric",
        "gradient norm",
        "step size",
    ]
    return tuple(sorted(lines, key=lambda c: order.index(c.name)))


def setting(run: Run, watched: Watched, evidence: Evidence) -> dict[str, str]:
    """The run's setting in words."""
    group = run.optimizer.param_groups[0]
    keys = ("lr", "momentum", "nesterov", "betas", "weight_decay")
    chosen = ", ".join(f"{k}={group[k]}" for k in keys if group.get(k) not in (None, 0, 0.0, False))
    trained = sum(p.numel() for p in run.model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in run.model.parameters())
    examples = run.stream.num_examples
    return {
        "model": f"{type(run.model).__name__}, {total:,} parameters ({trained:,} trained)",
        "optimizer": f"{type(run.optimizer).__name__}({chosen})",
        "loop": "the user's own step" if run.user_step is not None else "declared",
        "batch": f"{run.stream.batch_size} of {examples:,} examples"
        if examples
        else f"{run.stream.batch_size}",
        "length": f"{run.epochs} epochs, {watched.total or '?'} steps; {watched.steps} watched",
        "baseline": f"{format_number(evidence.baseline)}, {evidence.baseline_words}",
        "device": str(run.device),
    }

"""Quantities of the whole run, derived from what was watched and measured: ``"run:left"`` and the like."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from geartrain.diagnosis.forks import CEILING
from geartrain.records import Measurement, State, Status

if TYPE_CHECKING:
    from geartrain.diagnosis.evidence import Evidence

DEEP = 4
"""With fewer layers a trend from layer to layer is mostly the difference between input and output."""
Derived = Callable[["Evidence"], tuple[float, float, str]]


def derive(evidence: Evidence, observable: str) -> None:
    """Compute one derived quantity and put it into the evidence, or the reason why there is none."""
    function = _ALL[observable.removeprefix("run:")]
    value, error, sentence = function(evidence)
    state = State.NOT_APPLICABLE if math.isnan(value) else State.ESTIMATE
    evidence.measurements[observable] = Measurement(
        observable.removeprefix("run:"), value, "1", Status(state, sentence), standard_error=error
    )


def parts(observable: str) -> tuple[str, ...]:
    """What has to be measured before it."""
    return _PARTS.get(observable.removeprefix("run:"), ())


def _level(evidence: Evidence, *, validation: bool) -> tuple[float, float]:
    rows = (evidence.watched.validation if validation else evidence.watched.losses)[-3:]
    good = [row for row in rows if row is not None]
    if not good:
        return math.nan, math.nan
    chunks = np.mean(good, axis=0) / evidence.baseline
    error = float(chunks.std(ddof=1) / math.sqrt(len(chunks))) if len(chunks) > 1 else 0.0
    return float(chunks.mean()), error


def _left(evidence: Evidence) -> tuple[float, float, str]:
    if evidence.history.failure is not None:
        return CEILING, 0.0, f"The run broke: {evidence.history.failure}."
    value, error = _level(evidence, validation=False)
    return min(value, CEILING), error, f"Training loss at the end over {evidence.baseline_words}."


def _validation_left(evidence: Evidence) -> tuple[float, float, str]:
    value, error = _level(evidence, validation=True)
    if math.isnan(value):
        return value, error, "The run has no validation data."
    return min(value, CEILING), error, f"Validation loss at the end over {evidence.baseline_words}."


def _progress(evidence: Evidence) -> tuple[float, float, str]:
    rows = evidence.watched.losses
    if not rows:
        return math.nan, math.nan, "Nothing was watched."
    left, error, _ = _left(evidence)
    first = float(np.mean(rows[0])) / evidence.baseline
    return (
        min(first, 1.0) - left,
        error,
        "Fall of the training loss below the constant predictor's or its own start, whichever is lower, "
        "over the baseline.",
    )


def _turbulence(evidence: Evidence) -> tuple[float, float, str]:
    if evidence.history.failure is not None:
        return CEILING, 0.0, f"The run broke: {evidence.history.failure}."
    levels = [float(np.mean(row)) / evidence.baseline for row in evidence.watched.losses]
    if len(levels) < 3:
        return math.nan, math.nan, "Too few marks were watched."
    later = levels[len(levels) // 2 :]
    worst = max(later) - min(levels[: levels.index(max(later), len(levels) // 2) + 1])
    return (
        min(worst, CEILING),
        _level(evidence, validation=False)[1],
        "Largest climb above an earlier level in the second half of the run.",
    )


def _validation_rise(evidence: Evidence) -> tuple[float, float, str]:
    rows = [row for row in evidence.watched.validation if row is not None]
    if len(rows) < 4:
        return math.nan, math.nan, "The run has no validation data, or too few marks were watched."
    best = min(rows, key=lambda row: float(np.mean(row)))
    rise = (np.mean(rows[-2:], axis=0) - best) / evidence.baseline
    error = float(rise.std(ddof=1) / math.sqrt(len(rise))) if len(rise) > 1 else 0.0
    return (
        float(rise.mean()),
        error,
        "Validation loss at the end minus its minimum, over the baseline (paired over examples).",
    )


def _noise_over_batch(evidence: Evidence) -> tuple[float, float, str]:
    reading = evidence.read("gradient_noise_scale@middle")
    if reading.value is None:
        return math.nan, math.nan, reading.note
    size = evidence.run.stream.batch_size
    return (
        reading.value / size,
        reading.error / size,
        f"Noise scale of the gradient over the batch size of {size}.",
    )


def _largest_noise_over_batch(evidence: Evidence) -> tuple[float, float, str]:
    reading = evidence.read("gradient_noise_scale@max")
    if reading.value is None:
        return math.nan, math.nan, reading.note
    size = evidence.run.stream.batch_size
    error = reading.error / size if math.isfinite(reading.error) else 0.0
    return reading.value / size, error, f"Largest noise scale at three points over the batch size of {size}."


def _batch_size(evidence: Evidence) -> tuple[float, float, str]:
    return float(evidence.run.stream.batch_size), 0.0, "As declared."


def _batch_share(evidence: Evidence) -> tuple[float, float, str]:
    total = evidence.run.stream.num_examples
    if not total:
        return math.nan, math.nan, "The number of examples is not known."
    return evidence.run.stream.batch_size / total, 0.0, "As declared."


def _regularised(evidence: Evidence) -> tuple[float, float, str]:
    dropout = [m.p for m in evidence.run.model.modules() if isinstance(m, nn.modules.dropout._DropoutNd)]
    noise = max((p / (1 - p) / 4 if p < 1 else CEILING for p in dropout), default=0.0)
    # Once decay has won, weights and gradients are both next to nothing: who won shows earlier.
    pull = evidence.read("decay_pull@max")
    value = max(noise, pull.value or 0.0)
    return (
        value,
        pull.error,
        f"Decay pulls at most {pull.value or 0.0:.2g} as hard as the loss; dropout noise p/(1-p)/4 is {noise:.2g}.",
    )


def _largest_update(evidence: Evidence) -> tuple[float, float, str]:
    sizes = evidence.history.column("update_norm") / np.maximum(evidence.history.column("param_norm"), 1e-12)
    finite = sizes[np.isfinite(sizes)]
    if not len(finite):
        return math.nan, math.nan, "No update was seen."
    return (
        float(finite.max()),
        0.0,
        f"The largest of {len(finite)} updates, relative to the weights before it.",
    )


def _gradient_growth(evidence: Evidence) -> tuple[float, float, str]:
    names = [
        f"gradient_flow.{kind}@{p}"
        for kind in ("growth_per_layer", "recurrent_growth")
        for p in ("start", "middle", "end")
    ]
    known = [r for r in map(evidence.read, names) if r.value is not None]
    if not known:
        return math.nan, math.nan, "The gradient could not be followed through the layers."
    largest = max(known, key=lambda r: r.value or 0.0)
    return (
        largest.value or 0.0,
        largest.error,
        "Largest log growth of the gradient per layer or time step, going back, at three points.",
    )


def _gradient_shrinkage(evidence: Evidence) -> tuple[float, float, str]:
    found = evidence.measurements.get("gradient_flow@start")
    layers = len(found.details.get("matrix_layers", ())) if found is not None else 0
    if layers < DEEP:
        return math.nan, math.nan, f"{layers} layers are too few for a trend from layer to layer."
    reading = evidence.read("gradient_flow.growth_per_layer@start")
    if reading.value is None:
        return math.nan, math.nan, reading.note
    return reading.value, reading.error, f"Mean log growth of the gradient over {layers} layers, going back."


def _activation_drift(evidence: Evidence) -> tuple[float, float, str]:
    reading = evidence.read("activation_flow.growth_per_layer@start")
    if reading.value is None:
        return math.nan, math.nan, reading.note
    return abs(reading.value), reading.error, "Absolute mean log growth of activations from layer to layer."


def _leak(evidence: Evidence) -> tuple[float, float, str]:
    found = {n: evidence.read(f"{n}@start") for n in ("future_dependence", "feature_leak")}
    known = {n: r for n, r in found.items() if r.value is not None}
    if not known:
        return math.nan, math.nan, "; ".join(r.note for r in found.values())
    name = max(known, key=lambda n: known[n].value or 0.0)
    return known[name].value or 0.0, known[name].error, f"The larger of the two leaks looked for: {name}."


_ALL: dict[str, Derived] = {
    "left": _left,
    "validation_left": _validation_left,
    "progress": _progress,
    "turbulence": _turbulence,
    "validation_rise": _validation_rise,
    "noise_over_batch": _noise_over_batch,
    "largest_noise_over_batch": _largest_noise_over_batch,
    "batch_size": _batch_size,
    "batch_share": _batch_share,
    "regularised": _regularised,
    "activation_drift": _activation_drift,
    "leak": _leak,
    "largest_update": _largest_update,
    "gradient_growth": _gradient_growth,
    "gradient_shrinkage": _gradient_shrinkage,
}
_PARTS: dict[str, tuple[str, ...]] = {
    "largest_noise_over_batch": tuple(f"gradient_noise_scale@{p}" for p in ("start", "middle", "end")),
    "noise_over_batch": ("gradient_noise_scale@middle",),
    "regularised": tuple(f"decay_pull@{p}" for p in ("start", "middle", "end")),
    "activation_drift": ("activation_flow@start",),
    "gradient_shrinkage": ("gradient_flow@start",),
    "gradient_growth": tuple(f"gradient_flow@{p}" for p in ("start", "middle", "end")),
    "leak": ("future_dependence@start", "feature_leak@start"),
}

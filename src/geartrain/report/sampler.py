"""The health of a sampler as one offline HTML page: a learning coefficient with the chains that it rests on."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from geartrain import __version__
from geartrain.report import figures, words
from geartrain.report.html import _environment
from geartrain.sampling.learning_coefficient.health import RHAT, Health
from geartrain.sampling.learning_coefficient.result import LearningCoefficient

_MOST_CHAINS = 12
_STRETCHES = 60


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        what: Its name.
        value: What was found, in words.
        wanted: What would be in order, in words.
        meaning: Why it matters.
        verdict: ``"kept"``, ``"broken"`` (there is a warning of it) or ``"unclear"`` (not known here).
    """

    what: str
    value: str
    wanted: str
    meaning: str
    verdict: str

    @property
    def judgement(self) -> str:
        """The verdict as a word."""
        return {"kept": "in order", "broken": "warning"}.get(self.verdict, "not known")


def render(found: LearningCoefficient, title: str = "") -> str:
    """The health of a sampler as a complete page that loads nothing from anywhere.

    Args:
        found: What `geartrain.llc` returned.
        title: Of what this is the coefficient.

    Returns:
        HTML.
    """
    key = "s" + hashlib.sha256(f"{title}|{found.value}|{found.standard_error}".encode()).hexdigest()[:8]
    sampled = "health" in found.details
    omitted = max(len(found.trace) - _MOST_CHAINS, 0) if sampled else 0
    context = {
        "c": found,
        "title": title,
        "version": __version__,
        "sampled": sampled,
        "headline": _headline(found, sampled),
        "facts": _facts(found) if sampled else [],
        "summary": _summary(found, key) if sampled else [],
        "traces": _traces(found, key) if sampled else [],
        "omitted": omitted,
        "checks": _checks(found) if sampled else [],
        "settings": _settings(found) if sampled else [],
        "notes": found.details.get("notes", ()),
        "seconds": words.seconds(found.cost.seconds),
    }
    return _environment().get_template("sampler.html").render(**context)


def _headline(found: LearningCoefficient, sampled: bool) -> str:
    if not sampled:
        return "There is no value"
    value = words.with_error(float(found.value), float(found.standard_error)).replace(" ", "\xa0")
    count = len(found.warnings)
    told = "nothing to warn of" if not count else words.count(count, "warning")
    return f"Local learning coefficient {value}: {told}"


def _facts(found: LearningCoefficient) -> list[tuple[str, str, str]]:
    """The numbers at the top: name, value, remark."""
    health, (low, high) = found.health, found.interval
    bias, params = found.predicted_bias, found.details["num_params"]
    known = math.isfinite(bias)
    exact = found.details["kernel"] in ("hmc", "mala")
    return [
        (
            "95 % interval",
            f"{words.number(low)} to {words.number(high)}",
            "Student's t over chains and effective draws",
        ),
        (
            "Predicted bias",
            (words.signed(bias) if bias else "0") if known else "not known",
            "accepted or rejected exactly"
            if exact
            else "of the step size and the minibatches; contained in the value",
        ),
        (
            "Of the parameters",
            words.share(2 * float(found.value) / params) if found.value > 0 else "none",
            f"twice the value, of {params:,}: as many count here",
        ),
        ("R-hat", words.number(health.rhat, 4), "of the loss; 1 if the chains agree"),
        ("Effective draws", words.number(health.ess), f"of {health.chains * health.draws:,}"),
        (
            "Acceptance",
            f"{100 * health.acceptance:.0f} %" if math.isfinite(health.acceptance) else "no test",
            "of the proposals" if math.isfinite(health.acceptance) else "this kernel accepts every step",
        ),
    ]


# ------------------------------------------------------------------ drawings


def _summary(found: LearningCoefficient, key: str) -> list[figures.Figure]:
    """Running means and distances, all chains in one panel each."""
    trace, distance = found.trace, found.details["distance_trace"]
    draws = np.arange(1, trace.shape[1] + 1, dtype=float)
    running = np.cumsum(trace, 1) / draws
    low, high = found.interval
    ends = draws[[0, -1]]
    mean = [
        figures._line("mean of the chains", draws, running.mean(0), "a"),
        figures._line("interval, from", ends, np.array([low, low]), "reference"),
        figures._line("to", ends, np.array([high, high]), "reference"),
    ]
    places, means = _binned(draws[None])[0], _binned(distance)
    far = [figures._line("mean of the chains", places, means.mean(0), "a")]
    shown = min(len(trace), _MOST_CHAINS)
    each = [figures._line(f"chain {i + 1}", draws, running[i], "chain") for i in range(shown)]
    moved = [figures._line(f"chain {i + 1}", places, means[i], "chain") for i in range(shown)]
    # The first few running means are those of single draws: they would flatten the rest.
    settled = running[:, min(9, running.shape[1] - 1) :]
    values = [settled, np.array([low, high])]
    frame = figures.Frame(width=480, height=230)
    axis = figures._steps_axis(mean, frame)
    drawn = [
        figures._chart(
            each + mean, frame, axis, title="Running mean", key=f"{key}-mean", y_values=values, word="draw",
            bounded=True,
        ),
        figures._chart(
            moved + far, frame, axis, title="Distance from the point, |w − w*|", key=f"{key}-far", word="draw",
            bounded=True,
        ),
    ]  # fmt: skip
    return [replace(figure, note="") for figure in drawn]


def _binned(values: np.ndarray) -> np.ndarray:
    """Means over stretches of equal length, at most sixty of them; shape (chains, stretches)."""
    stretches = np.array_split(values, min(_STRETCHES, values.shape[1]), axis=1)
    return np.stack([part.mean(1) for part in stretches], 1)


def _traces(found: LearningCoefficient, key: str) -> list[figures.Figure]:
    """Burn-in and draws of every chain, on common axes."""
    trace, burnt = found.trace, found.details["burn_in_trace"]
    steps = np.arange(-burnt.shape[1], 0) + 1.0
    draws = np.arange(1, trace.shape[1] + 1, dtype=float)
    frame = figures.Frame(width=340, height=150)
    value = float(found.value)
    panels = [
        [
            figures._line("burn-in", steps, burnt[i], "burnt"),
            figures._line("draws", draws, trace[i], "a"),
            figures._line(
                "estimate",
                np.array([steps[0] if steps.size else 1.0, draws[-1]]),
                np.full(2, value),
                "reference",
            ),
        ]
        for i in range(min(len(trace), _MOST_CHAINS))
    ]
    axis = figures._steps_axis([line for panel in panels for line in panel], frame)
    drawn = [
        figures._chart(
            panel, frame, axis, title=f"Chain {i + 1}: mean {words.number(float(found.details['by_chain'][i]))}",
            key=f"{key}-chain{i}", y_values=[trace], word="draw", bounded=True,
        )
        for i, panel in enumerate(panels)
    ]  # fmt: skip
    return [replace(figure, note="") for figure in drawn]  # the page says it once


# ------------------------------------------------------------------ tables


def _checks(found: LearningCoefficient) -> list[Check]:
    health, number = found.health, words.number
    value = abs(float(found.value))
    langevin = found.details["kernel"] not in ("hmc", "mala")
    rows = [
        Check(
            "A minimum?",
            f"a Newton step gains {number(health.training_gain)}; lowest curvature {number(health.lowest_curvature)}",
            "a gain far below the value, no curvature below zero",
            "Off a minimum the chains find lower loss, and the value comes out too low or negative.",
            _verdict(found, "still_training"),
        ),
        Check(
            "Arrived?",
            f"second half of the chains minus first: {words.with_error(*health.drift)}",
            "within its error, or 5 % of the value",
            "Chains that still drift have not reached what they are to be averaged over.",
            _verdict(found, "drifting"),
        ),
        Check(
            "Mixed?",
            f"R-hat {number(health.rhat, 4)}",
            f"below {RHAT}",
            "Above it the chains disagree by more than they scatter.",
            _verdict(found, "not_mixed") if math.isfinite(health.rhat) else "unclear",
        ),
        Check(
            "Enough draws?",
            f"{number(health.ess)} effective",
            f"{10 * health.chains} or more",
            "With fewer the error itself is uncertain.",
            _verdict(found, "too_few_draws"),
        ),
        Check(
            "Step size",
            f"step × stiffness {number(health.stiffness)}"
            + (f", bias {number(found.predicted_bias)}" if langevin else f", {_percent(health.acceptance)} accepted"),
            "below 1.5, bias below a tenth of the value" if langevin else "more than 40 % accepted",
            "Langevin steps widen the stiff directions, and are unstable from 4."
            if langevin
            else "Rejections are exact; too many waste draws and let chains stick.",
            _verdict(found, "too_stiff"),
        ),
        Check(
            "Localisation",
            f"value changes by {words.with_error(*health.localisation_slope)} per e-fold of it",
            "a loss of less than a fifth of the value",
            "A strong pull confines directions that matter; the value is then that of the pull.",
            _verdict(found, "localisation_too_strong"),
        ),
        Check(
            "Temperature",
            "not known with minibatches"
            if math.isnan(health.temperature_slope[0])
            else f"value changes by {words.with_error(*health.temperature_slope)} per e-fold of n·beta",
            "a rise of less than 3 % of the value",
            "Where the multiplicity exceeds one the value lies below λ by (m−1)/log(n·beta).",
            "unclear" if math.isnan(health.temperature_slope[0]) else _verdict(found, "multiplicity_bias"),
        ),
        Check(
            "Chains that stopped",
            _stopped(found.details["stopped_at"], health),
            "none",
            "A chain that becomes NaN or infinite is stopped and left out; those that are left are the lucky ones.",
            _verdict(found, "diverged_chains"),
        ),
        Check(
            "Two errors",
            f"chains' means {number(health.between_error)}, effective draws {number(health.within_error)}",
            "alike",
            "The stated error joins them; where the chains disagree too much it is the first alone.",
            _alike(health, value),
        ),
    ]  # fmt: skip
    return rows


def _verdict(found: LearningCoefficient, name: str) -> str:
    return "broken" if found.warned(name) else "kept"


def _alike(health: Health, value: float) -> str:
    between, within = health.between_error, health.within_error
    if not (math.isfinite(between) and math.isfinite(within)):
        return "unclear"
    return "kept" if within / 3 < between < 3 * within or max(between, within) < 1e-3 * value else "unclear"


def _percent(x: float) -> str:
    return f"{100 * x:.0f} %" if math.isfinite(x) else "unknown"


def _stopped(stopped: dict[int, int], health: Health) -> str:
    if not stopped:
        return f"none of {health.chains}"
    shown = ", ".join(f"chain {chain + 1} at step {step}" for chain, step in list(stopped.items())[:6])
    more = f" and {len(stopped) - 6} more" if len(stopped) > 6 else ""
    return f"{len(stopped)} of {health.chains + health.excluded}: {shown}{more}"


def _settings(found: LearningCoefficient) -> list[tuple[str, str]]:
    details, health, number = found.details, found.health, words.number
    batch = details["batch_size"]
    rows: list[tuple[str, Any]] = [
        ("setting", details["setting"]),
        ("n·beta", number(details["n_beta"])),
        ("localisation γ", number(details["localisation"])),
        ("kernel", details["kernel"]),
        ("step size", number(details["step_size"])),
        ("examples per step", "all" if batch is None else f"{batch:,}"),
        ("baseline L(w*)", f"{number(details['start_loss'], 5)} ({details['baseline']})"),
        ("chains × draws", f"{health.chains} × {health.draws:,} after {health.burn_in:,} steps of burn-in"),
        ("largest curvature of U", number(health.curvature)),
        ("minibatch noise along it", number(health.noise)),
        ("gradient of the loss at the point", number(health.gradient_norm)),
        (
            "cost",
            f"{number(found.cost.gradients)} gradients over all data, {words.seconds(found.cost.seconds)}",
        ),
    ]
    return rows

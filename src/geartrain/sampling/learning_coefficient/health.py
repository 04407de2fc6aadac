"""Health of an estimate: what its chains did, and every known way to go wrong by name."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy import stats
from torch import Tensor

from geartrain.records import format_number
from geartrain.sampling import diagnostics
from geartrain.sampling.learning_coefficient.curvature import Local
from geartrain.sampling.learning_coefficient.error import MeanError, across_chains, mean_of

NAMES = (
    "still_training",
    "drifting",
    "too_stiff",
    "localisation_too_strong",
    "multiplicity_bias",
    "not_mixed",
    "too_few_draws",
    "diverged_chains",
)
"""Everything that a warning can be called."""

RHAT = 1.05
"""Largest R-hat of the loss trace that is no warning."""
_ESS_PER_CHAIN = 10.0
_SURE = 0.005
"""Two-sided level of the tests behind warnings about drift and sensitivities."""


@dataclass(frozen=True)
class Caution:
    """A named warning.

    Attributes:
        name: One of `NAMES`.
        sentence: What was seen and what to do, with numbers.
    """

    name: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.name.replace('_', ' ')}: {self.sentence}"


@dataclass(frozen=True)
class Health:
    """What the sampler did.

    Attributes:
        chains: Chains that are averaged.
        excluded: Chains that became non-finite; no number uses them.
        draws: Draws per chain.
        burn_in: Steps before the first draw; not averaged.
        rhat: Rank-normalised split R-hat of the loss trace; NaN for one chain.
        ess: Effective draws of the loss trace, all chains together.
        acceptance: Mean acceptance; NaN for kernels that always accept.
        step_size: ε.
        stiffness: Step size x largest curvature and noise (Langevin: unstable from 4); √ of it for HMC (from 2).
        curvature: Largest curvature of U at the point.
        lowest_curvature: Smallest curvature of nβL there, as far as a few products show.
        noise: Minibatch variance of ∇U along the stiffest direction.
        gradient_norm: Of the loss, at the point.
        training_gain: nβ x decrease of the loss that a Newton step from the point promises.
        drift: Second half of the trace minus first half, as a share of the value; with its error.
        localisation_slope: d value/d log γ with its error: minus half γ nβ times the covariance of loss and |w - w*|².
        temperature_slope: d value/d log nβ with its error: value - variance of nβL; NaN with minibatches, whose
            noise would count.
        distance: Root mean square of |w - w*|.
        between_error: Standard error from the chains' means alone.
        within_error: Standard error from the effective draws alone.
    """

    chains: int
    excluded: int
    draws: int
    burn_in: int
    rhat: float
    ess: float
    acceptance: float
    step_size: float
    stiffness: float
    curvature: float
    lowest_curvature: float
    noise: float
    gradient_norm: float
    training_gain: float
    drift: tuple[float, float]
    localisation_slope: tuple[float, float]
    temperature_slope: tuple[float, float]
    distance: float
    between_error: float
    within_error: float

    def lines(self) -> list[str]:
        """For people."""
        f = format_number
        lines = [
            f"{self.chains} chains x {self.draws} draws after {self.burn_in} steps of burn-in: "
            f"R-hat {f(self.rhat, 4)}, {f(self.ess)} effective draws.",
            f"Step size {f(self.step_size)}"
            + (f", acceptance {f(self.acceptance)}" if self.acceptance == self.acceptance else "")
            + f"; step x stiffness {f(self.stiffness)}.",
        ]
        if self.localisation_slope[0] == self.localisation_slope[0]:
            lines.append(f"Per e-fold of localisation the value changes by {_pm(self.localisation_slope)}.")
        if self.temperature_slope[0] == self.temperature_slope[0]:
            lines.append(f"Per e-fold of n·beta it changes by {_pm(self.temperature_slope)}.")
        return lines


@dataclass(frozen=True)
class Seen:
    """What is judged: traces of the good chains, shape (chains, draws), in units of nβK and |w - w*|²."""

    values: Tensor
    distances: Tensor
    mean: MeanError
    localisation: float
    n_beta: float
    minibatches: bool
    langevin: bool
    step_size: float
    acceptance: float
    burn_in: int
    excluded: int
    bias: float
    local: Local
    tuned_stiffness: float


def examine(seen: Seen) -> tuple[Health, tuple[Caution, ...]]:
    """The health of an estimate, and its warnings, the gravest first."""
    values, chains = seen.values, seen.values.shape[0]
    draws = values.shape[1]
    rhat = float(diagnostics.rhat(values)) if chains > 1 and draws >= 4 else math.nan
    stiff = seen.step_size * max(seen.local.stiffness, seen.tuned_stiffness)
    if not seen.langevin:
        stiff = seen.step_size * math.sqrt(max(seen.local.top, 0.0))
    health = Health(
        chains=chains,
        excluded=seen.excluded,
        draws=draws,
        burn_in=seen.burn_in,
        rhat=rhat,
        ess=seen.mean.ess,
        acceptance=seen.acceptance,
        step_size=seen.step_size,
        stiffness=stiff,
        curvature=seen.local.top,
        lowest_curvature=seen.local.bottom,
        noise=seen.local.noise,
        gradient_norm=seen.local.gradient_norm,
        training_gain=seen.local.gain,
        drift=_drift(values, seen.mean.error),
        localisation_slope=_localisation_slope(seen),
        temperature_slope=_temperature_slope(seen),
        distance=float(seen.distances.mean().sqrt()),
        between_error=seen.mean.between,
        within_error=seen.mean.within,
    )
    judges = (_training, _drifting, _stiff, _localised, _multiplicity, _mixed, _few, _diverged)
    found = [judge(seen, health) for judge in judges]
    return health, tuple(caution for caution in found if caution is not None)


# ------------------------------------------------------------------ measured


def _drift(values: Tensor, error: float) -> tuple[float, float]:
    """Second half minus first; its error is no smaller than twice that of the whole mean, as for steady chains."""
    half = values.shape[1] // 2
    if half < 1:
        return math.nan, math.nan
    value, own = across_chains(values[:, half:].mean(1) - values[:, :half].mean(1))
    return value, max(own, 2 * error)


def _localisation_slope(seen: Seen) -> tuple[float, float]:
    if not seen.localisation:
        return 0.0, 0.0
    value, error = across_chains(_covariance(seen.values, seen.distances))
    return -0.5 * seen.localisation * value, 0.5 * seen.localisation * error


def _temperature_slope(seen: Seen) -> tuple[float, float]:
    if seen.minibatches:
        return math.nan, math.nan
    return across_chains(seen.values.mean(1) - _covariance(seen.values, seen.values))


def _covariance(x: Tensor, y: Tensor) -> Tensor:
    """Contribution of each chain to the covariance over all draws, shape (chains,)."""
    total = x.numel() / max(x.numel() - 1, 1)
    return total * ((x - x.mean()) * (y - y.mean())).mean(1)


def _sure(estimate: tuple[float, float], chains: int) -> bool:
    """Whether it differs from zero beyond doubt."""
    value, error = estimate
    if not (chains > 1 and error == error):
        return False
    return abs(value) > float(stats.t.ppf(1 - _SURE / 2, chains - 1)) * error


def _pm(estimate: tuple[float, float]) -> str:
    return f"{format_number(estimate[0])} ± {format_number(estimate[1])}"


# ------------------------------------------------------------------ judged


def _training(seen: Seen, health: Health) -> Caution | None:
    value, f = seen.mean.value, format_number
    below = value + seen.mean.half_width() < 0
    gain = seen.local.gain
    matters = gain > 0.1 * abs(value) and gain > 0.05
    saddle = -seen.local.bottom > max(seen.localisation, 0.02 * seen.local.top, 1.0)
    if not (below or matters or saddle):
        return None
    if below:
        what = (
            f"the chains found lower loss than the point has, and the value is negative ({f(value)}): the point is "
            "not a minimum of this loss on these data"
        )
    elif saddle:
        what = (
            f"the loss curves downwards at the point (nβ x lowest curvature {f(seen.local.bottom)}): it is not a "
            "minimum, and the chains leave it"
        )
    else:
        what = (
            f"a Newton step from the point would lower nβ·loss by {f(gain)}, and the value is too low by about as "
            "much: the point is not yet a minimum"
        )
    return Caution("still_training", f"{what}. Train further, on the same data and without weight decay.")


def _drifting(seen: Seen, health: Health) -> Caution | None:
    moved, value = health.drift, abs(seen.mean.value)
    loss = _sure(moved, health.chains) and abs(moved[0]) > 0.05 * value
    away = _drift(seen.distances, mean_of(seen.distances).error)
    far = _sure(away, health.chains) and abs(away[0]) > 0.2 * float(seen.distances.mean())
    if not (loss or far):
        return None
    f = format_number
    what = (
        f"between the halves of the chains the value moved by {_pm(moved)}"
        if loss
        else f"|w - w*|² moved by {f(100 * away[0] / float(seen.distances.mean()))} % between the halves of the chains"
    )
    return Caution(
        "drifting", f"{what}. Burn in longer (burn_in=), draw longer, or hold the chains (localisation=)."
    )


def _stiff(seen: Seen, health: Health) -> Caution | None:
    f = format_number
    if seen.langevin:
        share = seen.bias / abs(seen.mean.value) if seen.mean.value else math.inf
        if health.stiffness <= 1.5 and not (share == share and share > 0.1):
            return None
        told = "" if share != share else f", and the predicted bias is {f(100 * share)} % of the value"
        return Caution(
            "too_stiff",
            f"step size x (curvature + noise) is {f(health.stiffness)} in the stiffest direction{told}. Take a smaller "
            "step (step_size='auto') or a larger batch.",
        )
    if not seen.acceptance < 0.4:
        return None
    return Caution(
        "too_stiff",
        f"only {f(100 * seen.acceptance)} % of the proposals were accepted: the curvature differs too much from place "
        "to place for one step size. Burn in longer, or pass a smaller step_size.",
    )


def _localised(seen: Seen, health: Health) -> Caution | None:
    slope, value = health.localisation_slope, abs(seen.mean.value)
    if not (slope[0] < -0.2 * value and _sure(slope, health.chains)):
        return None
    f = format_number
    return Caution(
        "localisation_too_strong",
        f"at localisation {f(seen.localisation)} the pull, not the loss, confines directions that matter: per halving "
        f"of it the value would rise by about {f(-slope[0] * math.log(2))}. Take a weaker one, or a larger n_beta.",
    )


def _multiplicity(seen: Seen, health: Health) -> Caution | None:
    slope, value = health.temperature_slope, abs(seen.mean.value)
    if not (slope[0] > 0.03 * value and _sure(slope, health.chains)):
        return None
    f = format_number
    reach = slope[0] * math.log(max(seen.n_beta, math.e))
    return Caution(
        "multiplicity_bias",
        f"the value still rises with log(n·beta), by {_pm(slope)} per e-fold: λ lies above it (by {f(reach)} if the "
        "rise is (m-1)/log²(n·beta)). llc_temperatures gives λ and m.",
    )


def _mixed(seen: Seen, health: Health) -> Caution | None:
    if not health.rhat > RHAT:
        return None
    return Caution(
        "not_mixed",
        f"R-hat of the loss is {format_number(health.rhat, 3)}, above {RHAT}: the chains disagree. Draw longer.",
    )


def _few(seen: Seen, health: Health) -> Caution | None:
    if not health.ess < _ESS_PER_CHAIN * health.chains:
        return None
    return Caution(
        "too_few_draws",
        f"{format_number(health.ess)} effective draws from {health.chains} chains: the error itself is uncertain. "
        "Draw more, or thin less.",
    )


def _diverged(seen: Seen, health: Health) -> Caution | None:
    if not health.excluded:
        return None
    total = health.excluded + health.chains
    return Caution(
        "diverged_chains",
        f"{health.excluded} of {total} chains became NaN or infinite; they were stopped and no number uses them. Those "
        "left are the lucky ones: take a smaller step_size.",
    )

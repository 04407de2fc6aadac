"""Do chains have to mix in weights, or is it enough that they mix as functions?

Hamiltonian Monte Carlo was run on real networks, and its chains agreed about the functions (R-hat of outputs near 1)
but not about the weights. One reading: that is all that predictions need, since weights have symmetries. The other:
"weight space is where the posterior lives", the chains "could be jumping from basin to basin very rapidly instead of
spending more time in the bigger basins", and predictions suffer. On posteriors whose answers are known both readings
can be checked.

**Question** (a) Where R-hat of outputs is below 1.01 and R-hat of weights above 1.5: how wrong are the posterior
means of these outputs, in Monte Carlo standard errors? (b) How often is R-hat of outputs below 1.01 while the share
of a basin is wrong by more than 0.1? (c) Do chains that cross often spend too much time in the small basin? (d) How
wrong are outputs that R-hat did *not* look at, where it was good and that of the weights bad?

**Protocol** HMC, 3,000 draws after 1,000 of burn-in, 20 leapfrog steps on average (12 in the wells), step size
adapted; 32 repeats, each diagnosed on 4 chains and on 10 others. Posteriors: y = abx (the zoo's
`symmetric-posterior` with S_xx = 20, 2 and 1, two islands of equal functions, started from the prior); two wells of
equal depth and unequal width in the plane (`two-basins`, 4, 5 and 6 widths apart, at temperatures 1, 4 and 12, half
the chains started in each); a 1-5-1 tanh network on 40 points of a noisy sine with a gap (prior of variance 1,
noise 0.1, started from the prior). Outputs that are seen: ab; the training loss; 16 inputs among the data. Unseen:
the wells' first coordinate; 7 inputs in the gap and beyond the data. Truth: quadrature for the first two; for the
network parallel tempering, 32 ladders of 7 temperatures, 3,000 draws each, its own error added to the chains'.
R-hat is the rank-normalised split one, the worst over quantities.

**Control** A straight line fitted to the same data: convex, all answers exact; errors have to be what standard
errors say (mean size 0.8). Two wells that are crossed often. Wells whose chains start from exact draws.

**Pitfalls** R-hat of functions is blind to basins that agree on the inputs it looks at: part d. Detailed balance
forbids (c) for a chain that crosses often, so that slow ones are reported with their starts. In (b) islands of
equal functions have wrong shares without any harm: it is true by construction that this happens, the number says
how often. A standard error made from stuck chains already counts their disagreement. The worst R-hat over many
weights exceeds 1.5 more easily than that of a few.

**Literature** Izmailov et al. 2021, arXiv 2104.14421 (HMC on networks: R-hat below 1.1 for most outputs, large for
some weights; better than standard training in distribution, poor under domain shift). Papamarkou et al. 2019, arXiv
1910.06539 (chains of neural networks do not converge in weights, and predictions can be good all the same). Vehtari
et al. 2021, arXiv 1903.08008 (rank-normalised split R-hat; 1.01). Wiese et al. 2023, arXiv 2304.02902 (symmetries
removed).

**What would change our mind** For (a): mean errors above 3 standard errors. For (c): a cell with 20 crossings or
more per chain whose chains spend 0.02 more of their time in the small basin than it has mass.

Ledger: 2.10, 2.11.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from geartrain import claims, sampling
from geartrain.claims import intervals
from geartrain.claims.posterior import _targets
from geartrain.claims.posterior._targets import Target
from geartrain.sampling import diagnostics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GROUPS = (4, 10)
"""Chains of each diagnosis; every repeat has one of each."""
MIXED, UNMIXED = 1.01, 1.5
WRONG, OFTEN = 0.1, 20
APART, TEMPERATURES, CURVATURES = (4.0, 5.0, 6.0), (1.0, 4.0, 12.0), (20.0, 2.0, 1.0)
LADDER = [_targets.POINTS / 2.2**level for level in range(7)]
FEWEST = 8
"""Diagnoses that a mean error has to rest on."""
_UNKNOWN = claims.Effect(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Needed:
    """Mixing of weights is needed if errors are beyond what standard errors say, everywhere it was missed.

    Attributes:
        low: Errors below it, in standard errors, are what was to be expected.
        high: Errors above it are not.
        control: Where errors of a posterior without basins have to lie.
    """

    low: float = 2.0
    high: float = 3.0
    control: tuple[float, float] = (0.6, 1.0)

    @property
    def sentence(self) -> str:
        """The rule in words."""
        return (
            f"Supported if the 95 % interval of the mean error lies above {self.high:g} standard errors for every "
            f"posterior; refuted if it lies below {self.low:g} for one; inconclusive otherwise, and if the control's "
            f"does not lie inside [{self.control[0]:g}, {self.control[1]:g}]."
        )

    def decide(self, finding: claims.Finding) -> claims.Decision:
        """Apply it."""
        for name, control in finding.control.items():
            if not control.inside(*self.control):
                told = f"Standard errors are not what they say: the control ({name}) has {control}."
                return claims.Decision(claims.Outcome.INCONCLUSIVE, told)
        if not finding.control:
            return claims.Decision(claims.Outcome.INCONCLUSIVE, "The control is missing.")
        for name, effect in finding.effects.items():
            if effect.finite and effect.high < self.low:
                told = f"{name}: {effect} standard errors, although the weights had not mixed."
                return claims.Decision(claims.Outcome.REFUTED, told)
        if all(e.finite and e.low > self.high for e in finding.effects.values()):
            return claims.Decision(
                claims.Outcome.SUPPORTED, f"All of {len(finding.effects)} have larger errors."
            )
        return claims.Decision(
            claims.Outcome.INCONCLUSIVE, "Errors lie between what is and what is not to be expected."
        )


class WeightsOrFunctions(claims.Claim):
    """R-hat of weights and of functions against the truth."""

    title: ClassVar = "Mixing in weights or in functions"
    statement: ClassVar = (
        "Chains have to mix in weight space: with a good R-hat of functions and a bad one of weights, posterior "
        "predictions are wrong, and chains may favour small basins."
    )
    source: ClassVar = claims.Source(
        "002_39007f04ab929404.txt",
        (
            "You need to mix in weight space, not function space, because weight space is where the posterior lives.",
            "good mixing in function space does not necessarily imply good mixing in weight space",
            "The chains could be jumping from basin to basin very rapidly instead of spending more time in the bigger "
            "basins",
        ),
    )
    ledger: ClassVar = ("2.10", "2.11")
    changed: ClassVar = (
        "Part d is new: errors of outputs that R-hat did not look at, in posterior deviations. Part b does not bear "
        "on the claim, because the symmetric posterior makes it true by construction. The reference starts of the "
        "network were left out: exact draws exist for the toys only. Temperatures are 1, 4 and 12, so that some "
        "wells are crossed 20 times. The network has 5 hidden units instead of 8: a pilot (seeds from 1000) showed "
        "that with 8 the weights mix about as fast as the outputs, so that hardly any chains are mixed as functions "
        "and not as weights. It also fixed noise and number of leapfrog steps; it printed errors, which were those "
        "to be expected."
    )
    seeds: ClassVar = 32
    minutes: ClassVar = 6.0
    instruments: ClassVar = ()
    scope: ClassVar = (
        "HMC with unit mass, 4 or 10 chains, 3,000 draws; y = abx with a Gaussian prior, two Gaussian wells in the "
        "plane, and a 1-5-1 tanh network on 40 points with a Gaussian prior; means of outputs."
    )
    parts: ClassVar = {
        "a": claims.Part(
            "error of posterior means of outputs whose R-hat is below 1.01 while that of weights is above 1.5",
            Needed(),
            axis="|error| (standard errors)",
        ),
        "b": claims.Part(
            "frequency of R-hat of outputs below 1.01 with a basin's share wrong by more than 0.1, in slow posteriors",
            claims.Some(claims.above(0.05, control=(-0.05, 0.05), same_refutes=False), least=1),
            bears=False,
            axis="frequency",
        ),
        "c": claims.Part(
            "share of draws in the small basin minus its mass, where chains cross 20 times or more",
            claims.Some(claims.above(0.02), least=1),
            axis="excess share",
        ),
        "d": claims.Part(
            "error of outputs that R-hat did not look at, where it was below 1.01 and that of weights above 1.5",
            claims.Some(claims.above(0.2), least=1),
            bears=False,
            axis="|error| (posterior deviations)",
        ),
    }

    # ------------------------------------------------------------------ settings

    def cells(self, scale: str) -> list[dict[str, Any]]:
        """Posteriors, and how chains start."""
        draws = 3000 if scale in ("full", "long") else 1000
        apart, temperatures, curvatures = APART, TEMPERATURES, CURVATURES
        if scale == "quick":
            apart, temperatures, curvatures = APART[:2], (1.0, 12.0), CURVATURES[:1]
        if scale == "test":
            apart, temperatures, curvatures, draws = APART[:1], (1.0, 4.0), CURVATURES[:1], 60
        fixed = {"draws": 4 * draws if scale == "long" else draws, "burn_in": draws // 3}
        made: list[dict[str, Any]] = [
            {"posterior": "line"},
            {"posterior": "network"},
            {"posterior": "reference"},
        ]
        made += [{"posterior": "product", "curvature": c} for c in curvatures]
        made += [
            {"posterior": "basins", "apart": a, "temperature": t, "exact": exact}
            for a in apart
            for t in temperatures
            for exact in (False, True)
        ]
        return [cell | fixed for cell in made]

    # ------------------------------------------------------------------ one unit

    def compute(self, config: dict[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
        """Sample all repeats at once, diagnose each."""
        said = json.dumps([config, list(seeds)], sort_keys=True)
        generator = torch.Generator().manual_seed(zlib.crc32(said.encode()))
        kind, draws, burn_in = config["posterior"], config["draws"], config["burn_in"]
        if kind == "reference":
            return _reference(generator, len(seeds), draws, burn_in)
        target = _target(config)
        each = sum(GROUPS)
        start = target.start(generator, len(seeds), each, config.get("exact", False))
        drawn = sampling.sample(
            target.potential, "hmc", chains=len(start), start=start, generator=generator,
            steps=12 if kind == "basins" else 20, draws=draws, burn_in=burn_in,
        )  # fmt: skip
        assert drawn.positions is not None
        repeats = drawn.positions.unflatten(0, (len(seeds), each))
        rows = [[diagnose(target, chains) for chains in repeat.split(GROUPS)] for repeat in repeats]
        made = {
            n: np.array([[row[n] for row in both] for both in rows], dtype=np.float32) for n in rows[0][0]
        }
        return {n: (_axes(n, ("seed", "group"), array), array) for n, array in made.items()}

    # ------------------------------------------------------------------ what the numbers mean

    def analyse(self, results: claims.Results) -> dict[str, claims.Finding]:
        """Diagnoses of 4 and of 10 chains, of all settings of a posterior, side by side."""
        runs = Runs(results)
        slow, fast = runs.wells(often=False), runs.wells(often=True)
        line = runs.of("line")
        return {
            "a": claims.Finding(
                runs.errors("error_seen", least=FEWEST),
                {"straight line": intervals.mean(line["error_seen"])},
                _counts(runs),
            ),
            "b": _frequencies(runs.of("product"), slow, fast),
            "c": _excess(results),
            "d": claims.Finding(
                runs.errors("error_unseen", least=FEWEST),
                {"straight line": intervals.mean(line["error_unseen"])}
                | (
                    {"wells crossed often": intervals.mean(fast["error_unseen"])}
                    if len(fast["share"]) > 1
                    else {}
                ),
            ),
        }

    # ------------------------------------------------------------------ the figure

    def draw(self, results: claims.Results, figure: Figure) -> None:
        """Errors against R-hat of weights; shares of the small basin against crossings; unseen errors."""
        errors, shares, unseen = figure.subplots(1, 3, width_ratios=(1.15, 1.15, 1))
        runs = Runs(results)
        style = {"y = abx": "o", "two wells": "s", "network": "^"}
        for name, marker in style.items():
            chosen = runs.named()[name]
            good = chosen["rhat_seen"] < MIXED
            errors.plot(
                chosen["rhat_weights"][good], np.maximum(chosen["error_seen"][good], 0.02), marker, ms=3, alpha=0.5,
                label=name, mfc="none",
            )  # fmt: skip
        line = runs.of("line")
        errors.plot(
            line["rhat_weights"], np.maximum(line["error_seen"], 0.02), "k+", ms=4, label="line", alpha=0.6
        )
        for level in (2, 3):
            errors.axhline(level, ls="--", color="k", lw=0.9)
        errors.axvline(UNMIXED, ls=":", color="0.4", lw=1)
        errors.set(
            yscale="log",
            ylim=(0.015, 9),
            xlabel="R-hat of weights (worst)",
            ylabel="|error| of seen outputs (s.e.)",
        )
        errors.set_title("R-hat of outputs below 1.01")
        errors.set_ylim(top=40)
        errors.legend(loc="upper center", ncols=2, handletextpad=0.2, labelspacing=0.3)
        for exact, colour, told in ((True, "0.65", "exact starts"), (False, "C0", "half in each")):
            for cell in results.where(posterior="basins", exact=exact):
                excess = (cell["share"] - cell["mass"]).ravel()
                shares.plot(
                    np.maximum(cell["crossings"].ravel(), 0.3),
                    excess,
                    ".",
                    color=colour,
                    ms=3,
                    alpha=0.5,
                    label=told,
                )
                told = None
        shares.axhline(0.02, ls="--", color="k", lw=1)
        shares.axvline(OFTEN, ls=":", color="0.4", lw=1)
        shares.set(
            xscale="log", xlabel="crossings per chain (0 at 0.3)", ylabel="share of small basin minus mass"
        )
        shares.set_title("Two wells: who favours the small one?")
        shares.legend(loc="upper right", markerscale=3, handletextpad=0.2)
        _draw_unseen(unseen, runs)


# ---------------------------------------------------------------------- one diagnosis


def _target(config: Mapping[str, Any]) -> Target:
    if config["posterior"] == "product":
        return _targets.product(config["curvature"])
    if config["posterior"] == "basins":
        return _targets.basins(config["apart"], config["temperature"])
    return _targets.line() if config["posterior"] == "line" else _targets.network()


def diagnose(target: Target, chains: Tensor) -> dict[str, Any]:
    """What one group of chains, (chains, draws, params), says of itself, and what is true.

    Errors of outputs are in Monte Carlo standard errors if seen, in posterior deviations if unseen, averaged over
    outputs; where only a reference run knows the truth, means are kept instead.
    """
    seen, unseen = diagnostics.summary(target.seen(chains)), diagnostics.summary(target.unseen(chains))
    thin = max(1, chains.shape[1] // 100) if chains.shape[2] > 2 else 1
    found: dict[str, Any] = {
        "rhat_seen": seen.worst_rhat,
        "rhat_unseen": unseen.worst_rhat,
        "rhat_weights": diagnostics.summary(chains).worst_rhat,
        "rhat_canonical": diagnostics.summary(target.canonical(chains[:, thin - 1 :: thin])).worst_rhat,
        "error_seen": 0.0,
        "error_unseen": 0.0,
    }
    if target.truth is None:
        found |= {
            "mean_seen": seen.mean.numpy(),
            "mcse_seen": seen.mcse_mean.numpy(),
            "mean_unseen": unseen.mean.numpy(),
        }
    else:
        known, other, spread = target.truth
        found["error_seen"] = float(((seen.mean - known).abs() / seen.mcse_mean).mean())
        found["error_unseen"] = float(((unseen.mean - other).abs() / spread).mean())
    if target.small is not None:
        inside = target.small(chains)
        found |= {
            "share": float(inside.double().mean()),
            "mass": target.mass,
            "crossings": float((inside[:, 1:] != inside[:, :-1]).sum()) / len(chains),
        }
    return found


def _axes(name: str, first: tuple[str, ...], array: Any) -> tuple[str, ...]:
    return (*first, "unseen" if name.endswith("unseen") else "output")[: array.ndim]


def _reference(generator: torch.Generator, ladders: int, draws: int, burn_in: int) -> dict[str, Any]:
    """Parallel tempering of the network; each ladder's means, and the deviations of its outputs."""
    target = _targets.network()
    start = target.start(generator, ladders, 1, False)
    drawn = sampling.temper(
        target.potential, LADDER, chains=ladders, start=start, generator=generator, steps=16, draws=draws,
        burn_in=burn_in,
    )  # fmt: skip
    seen, unseen = target.seen(drawn.cold()), target.unseen(drawn.cold())
    found = {
        "mean_seen": seen.mean(1),
        "mean_unseen": unseen.mean(1),
        "square_unseen": unseen.square().mean(1),
    }
    made: dict[str, Any] = {
        n: (_axes(n, ("seed",), v), v.numpy().astype(np.float32)) for n, v in found.items()
    }
    made["swap_rate"] = np.full(ladders, float(drawn.swap_rate.min()), dtype=np.float32)
    return made


# ---------------------------------------------------------------------- all diagnoses


class Runs:
    """All diagnoses of a posterior, 4 and 10 chains and all settings pooled: arrays by name, one entry for each."""

    NAMES = ("rhat_seen", "rhat_unseen", "rhat_weights", "rhat_canonical", "error_seen", "error_unseen")
    BASINS = ("share", "mass", "crossings")

    def __init__(self, results: claims.Results) -> None:
        self.results = results

    def of(self, posterior: str) -> dict[str, np.ndarray]:
        """Of every setting of it; the network's errors are against the reference."""
        if posterior == "network":
            return self._network()
        names = self.NAMES + (self.BASINS if posterior in ("product", "basins") else ())
        return self._pool(self.results.where(posterior=posterior), names)

    def wells(self, *, often: bool | None = None) -> dict[str, np.ndarray]:
        """Of wells that chains started half in each; only those that are crossed often, or are not."""
        cells = self.results.where(posterior="basins", exact=False)
        chosen = [c for c in cells if often is None or often == (c["crossings"].mean() >= OFTEN)]
        return self._pool(chosen, self.NAMES + self.BASINS)

    def named(self) -> dict[str, dict[str, np.ndarray]]:
        """The three posteriors that weights may fail to mix in."""
        return {"y = abx": self.of("product"), "two wells": self.wells(), "network": self.of("network")}

    def errors(self, name: str, *, least: int) -> dict[str, claims.Effect]:
        """Mean error where outputs mixed and weights did not; y = abx has no unseen output."""
        found = {}
        for posterior, arrays in self.named().items():
            chosen = arrays[name][discordant(arrays)]
            if name == "error_seen" or posterior != "y = abx":
                found[posterior] = intervals.mean(chosen) if len(chosen) >= least else _UNKNOWN
        return {n: e for n, e in found.items() if e.finite} or {"": _UNKNOWN}

    @staticmethod
    def _pool(cells: Sequence[claims.Cell], names: Sequence[str]) -> dict[str, np.ndarray]:
        return {
            n: np.concatenate([np.asarray(c[n], float).ravel() for c in cells] or [np.empty(0)])
            for n in names
        }

    def _network(self) -> dict[str, np.ndarray]:
        cell, known = self.results.one(posterior="network"), self.results.one(posterior="reference")
        pooled = self._pool([cell], self.NAMES)
        seen, unseen, square = (known[n].astype(float) for n in ("mean_seen", "mean_unseen", "square_unseen"))
        own = seen.std(0, ddof=1) / math.sqrt(len(seen))
        error = np.abs(cell["mean_seen"] - seen.mean(0)) / np.hypot(cell["mcse_seen"], own)
        spread = np.sqrt(square.mean(0) - unseen.mean(0) ** 2)
        other = np.abs(cell["mean_unseen"] - unseen.mean(0)) / spread
        return pooled | {"error_seen": error.mean(-1).ravel(), "error_unseen": other.mean(-1).ravel()}


def discordant(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Whether outputs mixed and weights did not."""
    return (arrays["rhat_seen"] < MIXED) & (arrays["rhat_weights"] > UNMIXED)


def _counts(runs: Runs) -> dict[str, claims.Effect]:
    found = {}
    for name, arrays in (runs.named() | {"straight line": runs.of("line")}).items():
        found[f"{name}: outputs mixed, weights not"] = intervals.proportion(discordant(arrays))
        for space in ("seen", "weights", "canonical"):
            values = arrays[f"rhat_{space}"]
            words = {"seen": "outputs", "weights": "weights", "canonical": "weights, symmetries divided out"}[
                space
            ]
            found[f"{name}: median R-hat of {words}"] = intervals.median(values)
    agree = (runs.of("line")["rhat_seen"] < MIXED) & (runs.of("line")["rhat_weights"] < MIXED)
    found["straight line: mixed in both"] = intervals.proportion(agree)
    return found


def _frequencies(
    islands: Mapping[str, np.ndarray], slow: Mapping[str, np.ndarray], fast: Mapping[str, np.ndarray]
) -> claims.Finding:
    def wrong(arrays: Mapping[str, np.ndarray], space: str, level: float) -> claims.Effect:
        missed = np.abs(arrays["share"] - arrays["mass"]) > WRONG
        return intervals.proportion(missed & (arrays[f"rhat_{space}"] < MIXED), level=level)

    places = {"islands of y = abx": (islands, "seen")}
    if len(slow["share"]):
        places |= {
            "slow wells, by the loss": (slow, "seen"),
            "slow wells, by the coordinate": (slow, "unseen"),
        }
    level = intervals.family_level(len(places))
    control = {"wells crossed often": wrong(fast, "seen", 0.95)} if len(fast["share"]) else {}
    return claims.Finding({n: wrong(a, space, level) for n, (a, space) in places.items()}, control)


def _excess(results: claims.Results) -> claims.Finding:
    """By setting: excess of the small basin's share; chains that start from exact draws are the control."""
    started = {exact: results.where(posterior="basins", exact=exact) for exact in (False, True)}
    often = [c["crossings"].mean() >= OFTEN for c in started[False]]
    level = intervals.family_level(sum(often))

    def by_setting(exact: bool, which: bool) -> dict[str, claims.Effect]:
        found = {}
        for cell, yes in zip(started[exact], often, strict=True):
            if yes == which:
                excess = (cell["share"] - cell["mass"]).astype(float).mean(1)
                found[_setting(cell)] = intervals.mean(excess, level=level)
        return found

    crossings = {
        f"crossings per chain, {c['apart']:g} widths, temperature {c['temperature']:g}": intervals.mean(
            c["crossings"].mean(1)
        )
        for c in started[False]
    }
    slow = {f"slow, {n}, half in each": e for n, e in by_setting(False, False).items()}
    slow |= {f"slow, {n}, exact starts": e for n, e in by_setting(True, False).items()}
    if not any(often):
        return claims.Finding(_UNKNOWN, numbers=slow | crossings, invalid=f"no chain crossed {OFTEN} times")
    control = {f"exact starts, {n}": e for n, e in by_setting(True, True).items()}
    return claims.Finding(by_setting(False, True), control, slow | crossings)


def _setting(cell: claims.Cell) -> str:
    return f"{cell['apart']:g} widths, temperature {cell['temperature']:g}"


def _draw_unseen(axes: Any, runs: Runs) -> None:
    """Errors of unseen outputs, by how chains mixed."""
    arrays = runs.named()
    groups = {
        "line": runs.of("line")["error_unseen"],
        "wells,\noften": runs.wells(often=True)["error_unseen"],
        "wells,\nstuck": arrays["two wells"]["error_unseen"][discordant(arrays["two wells"])],
        "net,\nstuck": arrays["network"]["error_unseen"][discordant(arrays["network"])],
    }
    dice = np.random.default_rng(0)
    for place, values in enumerate(groups.values()):
        if len(values):
            axes.plot(
                place + dice.uniform(-0.28, 0.28, len(values)),
                np.maximum(values, 1e-3),
                ".",
                color="C0",
                ms=3,
                alpha=0.5,
            )
            axes.plot([place - 0.32, place + 0.32], [values.mean()] * 2, "k", lw=1.6)
    axes.axhline(0.2, ls="--", color="k", lw=1)
    axes.set(
        xticks=range(len(groups)),
        xticklabels=groups,
        yscale="log",
        ylabel="|error| of unseen outputs (posterior s.d.)",
    )
    axes.set_title("Outputs R-hat did not see")


CLAIM = WeightsOrFunctions

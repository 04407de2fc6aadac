r"""Condition number, back-and-forth, gain from conjugate gradients and slow training go together.

**Question** A model of training says: bad conditioning makes valleys, in which descent goes back and forth,
conjugate gradients gain much, and training is slow; so that these four measurements will be highly correlated
over runs. Are they?

**Protocol** Populations of runs that differ in conditioning and, independently of it, in step. (1) 200
quadratics of the toy `quadratic`: 200 dimensions, log-uniform spectra, condition number κ log-uniform from 10
to 1e5, gradient descent; looked at after 100 and 300 steps. (2) 128 digits networks 64-32-10 (tanh,
cross-entropy, full batch of 512), inputs anywhere from whitened to ten times raw; after 100 and 400 steps. The
step is a share, uniform from 0.2 to 0.95, of 2/λ at the start. Four measures, turned so that the model
foretells a positive correlation of each pair. *Condition*: ln of the effective condition number (of the
Gauss-Newton matrix, for networks). *Back-and-forth*: minus the factor from one update along the top eigenvector
to the next (least squares over 21 updates), which on a parabola is ηλ - 1. *CG gain*: 50 gradient-equivalents
of conjugate gradients from the same point, beside 50 more steps; ln of the ratio of the falls of ln loss.
*Slowness*: ln of the loss left over the loss at the start. Every run is a draw of its own: start, conditioning,
step. Spearman's correlation of the six pairs, bootstrapped over runs.

**Control** (3) 200 runs of the toy `noisy-linear-regression`, stochastic gradient descent with batch 4, the
same dials: progress is limited by noise, so that the bundle must fall apart; conjugate gradients there have one
fixed batch. And the measures of (2) shuffled over runs. The smallest of the six correlations of each must lie
inside ± 0.3, or at least not show the effect.

**Pitfalls** On a parabola a step goes back and forth along the top eigenvector if and only if ηλ > 1, which has
nothing to do with κ: where everybody takes the largest stable step the correlation comes from the step, so that
the step is drawn by itself, and partial correlations given its share are shown (part e). Without the
back-and-forth the other three are judged apart (part d). Zero modes make the plain κ infinite: the effective
one leaves out what holds less than 1 % of the gain that Newton's step foretells. Networks have negative
curvature: hence the Gauss-Newton matrix. The smallest of six correlations is biased low by its choice; so every
pair is judged, at a level that holds for all of them together, and one pair clearly below refutes. A branch of
50 equivalents is short beside √κ for the worst conditioned runs, so that its gain need not grow with κ even
where the gain to an equal error does (part c). Conjugate gradients beat √κ where eigenvalues are few: 200
dimensions end them after some hundred iterations.

**Literature** Sagun, Bottou, LeCun 2016, arXiv 1611.07476: spectra of networks, a bulk near zero and few
outliers. Ghorbani, Krishnan, Xiao 2019, arXiv 1901.10159: outliers slow training, and batch normalisation
removes them. LeCun, Bottou, Orr, Müller 1998 (Efficient BackProp): whitened inputs condition the Hessian.
Nocedal, Wright 2006, theorem 3.3 and (5.36): (κ-1)/(κ+1) for descent, (√κ-1)/(√κ+1) for conjugate gradients.
Cohen et al. 2021, arXiv 2103.00065: back-and-forth as what the step does, whatever the conditioning.

**What would change our mind** All six correlations of the networks above one half at both times.

Ledger: 0.1, 0.2, 0.3, 0.4, 0.5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from scipy import stats

from geartrain import claims
from geartrain.claims import intervals
from geartrain.claims.effect import Effect, Finding
from geartrain.claims.landscape._valley_runs import MEASURES, networks, noisy, quadratics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAIRS = tuple(combinations(range(4), 2))
AS_WRITTEN = tuple(combinations((0, 4, 5, 3), 2))
STEADY = tuple(pair for pair in PAIRS if 1 not in pair)


class ValleyBundle(claims.Claim):
    """Rank correlations of four measurements over populations of runs."""

    title: ClassVar = "The valley bundle"
    statement: ClassVar = (
        "Effective condition number, back-and-forth, gain from conjugate gradients and slowness are highly correlated "
        "over runs."
    )
    source: ClassVar = claims.Source(
        "000_d2036805deb0d42a.txt",
        ("the model predicts that all those measurements will have highly correlated results",),
    )
    ledger: ClassVar = ("0.1", "0.2", "0.3", "0.4", "0.5")
    changed: ClassVar = (
        "A pilot with seeds from 1000 on led to two other measures. The gain of conjugate gradients was to be the "
        "ratio of losses after equal work; by the theory of both methods that falls with the condition number "
        "(where it is small, both have arrived), so that it is now the ratio of the falls of ln loss, that is of "
        "rates; part c has the iterations to an equal error. Back-and-forth was to be the share of turns, which "
        "is 0 or 1 on a parabola and nearly constant on networks; now it is the factor from one update to the "
        "next. Part f keeps the first definitions. 128 networks instead of 64, so that the shuffled control can "
        "be quiet. Each pair is judged at a corrected level instead of the smallest of six, whose bootstrap is "
        "biased low; the smallest is still shown. Quadratics are looked at after 100 and 300 steps, their last. "
        "Parts d and e are new."
    )
    seeds: ClassVar = 8
    minutes: ClassVar = 3.0
    instruments: ClassVar = ("effective_condition_number",)
    scope: ClassVar = (
        "Full-batch gradient descent, 400 steps, constant step between 0.2 and 0.95 of the stable one, on tanh "
        "networks 64-32-10, 512 digits, cross-entropy, inputs from whitened to ten times raw; quadratics of 200 "
        "dimensions with log-uniform spectra, condition number 10 to 1e5."
    )
    parts: ClassVar = {
        "a": claims.Part(
            "Rank correlation of each pair of the four measures over 200 quadratics",
            claims.Every(claims.above(0.5, control=None)), bears=False, axis="Spearman correlation",
        ),
        "b": claims.Part(
            "Rank correlation of each pair of the four measures over 128 digits networks",
            claims.Every(claims.above(0.5, control=(-0.3, 0.3))), axis="Spearman correlation",
        ),
        "c": claims.Part(
            "Slope of ln(iterations of descent / iterations of conjugate gradients) on ln κ, quadratics, error 1e-6",
            claims.above(0.4, control=None), bears=False, axis="slope",
        ),
        "d": claims.Part(
            "As b, without back-and-forth: condition, CG gain and slowness",
            claims.Every(claims.above(0.5, control=(-0.3, 0.3))), bears=False, axis="Spearman correlation",
        ),
        "e": claims.Part(
            "As b, partial correlation given the step's share of the stable one",
            claims.Every(claims.above(0.5, control=None)), bears=False, axis="partial Spearman correlation",
        ),
        "f": claims.Part(
            "As b, with back-and-forth as share of turns and the gain of CG as ratio of losses",
            claims.Every(claims.above(0.5, control=None)), bears=False, axis="Spearman correlation",
        ),
    }  # fmt: skip

    def cells(self, scale: str) -> list[dict[str, Any]]:
        """Three populations; `runs` are those of one seed."""
        test = scale == "test"
        quadratic, digits = (10, 4) if test else (25, 16)
        size = {"early": 2, "late": 6} if test else {"early": 100, "late": 400}
        return [
            {
                "family": "quadratic",
                "runs": quadratic,
                "dimension": 40 if test else 200,
                **size,
                "late": min(300, size["late"]),
            },
            {"family": "digits", "runs": digits, "examples": 32 if test else 512, **size},
            {"family": "noise", "runs": quadratic, **size},
        ]

    def compute(self, config: dict[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
        """The four measures of each run at two times, and the run's dials."""
        family = {"quadratic": quadratics, "digits": networks, "noise": noisy}[config["family"]]
        return family(config, seeds)

    def analyse(self, results: claims.Results) -> dict[str, Finding]:
        """All pairs, at both times."""
        quadratic, digits, noise = (
            Population(results.one(family=f)) for f in ("quadratic", "digits", "noise")
        )
        quiet, three = _controls(digits, noise, PAIRS), _controls(digits, noise, STEADY)
        outside = {f"noise, {name}": effect for name, effect in noise.pairs(PAIRS, resamples=2000).items()}
        resolved = {
            "share of networks whose condition number is known to 25 %": intervals.proportion(
                digits.cell["resolved"].ravel() > 0
            )
        }
        smallest = {
            f"smallest of six, {kind}, step {p.cell[time]}": smallest_of(p.at(number), PAIRS)
            for kind, p in (("quadratics", quadratic), ("networks", digits))
            for number, time in enumerate(("early", "late"))
        }
        return {
            "a": Finding(quadratic.pairs(PAIRS), numbers=_to_tolerance(quadratic)),
            "b": Finding(digits.pairs(PAIRS), quiet, {**smallest, **outside, **resolved}),
            "c": Finding(_slope(results.one(family="quadratic"))),
            "d": Finding(digits.pairs(STEADY), three),
            "e": Finding(digits.pairs(PAIRS, given=True)),
            "f": Finding(digits.pairs(AS_WRITTEN)),
        }

    def draw(self, results: claims.Results, figure: Figure) -> None:
        """The correlations of all pairs, and the runs behind two of them."""
        _draw_bundle(results, figure)


# ---------------------------------------------------------------------- what they mean


class Population:
    """The runs of one family."""

    def __init__(self, cell: claims.Cell) -> None:
        self.cell = cell
        self.measures = cell["measures"].reshape(-1, 2, len(MEASURES)).astype(float)
        self.share = cell["dials"].reshape(-1, 2)[:, 1].astype(float)

    def at(self, time: int) -> np.ndarray:
        """The measures of every run, shape (runs, measures)."""
        return self.measures[:, time]

    def pairs(
        self, pairs: Sequence[tuple[int, int]], *, given: bool = False, resamples: int = intervals.RESAMPLES
    ) -> dict[str, Effect]:
        """Rank correlations at both times, at a level that holds for all; `given` the step's share, partial ones."""
        level, found = intervals.family_level(2 * len(pairs)), {}
        for number, time in enumerate(("early", "late")):
            for i, j in pairs:
                columns = self.at(number)[:, [i, j]]
                data = np.column_stack([columns, self.share]) if given else columns
                name = f"{MEASURES[i]} and {MEASURES[j]}, step {self.cell[time]}"
                found[name] = intervals.bootstrap(
                    _partial if given else _plain,
                    _ranks(data),
                    vectorised=True,
                    level=level,
                    resamples=resamples,
                )
        return found


def _ranks(data: np.ndarray) -> np.ndarray:
    """Ranks of each column among all runs. Resamples keep them, which spares 10,000 sortings."""
    return stats.rankdata(data, axis=0)


def _correlations(data: np.ndarray) -> np.ndarray:
    """Correlation matrices of the columns, shape (..., columns, columns)."""
    away = data - data.mean(1, keepdims=True)
    product = away.transpose(0, 2, 1) @ away
    size = np.sqrt(np.einsum("bii->bi", product))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.nan_to_num(product / (size[:, :, None] * size[:, None]))


def _plain(data: np.ndarray) -> np.ndarray:
    return _correlations(data)[:, 0, 1]


def _partial(data: np.ndarray) -> np.ndarray:
    """Of the first two columns given the third."""
    r = _correlations(data)
    rest = (1 - r[:, 0, 2] ** 2) * (1 - r[:, 1, 2] ** 2)
    return (r[:, 0, 1] - r[:, 0, 2] * r[:, 1, 2]) / np.sqrt(np.maximum(rest, 1e-12))


def smallest_of(data: np.ndarray, pairs: Sequence[tuple[int, int]]) -> Effect:
    """The smallest of several correlations."""
    first, second = (list(side) for side in zip(*pairs, strict=True))
    return intervals.bootstrap(
        lambda d: _correlations(d)[:, first, second].min(1), _ranks(data), vectorised=True, resamples=2000
    )


def _controls(digits: Population, noise: Population, pairs: Sequence[tuple[int, int]]) -> dict[str, Effect]:
    """The smallest correlation where noise limits progress, and of the networks' measures shuffled over runs."""
    found = {
        f"noise, smallest, step {noise.cell[time]}": smallest_of(noise.at(number), pairs)
        for number, time in enumerate(("early", "late"))
    }
    draw, data = np.random.default_rng(0), _ranks(digits.at(1))
    mixed = np.stack([np.stack([draw.permutation(column) for column in data.T], 1) for _ in range(2000)])
    first, second = (list(side) for side in zip(*pairs, strict=True))
    null = _correlations(mixed)[:, first, second].min(1)
    low, high = np.quantile(null, [0.025, 0.975])
    told = "2,000 permutations"
    found["shuffled over runs, smallest"] = Effect(
        float(null.mean()), float(low), float(high), "1", len(data), told
    )
    return found


def _to_tolerance(quadratic: Population) -> dict[str, Effect]:
    """Of the gain in iterations to an equal error with condition and slowness, late."""
    needed = quadratic.cell["iterations"].reshape(-1, 2).astype(float)
    gain, name = needed[:, 0] / needed[:, 1], "CG gain in iterations to an error of 1e-6"
    return {
        f"{MEASURES[i]} and {name}": intervals.spearman(quadratic.at(1)[:, i], gain, resamples=2000)
        for i in (0, 1, 3)
    }


def _slope(cell: claims.Cell) -> Effect:
    """Of ln(iterations of descent / of conjugate gradients) on ln κ, over runs."""
    needed = cell["iterations"].reshape(-1, 2).astype(float)
    data = np.column_stack([cell["dials"].reshape(-1, 2)[:, 0], np.log(needed[:, 0] / needed[:, 1])])

    def statistic(d: np.ndarray) -> np.ndarray:
        away = d - d.mean(1, keepdims=True)
        return (away[:, :, 0] * away[:, :, 1]).sum(1) / (away[:, :, 0] ** 2).sum(1)

    return intervals.bootstrap(statistic, data, vectorised=True)


# ---------------------------------------------------------------------- what it looks like


def _draw_bundle(results: claims.Results, figure: Figure) -> None:
    sides: Any = figure.subfigures(1, 2, width_ratios=(1.15, 1))
    left, right = sides
    _draw_pairs(results, left.subplots())
    digits = Population(results.one(family="digits"))
    panels = right.subplots(3, 1, sharex=True)
    labels = {
        3: "slowness\nln(loss left)",
        2: "CG gain\nln(ratio of rates)",
        1: "back-and-forth\n-(next / this update)",
    }
    for axes, (measure, label) in zip(panels, labels.items(), strict=True):
        shown = digits.at(1)
        axes.plot(shown[:, 0] / math.log(10), shown[:, measure], "o", color="C0", ms=3.5, alpha=0.7, mew=0)
        axes.set_ylabel(label, fontsize=8.5)
        axes.tick_params(labelsize=8.5)
        axes.margins(y=0.12)
    right.align_ylabels(panels)
    panels[0].set_title(f"{len(digits.share)} networks, step {digits.cell['late']}")
    panels[-1].set_xlabel("log10 of the effective condition number")


def _draw_pairs(results: claims.Results, axes: Any) -> None:
    families = (
        ("digits", "networks", "o", "C0"),
        ("quadratic", "quadratics", "s", "C2"),
        ("noise", "noise (control)", "x", "0.5"),
    )
    for shift, (family, label, marker, colour) in zip((-0.22, 0, 0.22), families, strict=True):
        data = Population(results.one(family=family)).at(1)
        for place, pair in enumerate(PAIRS):
            found = intervals.bootstrap(_plain, _ranks(data[:, pair]), vectorised=True, resamples=1000)
            axes.plot([found.low, found.high], [place + shift] * 2, color=colour, lw=1.2)
            told = label if not place else None
            axes.plot(found.value, place + shift, marker, color=colour, ms=5, ls="none", label=told)
    axes.axvline(0.5, color="0.4", ls="--", lw=1)
    axes.axvline(0, color="0.8", lw=0.8, zorder=0)
    axes.set(
        xticks=(-1, -0.5, 0, 0.5, 1),
        yticks=range(6),
        xlim=(-1.05, 1.05),
        ylim=(6.3, -0.6),
        title="six pairs, late, 95 % each",
    )
    axes.set_yticklabels([f"{MEASURES[i]},\n{MEASURES[j]}" for i, j in PAIRS], fontsize=8.5)
    axes.set_xlabel("rank correlation over runs (foretold: above 0.5)")
    axes.legend(loc="lower left", fontsize=8, ncols=3, columnspacing=0.8, handletextpad=0.1, borderpad=0)


CLAIM = ValleyBundle

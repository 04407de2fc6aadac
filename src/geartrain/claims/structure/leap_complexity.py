r"""Leap complexity: the largest step between a target's Fourier terms, not their degree, sets the time to learn it.

**Question** Does the number of SGD steps grow with the number of inputs d as the leap of the target predicts?

**Protocol** Targets x₁+x₁x₂+x₁x₂x₃ (leap 1), x₁+x₁x₂x₃ (leap 2) and x₁x₂x₃ (leap 3) of d = 15, 30, 60, 120, 240
inputs of ±1; two-layer ReLU networks of width 100, plain SGD on fresh batches of 64, ½ squared error, 8 seeds. The
time is the first step at which every coefficient is half of its target or more (and the network does better than
saying 0). One rule for the step size: for each target and each d the best of six, 0.025 to 0.8 (times √width for
the first layer and 1/√width for the second), by the median time. The exponent is the least-squares slope of the log
of that time on ln d; the bootstrap chooses the best step anew in every resample.

**Control** x₁ + x₂x₃ + x₄x₅x₆: the same degrees without a staircase. Its leap is 3, so its exponent has to be that
of leap 3: if degree or the number of terms were what counts, it would go with the staircase.

**Pitfalls** The paper counts operations; exponents in *steps* are one lower, max(leap - 1, 1). It takes the limit
of small steps, whose size shrinks with d the faster the larger the leap; with one and the same step size for
everything the network descends the noiseless loss, where leap 3 costs only about √d more than leap 1: hence the
best step for each cell, and the constant step as a side question. Logarithms bias the exponents at small d. ReLU
units without bias answer to no parity of odd degree above 1, so biases start uniform within ±½. Looking every other
step (then every 3 %) rounds the shortest times, of about 25 steps, by some per cent.

**Literature** Abbe, Boix-Adserà, Misiakiewicz 2023, arXiv 2302.11055 (SGD on two-layer networks, trained layer by
layer, learns a target of leap L in d^max(L, 2) operations up to logarithms; conjectured to be necessary) and 2022,
arXiv 2202.08658 (merged staircases are what is learnt in linear time). Barak et al. 2022, arXiv 2207.08799
(parities of k bits in about d^O(k) steps). Ben Arous, Gheissari, Jagannath 2021, arXiv 2003.10409 (information
exponent: the same for one direction).

**What would change our mind** A leap-3 target whose time grows no faster than half a power above that of the
staircase; or the disjoint sum growing like the staircase.

Ledger: 1.8
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from geartrain import claims
from geartrain.claims import intervals
from geartrain.claims.structure import _parity
from geartrain.claims.structure._parity import Nets
from geartrain.zoo.functions.hypercube_fourier import leap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Sets = tuple[tuple[int, ...], ...]
TARGETS: dict[str, Sets] = {
    "staircase": ((0,), (0, 1), (0, 1, 2)),
    "two at once": ((0,), (0, 1, 2)),
    "three at once": ((0, 1, 2),),
    "disjoint": ((0,), (1, 2), (3, 4, 5)),
}
_CONSTANT = 0.05
RATES = (_CONSTANT, 0.1, 0.2, 0.4, 0.8, 0.025)
_BIAS, _SLACK = 0.5, 1.25


class LeapComplexity(claims.Claim):
    """Time to learn against the number of inputs."""

    title: ClassVar = "The leap of a target sets how its learning time grows with dimension"
    statement: ClassVar = (
        "The number of steps to learn a sum of parities grows with the number of inputs with a power that is set "
        "by the largest leap between its terms: by more than half a power faster for leap 3 than for leap 1."
    )
    source: ClassVar = claims.Source(
        "001_7bf7b0974d4946e6.txt",
        (
            "(given a toy setup and in a certain limit,) the hardness of learning a boolean function being "
            "characterized by its leap complexity, ie the size of the 'largest step' between its fourier terms",
        ),
    )
    ledger: ClassVar = ("1.8",)
    changed: ClassVar = (
        "Pilots with seeds from 1000 fixed the following. 'One step-size rule for all' had been left open: with "
        "one constant step the exponents of leap 3 and leap 1 differed by 0.3 to 0.4 at d up to 120 (noise "
        "played no part there), with the best step for each cell by 0.5 to 0.6, and by more when d = 240 was "
        "added. The best step is what hardness means, so it carries the verdict; the constant step is part d, "
        "which was expected to fail. d = 240 was kept, because the statement is about a limit. Biases start at "
        "random, for ReLU units without bias do not see odd parities. Steps are looked at every other step, then "
        "every 3 %, not every 100."
    )
    minutes: ClassVar = 2.0
    scope: ClassVar = (
        "Sums of parities of up to three of 15 to 240 inputs of ±1; two-layer ReLU networks of width 100, both "
        "layers trained together from uniform starts; SGD without momentum on fresh batches of 64, half squared "
        "error, the best of six step sizes in the mean-field ratio; at most 40,000 steps."
    )
    parts: ClassVar = {
        "a": claims.Part(
            "Exponent of the best number of steps in d: leap 3 (x₁x₂x₃) less leap 1 (staircase); control: "
            "disjoint terms less leap 3",
            claims.above(0.5, control=(-0.5, 0.5), same_refutes=False),
            axis="difference of exponents",
        ),
        "b": claims.Part(
            "Exponent of leap 2 less leap 1, which the paper has equal (in steps both 1)",
            claims.within(-0.5, 0.5),
            bears=False,
            axis="difference of exponents",
        ),
        "c": claims.Part(
            "Each exponent less max(leap - 1, 1)",
            claims.Every(claims.within(-0.5, 0.5)),
            bears=False,
            axis="exponent - max(leap - 1, 1)",
        ),
        "d": claims.Part(
            "The difference of part a with one constant step size (0.05) for all targets and d",
            claims.above(0.5, control=(-0.5, 0.5), same_refutes=False),
            bears=False,
            axis="difference of exponents",
        ),
    }

    def cells(self, scale: str) -> list[dict[str, Any]]:
        """Targets and numbers of inputs."""
        inputs = {"test": (8, 12), "quick": (15, 30, 60, 120)}.get(scale, (15, 30, 60, 120, 240))
        budget, width = (800, 32) if scale == "test" else (40_000, 100)
        return [{"target": t, "d": d, "width": width, "budget": budget} for t in TARGETS for d in inputs]

    def compute(self, config: dict[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
        """Steps until all terms are there, for each step size; -1 where it was not learnt.

        The constant step has the whole budget; the others give up once a quarter more than the best median is spent.
        """
        torch.set_num_threads(1)
        d, width, budget = (config[name] for name in ("d", "width", "budget"))
        terms = tuple((s, 1.0) for s in TARGETS[config["target"]])
        nets, found, best = Nets.fresh((d, width, 1), seeds, bias=_BIAS), [], float(budget)
        for rate in RATES:
            rates, allowed = _parity.mean_field(width, rate), min(budget, int(_SLACK * best) + 10)
            last = _parity.train(nets, terms, seeds, d, rates=rates, budget=allowed).last
            found.append(last)
            best = min(best, float(np.median(np.where(last < 0, budget, last))))
        return {"time": (("seed", "rate"), np.stack(found, 1))}

    def analyse(self, results: claims.Results) -> dict[str, claims.Finding]:
        """Exponents by least squares, bootstrapped over seeds."""
        one, two, three, other = (_Times.of(results, target) for target in TARGETS)
        differences = {t: _difference(t, one) for t in (two, three)}
        exponents = {
            t: intervals.bootstrap(t.exponent, t.values, vectorised=True) for t in (one, two, three, other)
        }
        control = {"disjoint terms, the same degrees": _difference(other, three)}
        numbers = {f"exponent, {t.name} (leap {t.leap})": e for t, e in exponents.items()}
        largest = {f"largest d alone, {t.name}: exponent": t.locally(-2) for t in exponents}
        against = {f"{t.name} (leap {t.leap})": _moved(e, -max(t.leap - 1, 1)) for t, e in exponents.items()}
        lost = "; ".join(f"{t.name} was not learnt" for t in exponents if not np.isfinite(t.medians).all())
        constant = [t.with_constant_step() for t in (one, three, other)]
        never = "; ".join(f"{t.name} was not learnt" for t in constant if not np.isfinite(t.medians).all())
        still = {"disjoint terms, the same degrees": _difference(constant[2], constant[1])}
        return {
            "a": claims.Finding(differences[three], control, numbers | largest, invalid=lost),
            "b": claims.Finding(differences[two], invalid=lost),
            "c": claims.Finding(against, invalid=lost),
            "d": claims.Finding(_difference(constant[1], constant[0]), still, invalid=never),
        }

    def draw(self, results: claims.Results, figure: Figure) -> None:
        """Steps against d with the best step size and with the constant one, and what was predicted."""
        axes = figure.subplots(1, 3, width_ratios=(1, 1, 0.8))
        looks = dict(
            zip(
                TARGETS,
                (("0.0", "o", "-"), ("tab:blue", "s", "--"), ("tab:orange", "D", "-"), ("0.55", "^", ":")),
                strict=True,
            )
        )
        shown = [_Times.of(results, target) for target in TARGETS]
        for ax, times, title in (
            (axes[0], shown, "a  best step size"),
            (axes[1], [t.with_constant_step() for t in shown], "d  one step size"),
        ):
            for t in times:
                colour, mark, line = looks[t.name]
                ax.loglog(t.d, t.medians, line, color=colour, lw=1.5, label=f"{t.name} (leap {t.leap})")
                ax.loglog(t.d, t.at_best.T, mark, color=colour, ms=3, alpha=0.5, mew=0)
            ax.set_xticks(list(shown[0].d), [f"{d:.0f}" for d in shown[0].d])
            ax.minorticks_off()
            ax.set_xlabel("inputs d")
            ax.set_title(title, loc="left")
        axes[0].legend(loc="upper left", labelspacing=0.3)
        axes[0].set_ylabel("steps until learnt")
        low, high = (min(ax.get_ylim()[0] for ax in axes[:2]), max(ax.get_ylim()[1] for ax in axes[:2]))
        for ax in axes[:2]:
            ax.set_ylim(low, 1.5 * high)
        for row, t in enumerate(shown):
            exponent = intervals.bootstrap(t.exponent, t.values, vectorised=True)
            colour, mark, _ = looks[t.name]
            axes[2].plot([exponent.low, exponent.high], [row, row], color=colour, lw=2)
            axes[2].plot(exponent.value, row, mark, color=colour, ms=6)
            axes[2].plot([max(t.leap - 1, 1)] * 2, [row - 0.3, row + 0.3], "--", color="0.3", lw=1)
        axes[2].set_yticks(range(len(shown)), [t.name for t in shown])
        axes[2].set(xlabel="exponent of d", ylim=(len(shown) - 0.5, -0.5), xlim=(0, 2.4))
        axes[2].set_title("c  dashed: theory", loc="left")


class _Times:
    """Steps to learn a target, ``values`` of shape (seeds, d, step sizes), infinite where it was not learnt."""

    def __init__(self, name: str, d: np.ndarray, values: np.ndarray) -> None:
        self.name, self.d, self.values = name, d, values
        self.leap = leap(TARGETS[name])
        place = np.log(d)
        self.weight = (place - place.mean()) / ((place - place.mean()) ** 2).sum()

    @classmethod
    def of(cls, results: claims.Results, target: str) -> _Times:
        cells = sorted(results.where(target=target), key=lambda c: c["d"])
        values = np.stack([c["time"] for c in cells], 1).astype(float)
        return cls(target, np.array([float(c["d"]) for c in cells]), np.where(values < 0, np.inf, values))

    def with_constant_step(self) -> _Times:
        """Those with the constant step size only."""
        at = RATES.index(_CONSTANT)
        return _Times(self.name, self.d, self.values[..., at : at + 1])

    def logs(self, values: np.ndarray) -> np.ndarray:
        """Log of the best median, shape (..., d), from values of shape (..., seeds, d, step sizes)."""
        # An infinite time becomes a large one, so that a resample without a learnt run still has a slope.
        # Sorting all and taking the middle is four times as fast as np.median along this axis.
        ordered, count = np.sort(values, -3), values.shape[-3]
        median = (ordered[..., (count - 1) // 2, :, :] + ordered[..., count // 2, :, :]) / 2
        return np.log(np.minimum(median.min(-1), 1e9))

    def exponent(self, values: np.ndarray) -> np.ndarray:
        """Slope on ln d."""
        return self.logs(values) @ self.weight

    @property
    def medians(self) -> np.ndarray:
        """Best median for each d."""
        return np.median(self.values, 0).min(-1)

    @property
    def at_best(self) -> np.ndarray:
        """Times of all seeds at the best step size, shape (seeds, d)."""
        best = np.median(self.values, 0).argmin(-1)
        return self.values[:, np.arange(len(self.d)), best]

    def locally(self, start: int) -> claims.Effect:
        """Slope between the last two d."""
        last = _Times(self.name, self.d[start:], self.values[:, start:])
        return intervals.bootstrap(last.exponent, last.values, vectorised=True)


def _difference(first: _Times, second: _Times) -> claims.Effect:
    """Exponent of one target less that of another, paired over seeds."""
    return intervals.bootstrap(
        lambda a, b: first.exponent(a) - second.exponent(b), first.values, second.values, vectorised=True
    )


def _moved(effect: claims.Effect, by: float) -> claims.Effect:
    return claims.Effect(
        effect.value + by, effect.low + by, effect.high + by, effect.unit, effect.count, effect.method
    )


CLAIM = LeapComplexity

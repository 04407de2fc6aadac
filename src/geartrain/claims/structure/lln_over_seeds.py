"""Similar losses over seeds: are they a law of large numbers over structures that are each learnt or not?

Nets trained from many seeds end on similar losses. That is said to be no sign of an optimum: a net learns each of
many structures with some probability, the loss adds up what was learnt, and sums of many such indicators hardly vary.

**Question** Does the spread of the loss over seeds shrink as the inverse root of the number of structures, with
independent indicators?

**Protocol** *Blocks*: `xor-blocks`, 32,768 trained blocks grouped into nets of K = 1, 4, 16, 64, 256. *Parities*: T =
1, 2, 4, 8, 16, 32 products of 2 (or of 3) signs each on coordinates of its own, one output each, one hidden ReLU
layer of 32 T or of 128 units; squared error, Adam at 3e-3, batches of 64 of 16,384 points in as many dimensions as 32
parities fill. A parity counts as learnt when its coefficient on 2,048 other points is above one half. All seeds of a
cell stop at the first look (every 5 steps for pairs, every 25 for triples) at which half of their parities are
learnt: before and after there is nothing to vary. *Digits*: nets 64-W-10, W = 4 to 256, 1,000 examples, Adam at 2e-3,
batches of 100, 400 steps; a structure is one of four clusters of a class, learnt when nine tenths of its held-out
examples are right. 64 seeds.

**Control** Structures with a common cause: the step size drawn anew for each seed (log-normal; spread 0.7 for
parities, 1.4 for digits), which makes all of them early or late together. The slope has to be flatter than the band
there, and correlation and dispersion above theirs.

**Pitfalls** For blocks the law holds by construction: they test the instrument. Sampling noise of the points on which
the loss is measured shrinks with their number, too: the spread is taken from the covariance of the losses on two
halves of the points, in which it cancels. Mean correlations of many indicators are small even where they rule the
spread: 0.03 doubles the variance of a count of 32. Hence the variance of the count over the sum of p(1 - p), which is
1 for independent indicators. A structure that every seed learns, or none, has no say.

**Literature** Jordan 2023 (arXiv:2304.01910): between runs, errors on single examples are nearly independent, and
test accuracy over the whole distribution hardly varies. Safran, Shamir 2018 (arXiv:1712.08968): small ReLU nets have
bad local minima. Michaud et al. 2023 (arXiv:2303.13506): losses as sums over discrete skills.

**What would change our mind** A slope that is not one half, indicators that move together, or counts that vary much
more or less than independent ones would.

Ledger: 1.2, 1.3
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor, nn

from geartrain import claims, ensemble
from geartrain.claims import intervals
from geartrain.datasets import digits
from geartrain.zoo.landscapes import xor_blocks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLOCKS = (1, 4, 16, 64, 256)
ARMS = {
    "pairs, 32 T units": (2, 0),
    "pairs, 128 units": (2, 128),
    "triples, 32 T units": (3, 0),
    "triples, 128 units": (3, 128),
}
"""Degree of the parities, and the fixed width if it is fixed."""
BEST_OF = 16
_FEWEST, _SEEN, _HELD_OUT = 0.02, 16_384, 2_048
_LOOK = {2: 5, 3: 25}
_COMMON = {"parities": 0.7, "digits": 1.4}
_BAND, _QUIET, _DISPERSION = (-0.6, -0.4), (-0.1, 0.1), (0.5, 2.0)


class LlnOverSeeds(claims.Claim):
    """Spread of losses and independence of what was learnt."""

    title: ClassVar = "Similar losses as a law of large numbers"
    statement: ClassVar = (
        "Losses of many seeds are similar because each adds up many structures that are learnt or not, "
        "independently of one another."
    )
    source: ClassVar = claims.Source(
        "001_7bf7b0974d4946e6.txt",
        (
            "getting similar losses this way is a LLN phenomenon",
            "loss is roughly some aggregation of indicators for whether each structure gets learned",
        ),
    )
    ledger: ClassVar = ("1.2", "1.3")
    version: ClassVar = 1
    changed: ClassVar = (
        "Degrees 2 and 3 are tasks of their own, and every cell stops when half of its parities are learnt, as "
        "a pilot (seeds 1000 to 1015) showed that they are learnt at times apart, and in the end always. All T "
        "share one dimension, so that a parity is as hard to find among many as alone. The control is a common "
        "cause: behind the bottleneck of width 4 that was planned hardly any of 16 or more indicators is ever "
        "on; it is kept, with 8 parities, as a side number of (e). After the pilot the slope is asked apart for "
        "growing and for fixed width, (b) and (c). The ratio of variances has a rule of its own, (e) and (g), "
        "as a mean correlation of 0.1 would still allow four times the variance. Blocks of XOR: 32,768 of them, "
        "grouped, for 2,000 nets of each size."
    )
    seeds: ClassVar = 64
    minutes: ClassVar = 8.0
    scope: ClassVar = (
        "Parities: squared error, Adam at 3e-3, one hidden ReLU layer of 32 to 1,024 units, up to 32 parities "
        "of degree 2 or 3 at half progress. Digits: cross-entropy, Adam at 2e-3, 400 steps, one hidden ReLU "
        "layer of 4 to 256 units."
    )
    parts: ClassVar = {
        "a": claims.Part(
            "Blocks of XOR: slope of ln spread on ln K (true by construction: checks the instrument)",
            claims.within(*_BAND),
            bears=False,
            axis="slope",
        ),
        "b": claims.Part(
            "Parities, 32 T units: slope of ln spread of the loss over seeds on ln T",
            claims.Every(claims.within(*_BAND, control=(-0.4, math.inf))),
            axis="slope",
        ),
        "c": claims.Part(
            "Parities, 128 units for all: slope of ln spread of the loss over seeds on ln T",
            claims.Every(claims.within(*_BAND, control=(-0.4, math.inf))),
            axis="slope",
        ),
        "d": claims.Part(
            "Parities, most of them: mean correlation of two indicators over seeds",
            claims.Every(claims.within(*_QUIET, control=(0.1, math.inf))),
            axis="correlation",
        ),
        "e": claims.Part(
            "Parities, most of them: variance of the count over that of independent indicators",
            claims.Every(claims.within(*_DISPERSION, control=(2.0, math.inf))),
            axis="ratio of variances",
        ),
        "f": claims.Part(
            "Digits, each width: mean correlation of two indicators over seeds",
            claims.Every(claims.within(*_QUIET, control=(0.1, math.inf))),
            axis="correlation",
        ),
        "g": claims.Part(
            "Digits, each width: variance of the count over that of independent indicators",
            claims.Every(claims.within(*_DISPERSION, control=(2.0, math.inf))),
            axis="ratio of variances",
        ),
        "h": claims.Part(
            "Parities, most of them: gain in the count by the best of 16 seeds, over what independent indicators give",
            claims.Every(claims.within(0.8, 1.25)),
            bears=False,
            axis="ratio of gains",
        ),
        "i": claims.Part(
            "Parities, most of them: share of the loss's variance over seeds that the mere count explains",
            claims.Every(claims.above(0.5, control=None)),
            bears=False,
            axis="R²",
        ),
        "j": claims.Part(
            "Digits: slope of ln spread of the held-out loss on ln width, as if structures were as many as units",
            claims.within(*_BAND),
            bears=False,
            axis="slope",
        ),
    }

    def cells(self, scale: str) -> list[dict[str, Any]]:
        """Blocks; parities by arm and number, with controls; digits by width, with a control."""
        most = {"test": 4, "quick": 16}.get(scale, 32)
        counts = [2**k for k in range(most.bit_length())]
        parity = {"task": "parities", "most": most, "neck": 0, "budget": 300 if scale == "test" else 12_000}
        causes = [(*arm, 0.0) for arm in ARMS.values()] + [(2, 0, _COMMON["parities"])]
        digit = {"task": "digits", "steps": 60 if scale == "test" else 400}
        widths = (4, 16) if scale == "test" else (4, 8, 16, 32, 64, 128, 256)
        return [
            {"task": "blocks", "blocks": 256 if scale == "test" else 512},
            *(
                {**parity, "degree": degree, "fixed": fixed, "common": common, "count": count}
                for degree, fixed, common in causes
                for count in counts
            ),
            {
                **parity,
                "degree": 2,
                "fixed": 0,
                "common": 0.0,
                "count": min(8, most),
                "neck": 4,
                "budget": 500,
            },
            *({**digit, "width": width, "common": 0.0} for width in widths),
            {**digit, "width": widths[len(widths) // 2], "common": _COMMON["digits"]},
        ]

    def compute(self, config: dict[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
        """Losses and what was learnt."""
        if config["task"] == "blocks":
            return {"sums": (("seed", "K", "power"), block_sums(config["blocks"], seeds))}
        rates = drawn_rates(seeds, config["common"])
        work = parities if config["task"] == "parities" else pictures
        return work(config, seeds, rates)

    def analyse(self, results: claims.Results) -> dict[str, claims.Finding]:
        """Slopes over the number of structures; dependence where there are most of them."""
        blocks = results.one(task="blocks")
        arms = {name: arm(results, name) for name in ARMS}
        shared = arm(results, next(iter(ARMS)), common=_COMMON["parities"])
        necks = {f"bottleneck of 4, T = {c['count']}": c for c in results.where(task="parities", neck=4)}
        widths = {f"W = {c['width']}": c for c in results.where(task="digits", common=0.0)}
        common = results.one(task="digits", common=_COMMON["digits"])
        last = {name: cells[-1] for name, cells in arms.items()}
        cause = "step size drawn for each seed"

        def apart(statistic: Any, cells: dict[str, claims.Cell], control: claims.Cell) -> claims.Finding:
            quiet = {cause: dependence(statistic, control)}
            return claims.Finding({n: dependence(statistic, c) for n, c in cells.items()}, quiet)

        counted = apart(dispersion, last, shared[-1])
        constrained = {f"{n}: {k}": f for n, c in necks.items() for k, f in bottleneck(c).items()}
        progress = {f"steps to half, {n}": exact_steps(c) for n, c in last.items()}
        sloped = {name: spread_slope(cells) for name, cells in arms.items()}
        flat = {cause: spread_slope(shared)}
        roomy = {name: slope for name, slope in sloped.items() if not ARMS[name][1]}
        crowded = {name: slope for name, slope in sloped.items() if ARMS[name][1]}
        told = {
            n: intervals.bootstrap(explained, c["loss"].mean(1), c["learnt"].sum(1), vectorised=True)
            for n, c in last.items()
        }
        return {
            "a": claims.Finding(
                intervals.bootstrap(block_slope, blocks["sums"], vectorised=True), {}, block_spreads(blocks)
            ),
            "b": claims.Finding(roomy, flat, progress),
            "c": claims.Finding(crowded, flat),
            "d": apart(correlation, last, shared[-1]),
            "e": claims.Finding(counted.effect, counted.control, constrained),
            "f": apart(correlation, widths, common),
            "g": apart(dispersion, widths, common),
            "h": claims.Finding({name: dependence(gain_of_best, c) for name, c in last.items()}),
            "i": claims.Finding(told),
            "j": claims.Finding(spread_slope(list(widths.values()), "width")),
        }

    def draw(self, results: claims.Results, figure: Figure) -> None:
        """Spread over the number of structures; counts beside independent ones; digits."""
        left, middle, right = figure.subplots(1, 3)
        _draw_seeds(left, results)
        _draw_spread(middle, results)
        _draw_counts(right, results)


# ---------------------------------------------------------------------- units of work


def block_sums(count: int, seeds: Sequence[int]) -> np.ndarray:
    """Mean and mean square of the losses of nets of K blocks, for each seed and K."""
    rows = []
    for seed in seeds:
        losses = xor_blocks.train(count, torch.Generator().manual_seed(seed)).numpy()
        nets = [losses.reshape(-1, k).mean(1) for k in BLOCKS]
        rows.append([[net.mean(), (net**2).mean()] for net in nets])
    return np.array(rows)


def drawn_rates(seeds: Sequence[int], common: float) -> np.ndarray:
    """Factor of each seed's step size, log-normal with that spread."""
    return np.array([math.exp(common * np.random.default_rng([s, 1]).standard_normal()) for s in seeds])


def parity_data(degree: int, most: int, count: int, points: int, seed: int) -> tuple[Tensor, Tensor]:
    """Signs, and the products of the first, the second, ... of them."""
    signs = np.random.default_rng(seed).integers(0, 2, (points, degree * most)) * 2.0 - 1
    products = signs.reshape(points, most, degree).prod(2)[:, :count]
    return torch.from_numpy(signs).float(), torch.from_numpy(products).float()


def parities(config: dict[str, Any], seeds: Sequence[int], rates: np.ndarray) -> dict[str, Any]:
    """Train all seeds until half of their parities are learnt, or the budget ends."""
    degree, most, count = config["degree"], config["most"], config["count"]
    width, neck = config["fixed"] or 32 * count, config["neck"]

    def model() -> nn.Module:
        narrow = [nn.Linear(width, neck)] if neck else []
        return nn.Sequential(
            nn.Linear(degree * most, width), nn.ReLU(), *narrow, nn.Linear(neck or width, count)
        )

    nets = ensemble.train(
        model, parity_data(degree, most, count, _SEEN, 0), loss=nn.functional.mse_loss, lr=(3e-3 * rates).tolist(),
        steps=0, seeds=list(seeds), batch_size=64, engine="stack", chunk=8,
    )  # fmt: skip
    data = parity_data(degree, most, count, _HELD_OUT, 1)
    while True:
        loss, coefficients = scores(nets, data)
        learnt = coefficients > 0.5
        reached = learnt.mean() >= 0.5
        if reached or nets.steps >= config["budget"]:
            break
        nets.train(_LOOK[degree])
    return {
        "loss": (("seed", "half"), loss),
        "learnt": (("seed", "parity"), learnt.astype(np.uint8)),
        "steps": np.full(len(seeds), nets.steps if reached else -1),
    }


@torch.no_grad()
def scores(nets: ensemble.Ensemble, data: tuple[Tensor, Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Loss on each half of the points, (seed, 2), and coefficient of each parity, (seed, parity)."""
    x, y = data
    losses, coefficients = [], []
    for number in range(len(nets)):
        outputs = nets.member(number)(x)
        errors = ((outputs - y) ** 2).mean(1)
        losses.append(errors.view(2, -1).mean(1))
        coefficients.append((outputs * y).mean(0))
    return torch.stack(losses).numpy(), torch.stack(coefficients).numpy()


def pictures(config: dict[str, Any], seeds: Sequence[int], rates: np.ndarray) -> dict[str, Any]:
    """Digits: held-out loss on two halves, and which groups were learnt."""
    split = digits.load(1000, seed=0)
    width = config["width"]
    nets = ensemble.train(
        lambda: nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10)), split.train,
        loss=nn.functional.cross_entropy, lr=(2e-3 * rates).tolist(), steps=config["steps"], seeds=list(seeds),
        batch_size=100, engine="stack", chunk=16,
    )  # fmt: skip
    inputs, labels = split.validation
    with torch.no_grad():
        outputs = torch.stack([nets.member(i)(inputs) for i in range(len(nets))])
    each = nn.functional.cross_entropy(outputs.mT, labels.expand(len(nets), -1), reduction="none").numpy()
    right = (outputs.argmax(2) == labels).numpy()
    groups = clusters(inputs.numpy(), labels.numpy())
    shares = np.stack([right[:, groups == g].mean(1) for g in range(groups.max() + 1)], 1)
    return {
        "loss": (("seed", "half"), np.stack([each[:, ::2].mean(1), each[:, 1::2].mean(1)], 1)),
        "learnt": (("seed", "group"), (shares >= 0.9).astype(np.uint8)),
    }


def clusters(inputs: np.ndarray, labels: np.ndarray, each: int = 4) -> np.ndarray:
    """A group for each example: its class, cut into clusters of similar pictures; groups are numbered from 0."""
    groups = np.zeros(len(labels), dtype=int)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        _, found = kmeans2(
            inputs[members].astype(float), each, minit="++", rng=np.random.default_rng(int(label))
        )
        groups[members] = each * label + found
    return np.unique(groups, return_inverse=True)[1]


# ---------------------------------------------------------------------- statistics; the axes are (resample, seed, ...)


def arm(results: claims.Results, name: str, common: float = 0.0) -> list[claims.Cell]:
    """Cells of one arm, by number of parities."""
    degree, fixed = ARMS[name]
    return results.where(task="parities", degree=degree, fixed=fixed, neck=0, common=common)


def block_slope(sums: np.ndarray) -> np.ndarray:
    """Slope of ln spread on ln K from means and mean squares (resample, seed, K, power)."""
    first, second = np.moveaxis(sums.mean(1), -1, 0)
    return line(BLOCKS, 0.5 * np.log(np.maximum(second - first**2, 1e-12)))


def block_spreads(cell: claims.Cell) -> dict[str, claims.Effect]:
    """Spread at each K."""
    first, second = np.moveaxis(cell["sums"].mean(0), -1, 0)
    spreads = np.sqrt(second - first**2)
    return {
        f"spread, K = {k}": claims.Effect.exact(s, "ℓ", "measured")
        for k, s in zip(BLOCKS, spreads, strict=True)
    }


def line(numbers: Sequence[float], logs: np.ndarray) -> np.ndarray:
    """Least-squares slope of the last axis on ln of the numbers."""
    place = np.log(np.asarray(numbers, dtype=float))
    place -= place.mean()
    return logs @ (place / (place @ place))


def spread(halves: np.ndarray) -> np.ndarray:
    """Spread of the loss over seeds, from the covariance of two halves of the points (..., seed, half)."""
    first, second = np.moveaxis(halves - halves.mean(-2, keepdims=True), -1, 0)
    found = (first * second).sum(-1) / (halves.shape[-2] - 1)
    return np.sqrt(np.maximum(found, 1e-12))


def spread_slope(cells: Sequence[claims.Cell], number: str = "count") -> claims.Effect:
    """Slope of ln spread on ln of the number of structures; cells are resampled apart."""
    numbers = [float(c.config[number]) for c in cells]

    def statistic(*halves: np.ndarray) -> np.ndarray:
        return line(numbers, np.log(np.stack([spread(h) for h in halves], -1)))

    return intervals.bootstrap(statistic, *(c["loss"] for c in cells), paired=False, vectorised=True)


def dependence(statistic: Any, cell: claims.Cell) -> claims.Effect:
    """A statistic of indicators, of those structures that some seeds learn and some do not."""
    learnt = cell["learnt"].astype(float)
    varied = np.abs(learnt.mean(0) - 0.5) <= 0.5 - _FEWEST
    if varied.sum() < 2:
        return claims.Effect(math.nan, math.nan, math.nan)
    return intervals.bootstrap(statistic, learnt[:, varied], vectorised=True)


def dispersion(learnt: np.ndarray) -> np.ndarray:
    """Variance of the count over that of independent indicators."""
    share = learnt.mean(1)
    return ratio(learnt.sum(2).var(1), (share * (1 - share)).sum(1))


def correlation(learnt: np.ndarray) -> np.ndarray:
    """Mean covariance of two indicators over the mean product of their spreads."""
    share = learnt.mean(1)
    variance = share * (1 - share)
    together = learnt.sum(2).var(1) - variance.sum(1)
    return ratio(together, np.sqrt(variance).sum(1) ** 2 - variance.sum(1))


def gain_of_best(learnt: np.ndarray) -> np.ndarray:
    """How far the largest count of 16 seeds lies above the mean, over what independent indicators would give."""
    ranked, seeds = np.sort(learnt.sum(2), axis=1), learnt.shape[1]
    steps = np.arange(seeds + 1) / seeds
    measured = ranked @ np.diff(steps**BEST_OF) - ranked.mean(1)
    share = learnt.mean(1)
    chances = np.ones((len(learnt), 1))
    for p in share.T:
        chances = (
            np.pad(chances, ((0, 0), (0, 1))) * (1 - p)[:, None]
            + np.pad(chances, ((0, 0), (1, 0))) * p[:, None]
        )
    below = chances.cumsum(1)[:, :-1]
    return ratio(measured, (1 - below**BEST_OF).sum(1) - share.sum(1))


def explained(loss: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Squared correlation over seeds."""
    a, b = (v - v.mean(1, keepdims=True) for v in (loss, count))
    return ratio((a * b).sum(1) ** 2, (a**2).sum(1) * (b**2).sum(1))


def ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The quotient; NaN where a resample holds nothing that varies."""
    return np.divide(a, b, out=np.full_like(a, math.nan), where=b > 0)


def bottleneck(cell: claims.Cell) -> dict[str, claims.Effect]:
    """What becomes of loss and indicators behind a bottleneck."""
    return {
        "share learnt": intervals.mean(cell["learnt"].mean(1)),
        "spread of the loss": intervals.bootstrap(spread, cell["loss"], vectorised=True, unit="ℓ"),
        "ratio of variances": dependence(dispersion, cell),
    }


def exact_steps(cell: claims.Cell) -> claims.Effect:
    """When the cell stopped."""
    return claims.Effect.exact(float(cell["steps"][0]), "steps", "-1: not within the budget")


# ---------------------------------------------------------------------- figure


def _draw_seeds(axes: Axes, results: claims.Results) -> None:
    cells = arm(results, "triples, 32 T units")
    numbers = np.array([c["count"] for c in cells])
    for cell in cells:
        away = cell["loss"].mean(1) - cell["loss"].mean()
        places = cell["count"] * 2.0 ** np.linspace(-0.25, 0.25, len(away))
        axes.plot(places, away, "o", ms=2.5, mfc="none", mew=0.6, color="0.35")
    first = float(spread(cells[0]["loss"]))
    for sign in (-2, 2):
        axes.plot(
            numbers, sign * first / np.sqrt(numbers), "--", color="C3", label="± 2 s/√T" if sign > 0 else None
        )
    axes.set(xlabel="parities T", ylabel="loss of a seed minus the mean (ℓ)", title="triples, 32 T units")
    axes.set_xscale("log", base=2)
    axes.legend(loc="upper right")


def _draw_spread(axes: Axes, results: claims.Results) -> None:
    styles = {
        "pairs, 32 T units": "o-",
        "pairs, 128 units": "o--",
        "triples, 32 T units": "s-",
        "triples, 128 units": "s--",
    }
    lines = {name: (arm(results, name), style, f"C{i}") for i, (name, style) in enumerate(styles.items())}
    lines["pairs, common cause"] = (
        arm(results, "pairs, 32 T units", common=_COMMON["parities"]),
        "x:",
        "0.4",
    )
    for label, (cells, style, color) in lines.items():
        spreads = np.array([float(spread(c["loss"])) for c in cells])
        axes.plot([c["count"] for c in cells], spreads / spreads[0], style, ms=4, color=color, label=label)
    numbers = np.array(results.values("count"))
    axes.plot(numbers, numbers**-0.5, color="k", lw=1, ls=(0, (1, 1)), label="1/√T")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set(xlabel="parities T", ylabel="spread of the loss, T = 1 as unit", title="spread over seeds")
    axes.set_ylim(bottom=2**-4)
    axes.legend(loc="lower left", fontsize=7.5)


def _draw_counts(axes: Axes, results: claims.Results) -> None:
    rows = {name: arm(results, name)[-1] for name in ARMS}
    rows["pairs, common cause"] = arm(results, "pairs, 32 T units", common=_COMMON["parities"])[-1]
    rows |= {f"digits, W = {c['width']}": c for c in results.where(task="digits", common=0.0)}
    rows["digits, common cause"] = results.one(task="digits", common=_COMMON["digits"])
    for place, (label, cell) in enumerate(rows.items()):
        found = dependence(dispersion, cell)
        color = "0.5" if "cause" in label else "C3" if "digits" in label else "C0"
        axes.plot([max(found.low, 0.05), found.high], [place, place], "-", color=color)
        axes.plot(found.value, place, "o", ms=5, color=color)
    for bound in _DISPERSION:
        axes.axvline(bound, color="k", ls="--", lw=1)
    axes.axvline(1.0, color="0.7", lw=1)
    axes.set_xscale("log", base=2)
    axes.set(yticks=range(len(rows)), yticklabels=list(rows), title="counts of what was learnt")
    axes.set(xlabel="variance / Σ p(1 - p)")
    axes.invert_yaxis()


CLAIM = LlnOverSeeds

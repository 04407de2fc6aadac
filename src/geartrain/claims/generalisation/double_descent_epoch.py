r"""Along one training run test error can fall, rise and fall again: epoch-wise double descent, and its two clocks.

**Question** Does the test loss go down, up and down again while one model is trained? If so, is it because features
are learnt on different clocks, and is the rise in between what one would think, fitted label noise?

**Protocol** The toy `two-scale-regression`: 50 features of variance 1 that carry a third of the signal, 10 of variance
0.002 that carry the rest, 100 examples, noise variance 0.1; gradient flow from zero at time 0 and 29 times from 0.1 to
10⁶, 64 draws of inputs, coefficients and noise. The hump of a curve is the smaller of two moves, ln(maximum
between / first minimum) and ln(maximum / lowest value after it), after a first fall by 5 % at least; (a) is the hump of
the mean curve. (b) The same draws with a step size for each group of features, in proportion to 1/variance, so that
there is only one clock. (c, d) The same two questions for a network 64-256-10 on 256 digits with 20 % wrong labels,
squared error, full-batch gradient descent with momentum, where the right half of every picture is scaled by 0.05; 8
seeds. (e, f) The risk of the toy is known in closed form as what is not learnt yet plus noise that is: how much of the
rise is the second? And is there a hump without any noise?

**Control** One scale (all variances 1, coefficients as they were); only 5 strong features, too few to do harm. For the
network the digits as they are.

**Pitfalls** A mean over curves whose humps lie at different times has less of a hump; the share of single draws with a
hump is reported beside. "Per-group steps" and "inputs rescaled to one variance" are the same thing for gradient flow
from zero, so that (b) shows that the *second clock* is needed, not that its remedy is clever. A test loss that falls
back at last could also be a step size that decays; it is constant here.

**Literature** Nakkiran et al. 2019, arXiv 1912.02292, see it in convolutional nets with label noise; Heckel, Yilmaz
2020, arXiv 2007.10099: superposed bias-variance curves of features learnt at different times, removed by step sizes;
Pezeshki et al. 2021, arXiv 2112.03215: a linear teacher-student with two scales; Advani, Saxe 2017, arXiv 1710.03667:
the dynamics in closed form; Stephenson, Lee 2021, arXiv 2108.12006: slow but informative features, and a least amount
of noise below which their model has no hump; (f) asks whether that holds here.

**What would change our mind** (a) A mean curve without a second fall, or a hump of the same size with one scale. (b) A
hump that survives equal clocks.

Ledger: 3.4.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from geartrain import claims
from geartrain.claims import intervals
from geartrain.claims.generalisation import _noisy_digits as net
from geartrain.claims.generalisation._curves import largest_rise
from geartrain.zoo.risk.two_scale_regression import TwoScaleRegression

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DELTA = math.log(1.2)
FALL = math.log(1.05)
"""First fall without which a rise is no second one."""
TIMES = np.r_[0.0, np.geomspace(0.1, 1e6, 29)]
_WEAK = TwoScaleRegression.weak_variance
ARMS: dict[str, dict[str, float]] = {
    "two clocks": {},
    "per-group steps": {"weak_variance": 1.0, "weak_signal": TwoScaleRegression.weak_signal * _WEAK},
    "one scale": {"weak_variance": 1.0},
    "few strong": {"strong": 5},
    "no label noise": {"noise": 0.0},
}
"""What differs from the toy as it is. A step size of 1/variance for each group acts as inputs of variance 1 whose
coefficients are smaller by the root of it."""
DRAWS = {"test": 2}
SLOW = 0.05
SIZES = {
    "full": {"width": 256, "samples": 256, "steps": 6000},
    "quick": {"width": 128, "samples": 256, "steps": 1500},
    "test": {"width": 16, "samples": 64, "steps": 60},
}
NET_ARMS = ("two clocks", "per-group steps", "one scale")
CHECKS = 40
STEP, MOMENTUM, NOISE = 2.0, 0.9, 0.2


class DoubleDescentEpoch(claims.Claim):
    """A linear model and a network, each with two clocks and with one."""

    title: ClassVar = "Down, up and down again"
    statement: ClassVar = (
        "During training a model can have better test error, then worse, and then better, because its features are "
        "learnt on different clocks."
    )
    source: ClassVar = claims.Source(
        "003_16f2f60ef2514791.txt",
        ("during training a model can have better test error, than worse, and then better!",),
    )
    ledger: ClassVar = ("3.4",)
    changed: ClassVar = (
        "The words are that a model can, so that one model suffices and the verdict rests on the toy; what this "
        "network does is reported as a question of its own. A first fall of 5 % is asked for. In one scale the "
        "coefficients stay as they were; scaled to equal signal it would be the arm of per-group steps. Parts (e) and "
        "(f) ask what the rise is made of. A pilot (seeds 1000 to 1003; halves, every other column and small groups of "
        "pixels fast; widths 8 to 256, 256 to 1,024 examples) fixed step size and budget of the network: up to 20,000 "
        "steps none of these showed a second fall beyond noise, and the setting closest to the protocol was kept."
    )
    seeds: ClassVar = 8
    minutes: ClassVar = 2.0
    scope: ClassVar = (
        "Gradient flow from zero on half the mean squared error: 100 examples, 50 features of variance 1 (Σβ² = 0.5) "
        "and 10 of variance 0.002 (Σβ² = 500), noise variance 0.1. Network (c, d): 64-256-10, relu, squared error, "
        "256 digits, 20 % wrong labels, right half of the pixels scaled by 0.05, 6,000 full-batch steps of 2.0 with "
        "momentum 0.9."
    )
    parts: ClassVar = {
        "a": claims.Part(
            "Two-scale regression: ln of the smaller of rise and second fall of the mean risk over time",
            claims.above(DELTA), axis="ln risk ratio",
        ),
        "b": claims.Part(
            "Two-scale regression with a step size for each group: the same", claims.below(DELTA), axis="ln risk ratio"
        ),
        "c": claims.Part(
            "Digits network with a slow half: ln of the smaller of rise and second fall of the mean test loss",
            claims.above(DELTA), bears=False, axis="ln loss ratio",
        ),
        "d": claims.Part(
            "Digits network with a step size for each half: the same", claims.below(DELTA), bears=False,
            axis="ln loss ratio",
        ),
        "e": claims.Part(
            "Two-scale regression: share of the rise of the mean risk that is fitted label noise",
            claims.above(0.5, control=None), bears=False, axis="share",
        ),
        "f": claims.Part(
            "Two-scale regression without label noise: hump as in (a)", claims.above(DELTA, control=None), bears=False,
            axis="ln risk ratio",
        ),
        "g": claims.Part(
            "Largest distance over time of the simulated mean risk from the closed form, in standard errors",
            claims.below(3.0), bears=False, axis="standard errors",
        ),
    }  # fmt: skip

    def cells(self, scale: str) -> list[dict[str, Any]]:
        """Arms of the toy, arms of the network."""
        size = SIZES.get(scale, SIZES["full"])
        toys = [{"model": "two-scale regression", "arm": a, "draws": DRAWS.get(scale, 8)} for a in ARMS]
        return toys + [{"model": "digits network", "arm": a, **size} for a in NET_ARMS]

    def compute(self, config: dict[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
        """Curves over time."""
        if config["model"] == "digits network":
            losses, errors = train(config["arm"], config["width"], config["samples"], config["steps"], seeds)
            return {"loss": (("seed", "check"), losses), "error": (("seed", "check"), errors)}
        found = [[toy_draw(config["arm"], 1000 * int(s) + d) for d in range(config["draws"])] for s in seeds]
        values = np.array(found, dtype=np.float32)  # seed, draw, kind, time
        return {
            kind: (("seed", "draw", "time"), values[:, :, k])
            for k, kind in enumerate(("risk", "missing", "noise"))
        }

    def analyse(self, results: claims.Results) -> dict[str, claims.Finding]:
        """Humps of mean curves; what the rise consists of; simulation against theory."""
        toys = {a: _pooled(results.one(model="two-scale regression", arm=a)) for a in ARMS}
        nets = {a: results.one(model="digits network", arm=a) for a in NET_ARMS}
        two = toys["two clocks"]
        own = {"draws with a hump of their own": intervals.proportion(hump(two["risk"]) > DELTA)}
        control = {a: mean_hump(toys[a]["risk"]) for a in ("one scale", "few strong")}
        a = claims.Finding(mean_hump(two["risk"]), control, own | _moves(two["risk"]))
        b = claims.Finding(mean_hump(toys["per-group steps"]["risk"]), invalid=_without(a))
        losses = {arm: cell["loss"] for arm, cell in nets.items()}
        numbers = _moves(losses["two clocks"]) | {
            "hump of the test error": mean_hump(nets["two clocks"]["error"]),
            "seeds with a hump of their own": intervals.proportion(hump(losses["two clocks"]) > DELTA),
        }
        c = claims.Finding(
            mean_hump(losses["two clocks"]), {"one scale": mean_hump(losses["one scale"])}, numbers
        )
        d = claims.Finding(mean_hump(losses["per-group steps"]), invalid=_without(c))
        quiet = toys["no label noise"]["risk"]
        return {
            "a": a, "b": b, "c": c, "d": d,
            "e": claims.Finding(noise_share(two["missing"], two["noise"])),
            "f": claims.Finding(mean_hump(quiet)),
            "g": claims.Finding(claims.Effect.exact(farthest(two))),
        }  # fmt: skip

    def draw(self, results: claims.Results, figure: Figure) -> None:
        """Curves over time: the toy with two clocks and with one, what the rise is made of, the network."""
        left, middle, right = figure.subplots(1, 3)
        times = TIMES[1:]
        styles = {"two clocks": ("C0", "-"), "per-group steps": ("C2", "--")}
        toys = {a: _pooled(results.one(model="two-scale regression", arm=a)) for a in styles}
        for arm, (color, style) in styles.items():
            left.plot(times, toys[arm]["risk"][:, 1:].T, color=color, lw=0.3, alpha=0.35)
            left.plot(times, toys[arm]["risk"][:, 1:].mean(0), style, color=color, lw=2, label=f"mean, {arm}")
        two = toys["two clocks"]
        missing, noise = (two[k][:, 1:].mean(0) for k in ("missing", "noise"))
        theory = missing + noise
        left.plot(times, theory, ":", color="k", lw=1.5, label="closed form")
        left.set(xscale="log", yscale="log", ylim=(0.04, 90), title="two-scale regression")
        left.set(xlabel="training time (1/variance)", ylabel="excess risk (ℓ)")
        left.set_yticks([0.1, 1, 10], ["0.1", "1", "10"])
        left.legend(loc="upper left", borderaxespad=0.1)
        middle.plot(times, theory, "-", color="C0", lw=2, label="excess risk")
        middle.plot(times, missing, "--", color="C1", lw=1.8, label="signal not learnt yet")
        middle.plot(times, noise, ":", color="C3", lw=2, label="fitted label noise")
        middle.set(xscale="log", ylim=(0, 1.6 * theory.max()), title="what the rise is made of")
        middle.set(xlabel="training time (1/variance)", ylabel="excess risk (ℓ)")
        middle.legend(loc="upper right", borderaxespad=0.1)
        highest = 0.0
        for arm, (color, style) in (styles | {"one scale": ("C3", ":")}).items():
            cell = results.one(model="digits network", arm=arm)
            steps = net.checkpoints(int(cell["steps"]), CHECKS)[1:]
            right.plot(steps, cell["loss"][:, 1:].T, color=color, lw=0.4, alpha=0.5)
            right.plot(steps, cell["loss"][:, 1:].mean(0), style, color=color, lw=2, label=f"mean, {arm}")
            highest = max(highest, float(cell["loss"][:, 1:].max()))
        width = results.where(model="digits network")[0]["width"]
        right.set(xscale="log", ylim=(0, 1.5 * highest), title=f"digits network 64-{width}-10")
        right.set(xlabel="steps", ylabel="test loss (ℓ)")
        right.legend(loc="upper right", borderaxespad=0.1)


def toy_draw(arm: str, seed: int) -> np.ndarray:
    """Excess risk of one draw over time, and the closed form's two parts for its inputs, shape (3, times)."""
    toy = TwoScaleRegression.make(seed=seed, **ARMS[arm])
    beta, targets = toy.draw_problem(torch.Generator().manual_seed(seed + 500_000), 1)
    risk = [float((toy.population[:, None] * (toy.solution(targets, t) - beta) ** 2).sum()) for t in TIMES]
    return np.array([risk, *np.array([toy.parts(t) for t in TIMES]).T])


def scales(arm: str) -> torch.Tensor:
    """Factor of each pixel: the right half of the picture is slow."""
    found = torch.ones(8, 8)
    if arm != "one scale":
        found[:, 4:] = SLOW
    return found.reshape(-1)


def train(
    arm: str, width: int, samples: int, steps: int, seeds: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Test losses and errors along the training.

    A step size 1/scale² times as large for the weights of a slow pixel is the same as training on the pixel as it is,
    from weights that are smaller by its scale.
    """
    scale = scales(arm)
    equal = arm == "per-group steps"
    data = net.NoisyDigits.draw(seeds, samples, NOISE, "squared error", None if equal else scale)
    options: dict[str, Any] = {"optimizer": "momentum", "momentum": MOMENTUM, "lr": STEP}
    if equal:
        options["initial"] = [_shrunk(int(seed), width, scale) for seed in seeds]
    nets = data.train(seeds, width, "squared error", **options)
    return data.follow(nets, steps, CHECKS)


def _shrunk(seed: int, width: int, scale: torch.Tensor) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    state = net.network(width).state_dict()
    return state | {"0.weight": state["0.weight"] * scale}


def hump(curves: np.ndarray) -> np.ndarray:
    """Smaller of rise and second fall (ln) after a first fall, the largest such along the curve; 0 if there is none.

    Args:
        curves: Positive, shape (..., times).
    """
    logs = np.log(curves)
    before = np.minimum.accumulate(logs, -1)
    after = np.minimum.accumulate(logs[..., ::-1], -1)[..., ::-1]
    moves = np.minimum(logs - before, logs - after)
    return np.where(logs[..., :1] - before > FALL, moves, 0.0).max(-1)


def mean_hump(curves: np.ndarray) -> claims.Effect:
    """Hump of the mean curve over draws, shape (draws, times)."""
    return intervals.bootstrap(lambda c: hump(c.mean(1)), curves, vectorised=True)


def noise_share(missing: np.ndarray, noise: np.ndarray) -> claims.Effect:
    """Share of fitted noise in the rise of the mean risk from its first minimum to the top of the hump."""
    low, high = largest_rise(np.log((missing + noise).mean(0)))

    def share(m: np.ndarray, n: np.ndarray) -> np.ndarray:
        fitted = (n[:, :, high] - n[:, :, low]).mean(1)
        with np.errstate(invalid="ignore", divide="ignore"):  # without a rise there is no share
            return fitted / (fitted + (m[:, :, high] - m[:, :, low]).mean(1))

    return intervals.bootstrap(share, missing, noise, vectorised=True)


def farthest(cell: Mapping[str, np.ndarray]) -> float:
    """Largest distance of the mean of simulated risks from that of their closed forms, in standard errors."""
    gap = cell["risk"] - cell["missing"] - cell["noise"]
    return float((np.abs(gap.mean(0)) / (gap.std(0, ddof=1) / math.sqrt(len(gap)))).max())


def _moves(curves: np.ndarray) -> dict[str, claims.Effect]:
    """Fall, largest rise and second fall of the mean curve, at places that are fixed on all draws."""
    low, high = largest_rise(np.log(curves.mean(0)))
    ends = {"first fall": (0, low), "rise": (high, low), "second fall": (high, -1)}
    return {
        f"{name} (ln)": intervals.bootstrap(
            lambda c, i=i, j=j: np.log(c[:, :, i].mean(1) / c[:, :, j].mean(1)), curves, vectorised=True
        )
        for name, (i, j) in ends.items()
    }


def _without(finding: claims.Finding) -> str:
    """Why there is nothing to remove; empty if there is."""
    (effect,) = finding.effects.values()
    return "" if effect.low > DELTA else "there is no hump that could be removed"


def _pooled(cell: claims.Cell) -> dict[str, np.ndarray]:
    """Draws of all seeds in one row, in double precision."""
    return {k: a.reshape(-1, a.shape[-1]).astype(float) for k, a in cell.arrays.items()}


CLAIM = DoubleDescentEpoch

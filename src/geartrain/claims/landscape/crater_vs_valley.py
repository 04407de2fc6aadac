r"""Crater against valley: a stepwise path makes the basin of a structure larger, and nothing local can tell.

**Question** Take a structure that needs k things to be right. With a valley (each step pays once those before it
are made) and without one: how much more of the space of starts ends in it, how does that grow with k, and can
anything seen at the minimum tell?

**Protocol** (a) The toy crater-valley, k = 2, 4, 6, 8, all three kinds, uniform starts (as many as give about 400
arrivals), gradient flow. (b) Its matched form, k = 4, at random points of the shared neighbourhood and at the
bottom: gradient, curvatures, trace, learning coefficient. (c) Two-layer ReLU networks of 2k units on all points of
2k - 1 bits (k of them x, the others z), full-batch gradient descent, step size 0.2, 8,000 steps, 8 starts for each
of 8 seeds, k = 2 to 5. The structure is the parity of x₁...x_k: it is there when the network's coefficient is nine
tenths. Crater: the target is that parity alone. Valley: the staircase x₁ + x₁x₂ + ... + x₁···x_k. (d) The same with
one final function and one set of global minima: the target is the parity in every arm, but the points have unequal
weights, 1 + 0.8 times the mean of χ_{j+1..k} (j < k), so that under the weights the parity correlates with each
step of the staircase. (f) Around the same solutions, k = 3: perturb (by noise as large as the weights) and retrain
under the weights of each arm; distance at which the loss reaches half of that of 0, along random directions.

**Control** (a) a separable loss, where each coordinate pays by itself: volume 1 for every k. (c) as many
lower-order terms, but of z. (d) weights with the very same values that correlate the parity with steps in z.

**Pitfalls** (a) and (b) hold by construction and only show that the instruments work; what is said of networks
rests on (c) and (d). On all points of a small cube nothing is a true needle: a higher-order term has a small slope
everywhere, so reach depends on the budget, and the shares at a quarter of it stand beside. A sum of several terms
asks more of the same units, which can only harm the valley; (d) has no such cost. Mean log radii of random
directions say little about volume, which a few long directions carry: both the mean and the largest are given.

**Literature** Chiang et al. 2023, ICLR (Loss landscapes are all you need: volume decides generalisation); Huang et
al. 2019, arXiv 1906.03291 (basin volumes by rays); Abbe et al. 2022, arXiv 2202.08658 (staircases are learnt in
linear time); Daniely, Malach 2020, arXiv 2002.07400 (parities become learnable where the distribution of the inputs
gives their parts a signal).

**What would change our mind** Networks that end in the structure about as often without the staircase as with it.

Ledger: 1.6, 1.9, 1.10, 1.25
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from geartrain import claims
from geartrain.claims import intervals
from geartrain.instruments import hessian_spectrum, hessian_trace, volume_scaling
from geartrain.zoo.landscapes._bumps import bump, descend
from geartrain.zoo.landscapes.crater_valley import KINDS, CraterValley

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CRATER, VALLEY, OTHER = "crater", "valley", "irrelevant terms"
TILTED, TILTED_OTHER = "weighted valley", "irrelevant weights"
ARMS = (CRATER, VALLEY, OTHER, TILTED, TILTED_OTHER)
_LN2 = math.log(2)
_TILT, _THERE, _RATE, _LOOK, _BIAS = 0.8, 0.9, 0.2, 20, 0.5
_ARRIVALS, _EARLY = 50, 4
_SHARE = {"needle": 1.0, "half": 0.5, "staircase": 0.0}


class CraterVsValley(claims.Claim):
    """Basins with and without a way in."""

    title: ClassVar = "A valley makes the basin of a structure exponentially larger than an isolated crater's"
    statement: ClassVar = (
        "In small networks as in the plane, a structure that can be built step by step is reached from at least "
        "twice as many starts as one that pays only when it is complete."
    )
    source: ClassVar = claims.Source(
        "001_7bf7b0974d4946e6.txt",
        (
            "the crater with a valley descending into it will have a massively larger drainage basin",
            "the drainage basin of a 'k-parameter structure' with no valley descending into it will be "
            "exponentially smaller than that of eg a 'k-parameter structure' with 'a k/2-parameter valley' "
            "descending into it",
        ),
    )
    ledger: ClassVar = ("1.6", "1.9", "1.10", "1.25")
    changed: ClassVar = (
        "'With and without lower-order terms, same final function' cannot be had in one target, so it became two "
        "parts: (c) lower-order terms in the target, and (d) the same target with weighted points, which has "
        "them under the weights. Pilots with seeds from 1000 fixed width 2k, step size, budget and k up to 5. "
        "They showed that irrelevant terms harm, so the controls' band has no lower end: harm is no larger "
        "basin. They also showed that with 1,000 to 4,000 steps the valley leads because it is faster; the "
        "budget was set to 8,000, so that reach is a matter of basins rather than of time, and the shares at a "
        "quarter of it are given. How the ratio grows with k is a side question (e). (a) takes as many starts as "
        "give about 400 arrivals instead of 20,000, of which the needle with k = 8 would catch four. "
        "Perturbation and radii are taken at k = 3, where the crater finds solutions too."
    )
    minutes: ClassVar = 2.0
    instruments: ClassVar = ("hessian_spectrum", "hessian_trace", "volume_scaling")
    scope: ClassVar = (
        "The toy crater-valley; two-layer ReLU networks of 2k units on the whole cube of 2k - 1 bits, parities "
        "of k = 2 to 5 of them, half squared error, full-batch gradient descent with step size 0.2 from uniform "
        "starts, 8,000 steps."
    )
    parts: ClassVar = {
        "a": claims.Part(
            "Toy: slope of ln(basin volume) on k over ln(R/r), less what was foretold (-1, -½, 0); control: "
            "separable loss",
            claims.Every(claims.within(-0.05, 0.05, control=(-0.05, 0.05), same_refutes=False)),
            bears=False,
        ),
        "b": claims.Part(
            "Toy, matched form: largest relative difference between the kinds' gradient, curvatures, trace and "
            "learning coefficient",
            claims.below(0.01),
            bears=False,
        ),
        "c": claims.Part(
            "Networks, k = 5: ln of the share of starts that reach the structure with the staircase in the "
            "target over that without; control: as many irrelevant terms",
            claims.above(_LN2, control=(-math.inf, _LN2)),
            axis="ln(reach with / without valley)",
        ),
        "d": claims.Part(
            "Networks, k = 5, the same function in all arms: ln of the share with the staircase under the "
            "weights over that with equal weights; control: weights that favour irrelevant steps",
            claims.above(_LN2, control=(-math.inf, _LN2)),
            axis="ln(reach with / without valley)",
        ),
        "e": claims.Part(
            "Growth of the ratios of (c) and (d): slope of their ln on k (exponential with at least √2 a bit)",
            claims.Every(claims.above(_LN2 / 2, control=None)),
            bears=False,
            axis="slope of ln(reach ratio) on k (1/bit)",
        ),
        "f": claims.Part(
            "Networks, k = 3: ln of the share of perturbed solutions that return under the valley's weights over "
            "that under equal weights; control: irrelevant weights",
            claims.above(_LN2, control=(-math.inf, _LN2)),
            bears=False,
            axis="ln(return with / without valley)",
        ),
    }

    def cells(self, scale: str) -> list[dict[str, Any]]:
        """The toy, its neighbourhood, the networks for each k and arm, the solutions' surroundings."""
        sizes = {"test": (2, 4), "quick": (2, 4, 6)}.get(scale, (2, 4, 6, 8))
        bits = {"test": (2, 3), "quick": (2, 3, 4)}.get(scale, (2, 3, 4, 5))
        steps, starts = (200, 4) if scale == "test" else (8000, 8)
        return [
            *({"part": "toy", "k": k} for k in sizes),
            {"part": "near", "k": 2 if scale == "test" else 4, "rays": 8 if scale == "test" else 24},
            *(
                {"part": "nets", "k": k, "arm": arm, "starts": starts, "steps": steps}
                for k in bits
                for arm in ARMS
            ),
            {"part": "around", "k": bits[1], "starts": starts, "steps": max(steps // 2, 400)},
        ]

    def compute(self, config: dict[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
        """Shares of starts, local measurements, steps until the structure is there (-1: never)."""
        torch.set_num_threads(1)
        settings = dict(config)
        unit = {"toy": _toy, "near": _near, "nets": _nets, "around": _around}[settings.pop("part")]
        return unit(seeds=seeds, **settings)

    def analyse(self, results: claims.Results) -> dict[str, claims.Finding]:
        """Slopes of volumes; differences nearby; ratios of reach, bootstrapped over seeds."""
        near = results.where(part="near")[0]
        last = max(int(c["k"]) for c in results.where(part="nets"))
        reach = {
            f"k = {c['k']}, {c['arm']}": intervals.mean((c["time"] >= 0).mean(1))
            for c in results.where(part="nets")
        }
        early = {
            f"k = {last}, {arm}, at a quarter of the budget": intervals.mean(
                _early(_net(results, last, arm)).mean(1)
            )
            for arm in ARMS
        }
        growth = {name: _growth(results, arm) for name, arm in (("terms", VALLEY), ("weights", TILTED))}
        return {
            "a": _volumes(results),
            "b": claims.Finding(claims.Effect.exact(float(near["apart"].max())), numbers=_basins(results)),
            "c": claims.Finding(
                _ratio(results, last, VALLEY), {OTHER: _ratio(results, last, OTHER)}, reach | early
            ),
            "d": claims.Finding(
                _ratio(results, last, TILTED), {TILTED_OTHER: _ratio(results, last, TILTED_OTHER)}
            ),
            "e": claims.Finding(growth),
            "f": _returns(results.where(part="around")[0]),
        }

    def draw(self, results: claims.Results, figure: Figure) -> None:
        """Volumes of the toy, reach of the networks with added terms, and with weighted points."""
        axes = figure.subplots(1, 3)
        cells = results.where(part="toy")
        k = np.array([c["k"] for c in cells])
        toy = CraterValley()
        for kind, colour, mark in zip(KINDS, ("tab:orange", "tab:blue", "0.0"), "Dso", strict=True):
            axes[0].semilogy(
                k, [toy.of_kind(kind).r ** _gated(kind, int(n)) for n in k], "--", color=colour, lw=1
            )
            for c in cells:
                axes[0].semilogy(
                    c["k"] + np.linspace(-0.2, 0.2, len(c[kind])), c[kind], mark, color=colour, ms=3, mew=0
                )
            axes[0].plot([], [], mark, color=colour, ms=4, label=kind)
        axes[0].set(xlabel="coordinates k", ylabel="share of starts that arrive", xticks=k)
        axes[0].legend(loc="lower left")
        axes[0].set_title("a  toy (dashed: exact)", loc="left")
        looks = ((CRATER, "tab:orange", "D", -0.12), (None, "0.0", "o", 0.0), (OTHER, "0.6", "^", 0.12))
        bits = sorted({int(c["k"]) for c in results.where(part="nets")})
        for ax, arms, title in (
            (axes[1], (CRATER, VALLEY, OTHER), "c  terms in the target"),
            (axes[2], (CRATER, TILTED, TILTED_OTHER), "d  same target, weighted points"),
        ):
            for arm, (_, colour, mark, shift) in zip(arms, looks, strict=True):
                shares = np.stack([(_net(results, n, arm)["time"] >= 0).mean(1) for n in bits])
                ax.plot(np.array(bits) + shift, shares.mean(1), color=colour, lw=1.5, label=arm)
                at = np.repeat(np.array(bits) + shift, shares.shape[1])
                ax.plot(at, shares.ravel(), mark, color=colour, ms=3, alpha=0.5, mew=0)
            ax.set(
                xlabel="bits of the structure k", xticks=bits, ylim=(-0.04, 1.36), yticks=np.linspace(0, 1, 6)
            )
            ax.legend(loc="upper right", labelspacing=0.25)
            ax.set_title(title, loc="left")
        axes[1].set_ylabel("share of starts that arrive")


# ---------------------------------------------------------------------- the toy


def _toy(*, seeds: Sequence[int], k: int) -> dict[str, Any]:
    """Share of uniform starts that end at the origin, for each kind and for the separable loss."""
    found: dict[str, list[float]] = {kind: [] for kind in (*KINDS, "separable")}
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        for kind in KINDS:
            toy = CraterValley(kind=kind, k=k)
            starts = toy.drawn(generator, max(500, math.ceil(_ARRIVALS / toy.reach)))
            found[kind].append(float(toy.arrived(starts).double().mean()))
        starts = 2 * torch.rand(100, k, generator=generator, dtype=torch.float64) - 1
        ends = descend(
            lambda x: -bump(x, 1.0).sum(-1), starts, math.pi**2 / 2, lambda x: x.abs().amax(1) < 0.01
        )  # fmt: skip
        found["separable"].append(float((ends.abs().amax(1) < 0.05).double().mean()))
    return {kind: (("seed",), np.array(values)) for kind, values in found.items()}


def _near(*, seeds: Sequence[int], k: int, rays: int) -> dict[str, Any]:
    """Largest relative difference of what is seen of the three kinds, at a point near the bottom and at the bottom."""
    apart = []
    for seed in seeds:
        draw = np.random.default_rng(seed).uniform(-0.8, 0.8, k)
        seen = []
        for kind in KINDS:
            toy = CraterValley(kind=kind, k=k)
            there = toy.at(toy.rho * draw)
            generator = torch.Generator().manual_seed(seed)
            scaling = volume_scaling(
                toy.bottom(), num_directions=rays, num_radii=16, radius=0.05 * toy.rho, generator=generator
            )
            curvatures = np.ravel(hessian_spectrum(there, tol=1e-8, confirm=True).value)
            seen.append([there.gradient().numpy(), curvatures, hessian_trace(there).value, scaling.value])
        for quantity in zip(*seen, strict=True):
            values = np.stack([np.ravel(q) for q in quantity])
            apart.append(float(np.abs(values - values[0]).max() / np.abs(values[0]).max()))
    return {"apart": (("seed", "quantity"), np.array(apart).reshape(len(seeds), -1))}


def _gated(kind: str, k: int) -> int:
    return {"needle": k, "half": k // 2, "staircase": 1}[kind]


# ---------------------------------------------------------------------- the networks


@dataclass
class _Task:
    """Points of the cube, what is asked for there, and with which weights (of sum 1)."""

    x: Tensor
    top: Tensor
    target: Tensor
    weight: Tensor


def _task(k: int, arm: str) -> _Task:
    """The parity of the first k of 2k - 1 bits, alone or with lower-order terms, in the target or in the weights."""
    x = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=2 * k - 1)))
    top = x[:, :k].prod(1)
    first = 0 if arm in (VALLEY, TILTED) else k
    steps = torch.stack([x[:, first : first + j].prod(1) for j in range(1, k)])
    target = top + steps.sum(0) if arm in (VALLEY, OTHER) else top
    weight = 1 + _TILT * (steps * top).mean(0) if arm in (TILTED, TILTED_OTHER) else torch.ones(len(x))
    return _Task(x, top, target, weight / len(x))


Weights = tuple[Tensor, Tensor, Tensor, Tensor]
"""W (nets, units, inputs), b (nets, 1, units), v (nets, 1, units), c (nets, 1, 1)."""


def _fresh(seeds: Sequence[int], starts: int, k: int) -> Weights:
    """Uniform starts: within ±1/√fan-in, biases ±½."""
    d, units = 2 * k - 1, 2 * k
    draws = [np.random.default_rng([s, k]).uniform(-1, 1, (starts, units, d + 2)) for s in seeds]
    u = torch.from_numpy(np.concatenate(draws)).float()
    first, bias, out = (
        u[..., :d] / math.sqrt(d),
        _BIAS * u[:, None, :, d],
        u[:, None, :, d + 1] / math.sqrt(units),
    )
    return first, bias.clone(), out.clone(), torch.zeros(len(u), 1, 1)


def _outputs(weights: Weights, x: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden units, shape (nets, points, units), and outputs, shape (nets, points)."""
    w, b, v, c = weights
    hidden = torch.baddbmm(b, x.expand(len(w), *x.shape), w.transpose(1, 2)).relu_()
    return hidden, torch.baddbmm(c, hidden, v.transpose(1, 2))[..., 0]


def _descend(weights: Weights, task: _Task, steps: int, *, stop: bool = True) -> tuple[np.ndarray, Weights]:
    """Gradient descent on ½ Σ weight (f - target)²; when the structure was there (-1: never), and where it ended."""
    times = np.full(len(weights[0]), -1)
    now, left = _copied(weights, torch.ones(len(times), dtype=torch.bool)), torch.arange(len(times))
    x = task.x
    for step in range(steps + 1):
        hidden, f = _outputs(now, x)
        if step % _LOOK == 0:
            there = _is_there(f, task).numpy()
            new = left.numpy()[there]
            times[new] = np.where(times[new] < 0, step, times[new])
            if stop and there.any():
                kept = torch.from_numpy(~there)
                now, left = _copied(now, kept), left[kept]
                hidden, f = hidden[kept], f[kept]
            if not len(left):
                break
        w, b, v, c = now
        back = ((f - task.target) * task.weight)[..., None]
        below = torch.bmm(back, v).mul_(hidden > 0)
        w.baddbmm_(below.transpose(1, 2), x.expand(len(w), *x.shape), alpha=-_RATE)
        b.sub_(below.sum(1, keepdim=True), alpha=_RATE)
        v.baddbmm_(back.transpose(1, 2), hidden, alpha=-_RATE)
        c.sub_(back.sum(1, keepdim=True), alpha=_RATE)
    return times, now


def _copied(weights: Weights, which: Tensor) -> Weights:
    w, b, v, c = weights
    return w[which], b[which], v[which], c[which]


def _is_there(f: Tensor, task: _Task) -> Tensor:
    """Whether the coefficient of the parity over all points is nine tenths, and the loss below that of 0."""
    better = ((f - task.target) ** 2).mean(1) < (task.target**2).mean()
    return ((f * task.top).mean(1) >= _THERE) & better


def _nets(*, seeds: Sequence[int], k: int, arm: str, starts: int, steps: int) -> dict[str, Any]:
    """Steps until the structure is there, for each start."""
    times, _ = _descend(_fresh(seeds, starts, k), _task(k, arm), steps)
    return {"time": (("seed", "start"), times.reshape(len(seeds), starts).astype(np.int32))}


def _around(*, seeds: Sequence[int], k: int, starts: int, steps: int) -> dict[str, Any]:
    """From each seed's best solution: does it come back after noise, and how far does the loss stay low?"""
    _, ends = _descend(_fresh(seeds, starts, k), _task(k, CRATER), steps, stop=False)
    _, f = _outputs(ends, _task(k, CRATER).x)
    loss = ((f - _task(k, CRATER).target) ** 2).mean(1).reshape(len(seeds), starts)
    chosen = torch.arange(len(seeds)) * starts + loss.argmin(1)
    flat = torch.cat([p[chosen].flatten(1) for p in ends], 1)
    draws = [np.random.default_rng([s, k, 1]).normal(size=(2 * starts, flat.shape[1])) for s in seeds]
    noise = torch.from_numpy(np.stack(draws)).float()
    noise = noise / noise.norm(dim=-1, keepdim=True) * flat.norm(dim=-1)[:, None, None]
    out: dict[str, Any] = {"loss": (("seed",), loss.min(1).values.numpy())}
    for arm in (CRATER, TILTED, TILTED_OTHER):
        task = _task(k, arm)
        times, _ = _descend(_unflat((flat[:, None] + noise).flatten(0, 1), ends), task, steps)
        out[f"back, {arm}"] = ("seed", "draw"), times.reshape(len(seeds), -1).astype(np.int32)
        radii = np.geomspace(0.02, 3, 60)
        reached = torch.full((len(seeds), 2 * starts), float(radii[-1]))
        for r in radii[::-1]:  # the smallest radius at which the loss is high is written last
            _, f = _outputs(_unflat((flat[:, None] + float(r) * noise).flatten(0, 1), ends), task.x)
            high = ((f - task.target) ** 2 @ task.weight).reshape(reached.shape) > 0.5
            reached[high] = float(r)
        out[f"radius, {arm}"] = ("seed", "draw"), reached.numpy()
    return out


def _unflat(flat: Tensor, like: Weights) -> Weights:
    parts = flat.split([p[0].numel() for p in like], 1)
    w, b, v, c = (part.reshape(-1, *p.shape[1:]) for part, p in zip(parts, like, strict=True))
    return w, b, v, c


# ---------------------------------------------------------------------- what the numbers mean


def _volumes(results: claims.Results) -> claims.Finding:
    cells = results.where(part="toy")
    k, scale = np.array([float(c["k"]) for c in cells]), -math.log(CraterValley().r)
    weight = (k - k.mean()) / ((k - k.mean()) ** 2).sum()

    def slope(values: np.ndarray) -> np.ndarray:
        # A resample without any arrival has half of one in all of its starts.
        return np.log(np.maximum(values.mean(1), 1e-6)) @ weight / scale

    def fitted(kind: str) -> claims.Effect:
        return intervals.bootstrap(slope, np.stack([c[kind] for c in cells], 1), vectorised=True)

    effect = {}
    for kind in KINDS:
        e, share = fitted(kind), _SHARE[kind]
        effect[kind] = claims.Effect(e.value + share, e.low + share, e.high + share, "1", e.count, e.method)
    return claims.Finding(effect, {"separable": fitted("separable")})


def _basins(results: claims.Results) -> dict[str, claims.Effect]:
    return {
        f"k = {c['k']}: ln(staircase's basin / needle's)": intervals.bootstrap(
            lambda a, b: np.log(a.mean(1) / np.maximum(b.mean(1), 1e-6)),
            c["staircase"],
            c["needle"],
            vectorised=True,
        )
        for c in results.where(part="toy")
    }


def _net(results: claims.Results, k: int, arm: str) -> claims.Cell:
    return results.one(part="nets", k=k, arm=arm)


def _early(cell: claims.Cell) -> np.ndarray:
    return (cell["time"] >= 0) & (cell["time"] <= cell["steps"] / _EARLY)


def _log_share(arrived: np.ndarray) -> np.ndarray:
    """Log of the share of all draws of all seeds, half a draw added: none arrived is not minus infinity."""
    draws = arrived.shape[1] * arrived.shape[2]
    return np.log((arrived.sum((1, 2)) + 0.5) / (draws + 1))


def _log_ratio(first: np.ndarray, second: np.ndarray) -> claims.Effect:
    """Log of the ratio of shares, paired over seeds."""
    return intervals.bootstrap(lambda a, b: _log_share(a) - _log_share(b), first, second, vectorised=True)


def _ratio(results: claims.Results, k: int, arm: str) -> claims.Effect:
    return _log_ratio(_net(results, k, arm)["time"] >= 0, _net(results, k, CRATER)["time"] >= 0)


def _reached(
    results: claims.Results, k: int, arm: str, other: str, numbers: dict[str, claims.Effect]
) -> claims.Finding:
    """Reach against the crater's; also of the arm against its control, and of both at a quarter of the budget."""
    valley, irrelevant, crater = (_net(results, k, a) for a in (arm, other, CRATER))
    numbers = numbers | {
        f"ln({arm} / {other})": _log_ratio(valley["time"] >= 0, irrelevant["time"] >= 0),
        f"ln({arm} / crater) at a quarter of the budget": _log_ratio(_early(valley), _early(crater)),
    }
    return claims.Finding(_ratio(results, k, arm), {other: _ratio(results, k, other)}, numbers)


def _growth(results: claims.Results, arm: str) -> claims.Effect:
    """Slope of ln(reach ratio) on k."""
    k = sorted({int(c["k"]) for c in results.where(part="nets")})
    weight = (np.array(k) - np.mean(k)) / ((np.array(k) - np.mean(k)) ** 2).sum()
    first, second = (np.stack([_net(results, n, a)["time"] >= 0 for n in k], 2) for a in (arm, CRATER))

    def slope(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        ratios = [_log_share(a[..., i]) - _log_share(b[..., i]) for i in range(len(k))]
        return np.stack(ratios, -1) @ weight

    return intervals.bootstrap(slope, first, second, vectorised=True)


def _returns(cell: claims.Cell) -> claims.Finding:
    back = {arm: cell[f"back, {arm}"] >= 0 for arm in (CRATER, TILTED, TILTED_OTHER)}
    radius = {arm: cell[f"radius, {arm}"].astype(float) for arm in back}
    numbers = {f"{arm}: share that returns": intervals.mean(b.mean(1)) for arm, b in back.items()}
    numbers |= {
        f"{arm}: mean ln(radius / size of the weights)": intervals.mean(np.log(r).mean(1))
        for arm, r in radius.items()
    }
    numbers |= {f"{arm}: longest radius": intervals.mean(r.max(1)) for arm, r in radius.items()}
    numbers["loss of the solutions"] = intervals.mean(cell["loss"])
    control = {TILTED_OTHER: _log_ratio(back[TILTED_OTHER], back[CRATER])}
    return claims.Finding(_log_ratio(back[TILTED], back[CRATER]), control, numbers)


CLAIM = CraterVsValley

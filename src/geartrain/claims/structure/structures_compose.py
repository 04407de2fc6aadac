"""Structures compose: circuits that were learnt for their own sake speed up the structure that needs both of them.

**Question** Do separately learnt parts speed up the structure that needs both, and only if they are the right
parts? The structure is χ_AB, a parity of two sets of inputs; its parts are χ_A and χ_B. "Learnt"
means that the network's Fourier coefficient at χ_AB is half of the target's and the network does better than
saying 0.

**Protocol** ReLU networks, plain SGD on fresh points of the cube, batches of 64, ½ squared error, 8 seeds; the arms
of a seed share their start and points. (a) The five numbers of the toy composition-ode, ε from 0.2 to 0.02, the
flow of all five against the reduced equations. (b) As in the toy parity-composition: width 200, mean-field step
sizes, 30 and 60 inputs, targets χ_A+χ_B+χ_AB, χ_A+χ_AB, χ_C+χ_AB, χ_AB, and √3 χ_AB, which has the first one's
size. (c) As in the toy circuit-transplant: networks of 64 + 64 units learn χ_A and χ_B separately; their first
layers, side by side and frozen, get fresh upper layers that are trained on χ_AB alone. Instead of them: first
layers that learnt two other parities, one right and one wrong one, or nothing. Parts of 2 bits (30 inputs) and of 3
(20 inputs). (d) A network of width 200 learns χ_A+χ_B to nine tenths; then χ_AB is asked for as well, with 10 and
30 inputs. Beside it: networks that know one part, an unrelated pair or nothing, and the same network with its first
layer frozen at the switch.

**Control** (b) the irrelevant scaffold C: just as much to learn, of the wrong coordinates. (c) circuits for the
wrong parities: trained features, of another thing. (d) a network that learnt χ_C+χ_D first, against one that learns
the same sum from the start: does having learnt anything help?

**Pitfalls** A target with more terms has a larger gradient, so a scaffold might help by its size: hence √3 χ_AB,
alone and of the same size. Trained features have another scale than random ones: hence wrong circuits beside random
ones. Runs that do not learn within the budget count as having taken the whole budget, which makes slow arms look
faster than they are, never the fast ones. A scaffold is not free: what it costs to learn the parts is counted in
side questions.

**Literature** Abbe, Boix-Adserà, Misiakiewicz 2022, arXiv 2202.08658 (the merged staircase: which sums of parities
a two-layer network learns in linear time) and 2023, arXiv 2302.11055 (leap: χ_A+χ_B+χ_AB has leap 2, χ_AB and
χ_C+χ_AB have leap 4). Saxe, McClelland, Ganguli 2014, arXiv 1312.6120 (products grow like a).

**What would change our mind** Parts that save less than half of the time, or wrong parts that save as much as right
ones.

Ledger: 1.14, 1.15, 1.16
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from scipy.integrate import solve_ivp

from geartrain import claims
from geartrain.claims import intervals
from geartrain.claims.structure import _parity
from geartrain.claims.structure._parity import DIVERGED, Nets, Terms
from geartrain.zoo.landscapes.composition_ode import PAYOFFS, CompositionOde
from geartrain.zoo.landscapes.parity_composition import TARGETS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

A, B, C, D, AB = (0, 1), (2, 3), (4, 5), (6, 7), (0, 1, 2, 3)
_LN2, _QUIET = math.log(2), (-math.inf, math.log(1.5))
_SCALED = "√3·AB"
_HIDDEN, _RATE = 64, 0.3
_AGREED = claims.above(_LN2, control=_QUIET)


class StructuresCompose(claims.Claim):
    """Parts learnt before, or beside, the whole."""

    title: ClassVar = "Structures that were learnt separately combine into larger ones"
    statement: ClassVar = (
        "Circuits that are learnt for their own sake at least halve the time to learn the structure that needs "
        "both of them, and circuits of the wrong parts do not."
    )
    source: ClassVar = claims.Source(
        "001_7bf7b0974d4946e6.txt",
        (
            "maybe it's possible to have structures which were initially independent be combined into larger "
            "structures?",
            "identifying and very clearly understanding any toy example where this shows up would plausibly be "
            "better than anything else published in interp this year",
        ),
    )
    ledger: ClassVar = ("1.14", "1.15", "1.16")
    changed: ClassVar = (
        "Pilots with seeds from 1000 fixed the step size of the deep networks (0.3), the budgets, and the two "
        "changes of rule. The controls' band has lost its lower end: in the pilots wrong parts harmed, and harm "
        "is no speed-up. The pure-scale arm √3·χ_AB, first meant as an alternative to normalising, is now a "
        "second thing to be beaten, and so are wrong circuits beside random ones in (c). (b) has 60 inputs "
        "beside 30. For (d) no rule had been written down: it got that of (b) and (c). Cosines across the switch "
        "are reported, but not judged: weights that hardly move are no evidence of reuse; instead a frozen first "
        "layer was added."
    )
    minutes: ClassVar = 1.0
    scope: ClassVar = (
        "Parities of 4 and 6 of 10 to 60 inputs of ±1; ReLU networks with one hidden layer of 200 units "
        "(mean-field step sizes 0.05·√200 and 0.05/√200) or two of 64 (step size 0.3); SGD without momentum on "
        "fresh batches of 64, half squared error, budgets of 20,000 to 30,000 steps."
    )
    parts: ClassVar = {
        "a": claims.Part(
            "Five-number model: largest relative difference between the times of the full flow and of the "
            "reduced equations",
            claims.below(0.02),
            bears=False,
        ),
        "b": claims.Part(
            "Useful parts in the target: ln of the time of χ_AB without them over its time with them; control: "
            "with the irrelevant part C",
            claims.Every(_AGREED),
            axis="ln(time without / time with the parts)",
        ),
        "c": claims.Part(
            "Transplanted frozen circuits: ln of the time with random or wrong ones over the time with the right "
            "ones; control: random over wrong",
            claims.Every(_AGREED),
            axis="ln(time / time with right circuits)",
        ),
        "d": claims.Part(
            "χ_AB asked of a network that knows χ_A+χ_B: ln of the time of a network that knows an unrelated "
            "pair, or nothing, over its time; control: does the unrelated pair help?",
            claims.Every(_AGREED),
            axis="ln(time / time after own pair)",
        ),
        "e": claims.Part(
            "The same with the time that the parts took: ln of the time of χ_AB alone (for c: of the whole "
            "network from scratch) over parts plus whole",
            claims.Every(claims.above(0.0, control=None)),
            bears=False,
            axis="ln(time at once / time of parts and whole)",
        ),
        "f": claims.Part(
            "Do the features that are there suffice? ln of the time with the first layer frozen at the switch of "
            "(d) over the time with it free",
            claims.Every(claims.below(_LN2)),
            bears=False,
            axis="ln(time frozen / time free)",
        ),
    }

    def cells(self, scale: str) -> list[dict[str, Any]]:
        """Starts of the five numbers; targets and inputs; parts of two and three bits; inputs of the switch."""
        full = scale != "test"
        starts = (0.2, 0.1, 0.05, 0.02) if full else (0.2, 0.1)
        inputs, budget, width = ((30, 60), 30_000, 200) if full else ((12,), 1_500, 64)
        targets = [*TARGETS, _SCALED]
        return [
            *({"part": "ode", "start": s} for s in starts),
            *(
                {"part": "targets", "d": d, "target": t, "width": width, "budget": budget}
                for d in inputs
                for t in targets
            ),
            *(
                {"part": "transplant", "bits": q, "d": d, "budget": 20_000 if full else 800}
                for q, d in (((2, 30), (3, 20)) if full else ((2, 10),))
            ),
            *(
                {"part": "continued", "d": d, "width": width, "budget": budget}
                for d in ((10, 30) if full else (10,))
            ),
        ]

    def compute(self, config: dict[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
        """Times in steps, -1 where the budget was not enough."""
        torch.set_num_threads(1)
        settings = dict(config)
        part = settings.pop("part")
        if part == "ode":
            return _flows(settings["start"], len(seeds))
        unit = {"targets": _with_target, "transplant": _transplanted, "continued": _continued}[part]
        return unit(seeds=seeds, **settings)

    def analyse(self, results: claims.Results) -> dict[str, claims.Finding]:
        """Log-ratios of median times, paired over seeds."""
        apart = [np.abs(c["full"] / c["reduced"] - 1).max() for c in results.where(part="ode")]
        ratios = {
            f"ε = {c['start']:g}: ln(none pays / both pay)": claims.Effect.exact(
                math.log(c["full"][0, 2] / c["full"][0, 0])
            )
            for c in results.where(part="ode")
        }
        switched = results.where(part="continued")
        found = {
            "a": claims.Finding(claims.Effect.exact(max(apart)), numbers=ratios),
            "b": self._targets(results),
            "c": self._transplants(results),
            "d": self._switches(results),
            "e": self._with_costs(results),
            "f": claims.Finding(
                {f"{c['d']} inputs": _slower(c, "frozen", "own") for c in switched},
                numbers={
                    f"{c['d']} inputs, frozen: learnt within the budget": _learnt(c["frozen"])
                    for c in switched
                },
            ),
        }
        lost = _lost(results)
        return {n: claims.Finding(f.effect, f.control, f.numbers, f.note, lost) for n, f in found.items()}

    def _targets(self, results: claims.Results) -> claims.Finding:
        effect, control, numbers = {}, {}, {}
        for d in _inputs(results):
            times = {t: _arm(results, d, t) for t in results.values("target")}
            for alone in ("AB", _SCALED):
                effect[f"{d} inputs, against {alone}"] = intervals.log_ratio(times[alone], times["A+B+AB"])
            control[f"{d} inputs, C in place of the parts"] = intervals.log_ratio(times["AB"], times["C+AB"])
            numbers[f"{d} inputs, one part only (A)"] = intervals.log_ratio(times["AB"], times["A+AB"])
        return claims.Finding(effect, control, numbers)

    def _transplants(self, results: claims.Results) -> claims.Finding:
        effect, control, numbers = {}, {}, {}
        for cell in results.where(part="transplant"):
            name = f"parts of {cell['bits']} bits"
            effect |= {f"{name}, {arm}": _slower(cell, arm, "right") for arm in ("random", "wrong")}
            control[f"{name}, wrong circuits"] = _slower(cell, "random", "wrong")
            numbers |= {f"{name}, {arm}": _slower(cell, arm, "right") for arm in ("half", "scratch")}
            numbers |= {f"{name}, {arm}: learnt within the budget": _learnt(cell[arm]) for arm in _ARMS}
        return claims.Finding(effect, control, numbers)

    def _switches(self, results: claims.Results) -> claims.Finding:
        effect, control, numbers = {}, {}, {}
        for cell in results.where(part="continued"):
            name = f"{cell['d']} inputs"
            effect[f"{name}, against an unrelated pair"] = _slower(cell, "unrelated", "own")
            effect[f"{name}, against χ_AB from the start"] = _slower(cell, "alone", "own")
            control[f"{name}, unrelated pair"] = _slower(cell, "unrelated_at_once", "unrelated")
            numbers[f"{name}, cosine of first-layer weights, start to switch"] = intervals.mean(
                cell["cosine_before"]
            )
            numbers[f"{name}, cosine, switch to end"] = intervals.mean(cell["cosine_own"])
            numbers[f"{name}, cosine, switch to end, unrelated pair"] = intervals.mean(
                cell["cosine_unrelated"]
            )
            numbers[f"{name}, one part learnt before"] = _slower(cell, "half", "own")
        return claims.Finding(effect, control, numbers)

    def _with_costs(self, results: claims.Results) -> claims.Finding:
        effect, numbers = {}, {}
        for cell in results.where(part="transplant"):
            whole = _capped(cell, "parts") + _capped(cell, "right")
            effect[f"transplanted, parts of {cell['bits']} bits"] = intervals.log_ratio(
                _capped(cell, "scratch"), whole
            )
        for cell in results.where(part="continued"):
            whole = _capped(cell, "before_own") + _capped(cell, "own")
            effect[f"continued, {cell['d']} inputs"] = intervals.log_ratio(_capped(cell, "alone"), whole)
            name = f"{cell['d']} inputs: all three terms at once over one after the other"
            numbers[name] = intervals.log_ratio(_capped(cell, "at_once"), whole)
        return claims.Finding(effect, numbers=numbers)

    def draw(self, results: claims.Results, figure: Figure) -> None:
        """Times of every seed in the three experiments."""
        axes = figure.subplots(1, 3, sharex=True)
        d = _inputs(results)
        shown = {"A+B+AB": "A + B + AB", "A+AB": "A + AB", "C+AB": "C + AB", "AB": "AB", _SCALED: "√3 AB"}
        arms = {told: {n: _arm(results, n, t) for n in d} for t, told in shown.items()}
        _draw_rows(axes[0], "b  terms of the target", arms, "{} inputs")
        named = {
            "right": "right",
            "half": "one right",
            "wrong": "wrong",
            "random": "random",
            "scratch": "none",
        }
        cells = results.where(part="transplant")
        arms = {told: {int(c["bits"]): _capped(c, arm) for c in cells} for arm, told in named.items()}
        _draw_rows(axes[1], "c  frozen circuits below", arms, "parts of {} bits")
        named = {
            "own": "A, B",
            "half": "A, C",
            "unrelated": "C, D",
            "alone": "nothing",
            "frozen": "A, B frozen",
        }
        cells = results.where(part="continued")
        arms = {told: {int(c["d"]): _capped(c, arm) for c in cells} for arm, told in named.items()}
        _draw_rows(axes[2], "d  known beforehand", arms, "{} inputs")
        axes[0].set_xlim(45, 45_000)


_ARMS = ("right", "wrong", "half", "random", "scratch")


def _flows(start: float, seeds: int) -> dict[str, Any]:
    """Time until c·ab = ½ for each pay-off: from the flow of all five numbers, and from the reduced equations."""
    full, reduced = [], []
    for payoff in PAYOFFS:
        toy = CompositionOde(payoff=payoff, start=start)
        flow = solve_ivp(
            lambda t, y, loss=toy.loss: -loss.gradient(y), (0, 30 + start**-3), [start] * 5, "LSODA",
            rtol=1e-7, atol=1e-12, events=lambda t, y: float(np.prod(y)) - 0.5,
        )  # fmt: skip
        full.append(float(flow.t_events[0][0]))
        reduced.append(float(toy.stages()[2]))
    return {
        name: (("seed", "payoff"), np.tile(v, (seeds, 1)))
        for name, v in (("full", full), ("reduced", reduced))
    }


def _terms(*sets: tuple[int, ...], scale: float = 1.0) -> Terms:
    return tuple((s, scale) for s in sets)


def _with_target(*, seeds: Sequence[int], d: int, target: str, width: int, budget: int) -> dict[str, Any]:
    """Learn a target from a fresh start; the time is that of χ_AB."""
    terms = _terms(AB, scale=math.sqrt(3)) if target == _SCALED else _terms(*TARGETS[target])
    nets = Nets.fresh((d, width, 1), seeds)
    found = _parity.train(nets, terms, seeds, d, rates=_parity.mean_field(width), budget=budget)
    return {"time": (("seed",), found.times[:, -1])}


def _transplanted(*, seeds: Sequence[int], bits: int, d: int, budget: int) -> dict[str, Any]:
    """Learn four parts; then χ_AB above the frozen first layers of two of them, and above random ones."""
    sets = [tuple(range(bits * i, bits * (i + 1))) for i in range(4)]
    whole, rates = _terms(sets[0] + sets[1]), (_RATE,) * 3
    sizes = (d, _HIDDEN, _HIDDEN, 1)

    def part(i: int) -> _parity.Learnt:
        nets = Nets.fresh(sizes, seeds, salt=i)
        return _parity.train(nets, _terms(sets[i]), seeds, d, rates=rates, budget=budget, salt=i, share=0.9)

    parts = [part(i) for i in range(4)]
    first = [p.nets.layers[0] for p in parts]
    random = [Nets.fresh(sizes, seeds, salt=i).layers[0] for i in (4, 5)]
    above = Nets.fresh((2 * _HIDDEN, _HIDDEN, 1), seeds, salt=6)
    below = {"right": first[:2], "wrong": first[2:], "half": [first[0], first[2]], "random": random}
    found = {
        arm: _parity.train(
            above, whole, seeds, d, rates=rates[:2], budget=budget, salt=6, below=_side_by_side(*layers)
        )
        for arm, layers in below.items()
    }
    scratch = Nets([*_side_by_side(*random).layers, *above.layers])
    found["scratch"] = _parity.train(scratch, whole, seeds, d, rates=rates, budget=budget, salt=6)
    learnt = np.array([p.last for p in parts[:2]])
    slower = np.where((learnt < 0).any(0), learnt.min(0), learnt.max(0))
    return {arm: (("seed",), f.last) for arm, f in found.items()} | {"parts": (("seed",), slower)}


def _side_by_side(*layers: tuple[torch.Tensor, torch.Tensor]) -> Nets:
    return Nets([(torch.cat([w for w, _ in layers], 1), torch.cat([b for _, b in layers], 2))])


def _continued(*, seeds: Sequence[int], d: int, width: int, budget: int) -> dict[str, Any]:
    """Learn a pair; then ask for χ_AB as well. Times count from the switch."""
    rates, fresh = _parity.mean_field(width), Nets.fresh((d, width, 1), seeds)

    def learn(
        nets: Nets, *sets: tuple[int, ...], salt: int = 1, share: float = 0.5, speed: float = 1.0
    ) -> _parity.Learnt:
        steps = (speed * rates[0], rates[1])
        return _parity.train(
            nets, _terms(*sets), seeds, d, rates=steps, budget=budget, salt=salt, share=share
        )

    out: dict[str, Any] = {}
    for arm, pair in (("own", (A, B)), ("half", (A, C)), ("unrelated", (C, D))):
        before = learn(fresh, *pair, salt=0, share=0.9)
        after = learn(before.nets, *pair, AB)
        out |= {f"before_{arm}": before.last, arm: after.times[:, -1]}
        out[f"cosine_{arm}"] = _cosine(before.nets, after.nets, before.nets)
        if arm == "own":
            out["cosine_before"] = _cosine(fresh, before.nets, before.nets)
            out["frozen"] = learn(before.nets, A, B, AB, speed=0.0).times[:, -1]
    out["alone"] = learn(fresh, AB).times[:, -1]
    out["at_once"] = learn(fresh, A, B, AB).times[:, -1]
    out["unrelated_at_once"] = learn(fresh, C, D, AB).times[:, -1]
    return {name: (("seed",), values) for name, values in out.items()}


def _cosine(first: Nets, second: Nets, weighing: Nets) -> np.ndarray:
    """Cosine of each unit's incoming weights in two networks, averaged with |outgoing|·|incoming| as weights."""
    one, other = first.layers[0][0], second.layers[0][0]
    share = weighing.layers[0][0].norm(dim=-1) * weighing.layers[1][0][:, 0].abs()
    cosine = torch.nn.functional.cosine_similarity(one, other, dim=-1)
    return ((cosine * share).sum(1) / share.sum(1)).numpy()


def _capped(cell: claims.Cell, arm: str) -> np.ndarray:
    """Times of an arm; what was not learnt took at least the budget."""
    times = cell[arm].astype(float)
    return np.where(times < 0, cell["budget"], times)


def _slower(cell: claims.Cell, slow: str, fast: str) -> claims.Effect:
    return intervals.log_ratio(_capped(cell, slow), _capped(cell, fast))


def _learnt(times: np.ndarray) -> claims.Effect:
    return intervals.proportion(times >= 0)


def _inputs(results: claims.Results) -> list[int]:
    return list(dict.fromkeys(int(c["d"]) for c in results.where(part="targets")))


def _arm(results: claims.Results, d: int, target: str) -> np.ndarray:
    return _capped(results.one(part="targets", d=d, target=target), "time")


def _lost(results: claims.Results) -> str:
    """Which training diverged."""
    names = [
        f"{cell.label}: {name}" for cell in results for name, a in cell.arrays.items()
        if a.dtype.kind == "i" and (a == DIVERGED).any()
    ]  # fmt: skip
    return f"diverged in {'; '.join(names)}" if names else ""


def _draw_rows(ax: Axes, title: str, arms: Mapping[str, Mapping[int, np.ndarray]], label: str) -> None:
    """Dots for seeds, a bar for the median; one row for each arm."""
    marks = (("o", "0.15"), ("D", "tab:orange"))
    for row, times in enumerate(arms.values()):
        for (size, values), (mark, colour), shift in zip(times.items(), marks, (-0.16, 0.16), strict=False):
            y = row + shift + np.linspace(-0.08, 0.08, len(values))
            said = label.format(size) if row == 0 else None
            ax.plot(values, y, mark, ms=3.5, color=colour, alpha=0.65, mew=0, label=said)
            ax.plot([np.median(values)] * 2, [row + shift - 0.15, row + shift + 0.15], color=colour, lw=2)
    ax.set_xscale("log")
    ax.set_ylim(len(arms) + 0.75, -0.6)
    ax.set_yticks(range(len(arms)), list(arms))
    ax.set_xlabel("steps until χ_AB is learnt")
    ax.set_title(title, loc="left")
    ax.legend(loc="lower right", handletextpad=0.1, labelspacing=0.25, borderpad=0.1)


CLAIM = StructuresCompose

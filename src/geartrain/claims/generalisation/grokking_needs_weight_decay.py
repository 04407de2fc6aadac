"""Networks that learned a modular sum by heart generalise late, and, it is said, only if their weights are decayed.

**Question** Is there a setting without weight decay in which accuracy on held-out pairs follows accuracy on the
training pairs late but surely? And is what generalises more efficient: does it buy more logit margin for the same
weight norm?

**Protocol** (a + b) mod 37 on half of the 1,369 pairs, a split for each seed. Two embeddings of 128 units are summed,
go through ReLU or a square, and are read out linearly, without biases; embeddings start from N(0, 0.1²), the read-out
from N(0, 1/128). Full batch, AdamW with betas 0.9 and 0.98; step 0.05 for cross-entropy, 0.01 for squared error
summed over classes. Grid: loss x decay (1 or 0) x activation, 8 seeds. Budget without decay: 13,000 steps of
cross-entropy, 8,000 of squared error, at least ten times the median time of the twin with decay 1. A run *grokks* if
it reaches 99 % on the training pairs, and 99 % on all others at three times that step or later. Everybody is
evaluated at every step up to 100, every 5 up to 300, every 20 beyond. Further arms without decay, all with
cross-entropy: a numerically safe gradient (the right class's is minus the sum of the other probabilities, with eps
1e-30 in AdamW, so that neither softmax nor optimiser rounds a small gradient to nothing); double precision, likewise;
logits divided by 10 before the loss; a penalty of 0.001 on the mean square logit. Efficiency: mean margin of the
training pairs over the weight norm to the power of the network's degree (2 for ReLU, 3 for squares), of networks with
decay 1 after 2,000 steps, on true and on random labels. Progress measure: the share of the centred logits' mean
square in the wave, that is in what depends on a + b - c alone. Division: a / b and a b modulo 37 for b other than 0.

**Control** Random labels, with and without decay, must not count. Steps in a chain (`step-chain`, the success of a
whole chain beside that of one step) must not count as a delay. The twins with decay 1 must grok. Efficiencies are
also compared at the moment when the training pairs were first learned, where both networks know them by heart and
should be alike. With 90 % of the pairs there should be little delay. The wave's share must not grow on random labels.

**Pitfalls** "Never" is the budget. In single precision the softmax of a large margin has a right-class gradient of
exactly zero, and the eps of AdamW swallows gradients below 1e-8: an end of training that looks like a law. A delay
looks sudden on a logarithmic axis. The size of the first weights is a hidden weight norm: these are small, which
favours networks without decay. Whether a delay counts depends on the factor three, and fast squared-error runs are
close to it.

**Literature** Power et al. 2022, arXiv 2201.02177: found it, modular division among the operations; weight decay
helps most. Nanda et al. 2023, arXiv 2301.05217: transformers, decay 1, progress measures that rise before the jump.
Gromov 2023, arXiv 2301.02679: the square network of this page, with squared error and without regularisation,
generalises late. Liu, Michaud, Tegmark 2022, arXiv 2210.01117: delay from large initial norms. Kumar et al. 2023,
arXiv 2310.06110: delay from lazy to rich training, without decay. Prieto et al. 2025, arXiv 2501.04697: without
decay, cross-entropy scales the logits until the softmax rounds; other softmaxes or updates then generalise without
decay. Truong 2026, arXiv 2606.18465: under cross-entropy the norm acts through the scale of the logits. Varma et al.
2023, arXiv 2309.02390: generalising circuits are slower to learn and give larger logits for the same norm.

**What would change our mind** No more than one grokking run of eight in every cell without decay, beside twins that
all grok, would support it, for these sizes. Equal margins per norm on true and random labels would refute its reason.

Ledger: 1.18, 1.17, 3.10, 3.41.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from geartrain import claims
from geartrain.claims import intervals
from geartrain.claims.effect import Effect
from geartrain.claims.generalisation import _modular
from geartrain.zoo.functions.step_chain import StepChain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from geartrain.claims.results import Cell

GRID = [(loss, act) for loss in ("cross-entropy", "squared") for act in ("relu", "square")]
SPOKEN = {"relu": "ReLU", "square": "square"}
TWIN, RANDOM, CHAIN, BUDGET = "decay 1", "random labels", "chain of steps", "budget"
SLIGHT = math.log(1.25)


@dataclass(frozen=True)
class Only:
    """For "only with decay", from success fractions.

    Attributes:
        least: Fraction from which a cell counts as successful.
        most: Fraction up to which it counts as a failure.
    """

    least: float = 7 / 8
    most: float = 1 / 8

    @property
    def sentence(self) -> str:
        """The rule in words."""
        return (
            f"Refuted if in any cell without decay at least {self.least:g} of the runs grok; supported if in every "
            f"one at most {self.most:g} do, the twins with decay 1 grok in at least {self.least:g}, and every budget "
            "is ten times the twin's median time; inconclusive otherwise, and wherever random labels or a chain of "
            "steps count as grokking."
        )

    def decide(self, finding: claims.Finding) -> claims.Decision:
        """Apply it."""
        control = finding.control
        fooled = [n for n, e in control.items() if n.startswith((RANDOM, CHAIN)) and not e.value <= self.most]
        if fooled or not any(n.startswith(RANDOM) for n in control):
            told = f"The criterion is met by {', '.join(fooled)}" if fooled else "The control is missing"
            return claims.Decision(claims.Outcome.INCONCLUSIVE, f"{told}, so that it shows nothing.")
        against = {n: e for n, e in finding.effects.items() if e.value >= self.least}
        if against:
            told = "; ".join(f"{n}: {e.value:.0%} of the runs" for n, e in against.items())
            return claims.Decision(
                claims.Outcome.REFUTED, f"Without weight decay there is grokking with {told}."
            )
        twins = {n: e for n, e in control.items() if n.startswith(TWIN)}
        weak = [n for n, e in twins.items() if e.value < self.least]
        short = [n for n, e in control.items() if n.startswith(BUDGET) and not e.value >= 1]
        open_ = [n for n, e in finding.effects.items() if e.value > self.most]
        if weak or short or open_ or not twins:
            told = ", ".join([*weak, *short, *open_]) or "no twins"
            return claims.Decision(claims.Outcome.INCONCLUSIVE, f"No clear case either way: {told}.")
        return claims.Decision(
            claims.Outcome.SUPPORTED, f"None of {len(finding.effects)} cells without decay grokks."
        )


class GrokkingNeedsWeightDecay(claims.Claim):
    """Success fractions of delayed generalisation with and without weight decay."""

    title: ClassVar = "Grokking needs weight decay"
    statement: ClassVar = (
        "Networks that fit a modular table generalise late only under weight decay, because what generalises gets more "
        "logit margin out of the same weight norm."
    )
    source: ClassVar = claims.Source(
        "001_7bf7b0974d4946e6.txt",
        (
            "grokking happens basically only in the presence of weight regularization, and it has to do with there "
            "being slower structures to form which are eventually more efficient at making logits high (ie more "
            "logit bang for weight norm buck)",
        ),
    )
    ledger: ClassVar = ("1.18", "1.17", "3.10", "3.41")
    version: ClassVar = 2
    changed: ClassVar = (
        "p = 37 and 128 units instead of 53 and 256 (a tenth of the cost; those sizes are the scale 'long', there "
        "with the first weights and steps of this one). Pilots on seeds from 1000 fixed, from the twins with decay 1 "
        "alone as far as these go, the modulus, the first weights' size (0.1, with which all four twins learn by "
        "heart first and generalise three or more times later), the step of either loss (for cross-entropy the one "
        "at which the slowest twin was done soonest) and the budgets. The pilots also ran settings without decay, "
        "some of which grokked; the penalty's factor and the least rise of the wave's share (3 points of 100) were "
        "picked there. Double precision is run with the square only, the lower temperature with both. Margin per "
        "norm was to be split within one network into a generalising and a memorising part; both parts share the "
        "same weights, so that a norm of each is not defined. It is compared between networks on true and on random "
        "labels instead (as in Varma et al.), with a minimal effect of a quarter instead of nothing, and the control "
        "that both are alike when the pairs are first learned; the margins of the logits' wave and of the rest are "
        "given as numbers. With 90 % of the pairs a delay is no sign that the measurement fails, so that this "
        "control became a question of its own (scarcity). The one-layer transformer has not been run."
    )
    seeds: ClassVar = 8
    minutes: ClassVar = 10.0
    scope: ClassVar = (
        "Modular addition, half of the pairs, p = 37; summed embeddings, 128 units, one hidden layer, no biases, "
        "small first weights (0.1); full batch, AdamW (0.9, 0.98), step 0.05 (cross-entropy) or 0.01 (squared "
        "error); 13,000 or 8,000 steps."
    )
    parts: ClassVar = {
        "a": claims.Part(
            "Share of runs without weight decay that grok, for each setting", Only(), axis="share of runs"
        ),
        "b": claims.Part(
            "ln of margin per weight norm, of networks on true labels over those on random labels, decay 1, at the end",
            claims.Every(claims.above(SLIGHT, same_refutes=False)),
            axis="ln ratio",
        ),
        "penalty": claims.Part(
            "Share of runs that grok with a penalty on the logits in place of weight decay (cross-entropy)",
            claims.Some(claims.above(0.4, control=None), 1),
            bears=False,
            axis="share of runs",
        ),
        "progress": claims.Part(
            "Rise of the wave's share of the logits, from when the training pairs are learned to the last moment at "
            "which held-out accuracy is below three times chance (cross-entropy, decay 1)",
            claims.Every(claims.above(0.03)),
            bears=False,
            axis="rise of the share",
        ),
        "division": claims.Part(
            "ln of the median time to generalise, division over multiplication, decay 1",
            claims.Every(claims.within(-math.log(3), math.log(3), control=(0.0, 0.5), same_refutes=False)),
            bears=False,
            axis="ln ratio of times",
        ),
        "scarcity": claims.Part(
            "ln of the delay ratio with 90 % of the pairs, decay 1: there should be no delay of three",
            claims.Every(claims.below(math.log(3))),
            bears=False,
            axis="ln delay",
        ),
    }

    # ------------------------------------------------------------------ the settings

    def cells(self, scale: str) -> list[dict[str, Any]]:
        """The grid, its arms, controls and divisions."""
        size = {"long": (53, 256), "test": (11, 32)}.get(scale, (37, 128))
        most = {"quick": 1200, "test": 60}.get(scale, 10**9)
        late = {"cross-entropy": min(13_000, most), "squared": min(8_000, most)}
        horizon = min(2_000, most)
        base = {"p": size[0], "hidden": size[1], "start": 0.1}
        rate = {"cross-entropy": 0.05, "squared": 0.01}
        found: list[dict[str, Any]] = []

        def add(kind: str, loss: str, act: str, decay: float, **more: Any) -> None:
            steps = {"steps": late[loss], "horizon": 0} | more
            found.append(
                {"kind": kind, **base, "loss": loss, "act": act, "decay": decay, "lr": rate[loss], **steps}
            )

        for loss, act in GRID:
            add("grid", loss, act, 1.0, horizon=horizon)
            add("grid", loss, act, 0.0)
            add("random", loss, act, 1.0, table="random", steps=horizon, horizon=horizon)
            add("scarcity", loss, act, 1.0, share=0.9)
            for table in ("product", "quotient"):
                add("division", loss, act, 1.0, table=table)
        add("random", "squared", "square", 0.0, table="random")
        add("no decay", "squared", "square", 0.0, table="quotient")
        for act in ("relu", "square"):
            add("safe", "cross-entropy", act, 0.0, safe=True, eps=1e-30)
            add("temperature", "cross-entropy", act, 0.0, temperature=10.0)
            add("penalty", "cross-entropy", act, 0.0, penalty=1e-3)
        add("double", "cross-entropy", "square", 0.0, dtype="float64", safe=True, eps=1e-30)
        return found

    def compute(self, config: dict[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
        """All seeds of a cell as one computation."""
        import torch

        settings = {k: v for k, v in config.items() if k != "kind"}
        with torch.no_grad():
            found = _modular.train(_modular.Arm(**settings), seeds)
        return {n: a if a.ndim == 1 else (("seed", "checkpoint"), a) for n, a in found.items()}

    # ------------------------------------------------------------------ what the numbers mean

    def analyse(self, results: claims.Results) -> dict[str, claims.Finding]:
        """Success fractions, efficiencies, and the side questions."""
        return {
            "a": _universal(results),
            "b": _efficiency(results),
            "penalty": claims.Finding(
                {SPOKEN[c.config["act"]]: _grokked(c) for c in results.where(kind="penalty")}
            ),
            "progress": _progress(results),
            "division": _division(results),
            "scarcity": _scarcity(results),
        }

    def draw(self, results: claims.Results, figure: Figure) -> None:
        """Curves of two cells; times of all runs without decay; efficiencies."""
        left, middle, right = figure.subplots(1, 3, width_ratios=[1.1, 1.3, 0.85])
        _draw_times(results, middle)
        _draw_curves(results, left)
        _draw_efficiency(results, right)


def _grokked(cell: Cell) -> Effect:
    return intervals.proportion(_modular.delayed(cell["train"], cell["test"]))


def _name(cell: Cell) -> str:
    kind = "" if cell["kind"] == "grid" else f", {cell['kind']}"
    return f"{cell['loss']}, {SPOKEN[cell.config['act']]}{kind}"


def _median(times: np.ndarray) -> float:
    """Of times of which -1 means never."""
    return float(np.median(np.where(times < 0, np.inf, times)))


def _universal(results: claims.Results) -> claims.Finding:
    kinds = ("grid", "safe", "double", "temperature")
    without = [c for c in results.where(decay=0.0) if c["kind"] in kinds]
    twins = {(c.config["loss"], c.config["act"]): c for c in results.where(kind="grid", decay=1.0)}
    control = {f"{TWIN}, {_name(c)}": _grokked(c) for c in twins.values()}
    control |= {
        f"{RANDOM}, decay {c['decay']:g}, {c['loss']}, {SPOKEN[c.config['act']]}": _grokked(c)
        for c in results.where(kind="random")
    }
    control |= {f"{CHAIN}, {length} steps": Effect.exact(float(_chain(length))) for length in (10, 100)}
    numbers: dict[str, Effect] = {}
    for (loss, act), twin in twins.items():
        plain = results.one(kind="grid", decay=0.0, loss=loss, act=act)
        name = f"{BUDGET} over ten median times of the twin, {loss}, {SPOKEN[act]}"
        control[name] = Effect.exact(plain.config["steps"] / (10 * _median(twin["test"])))
    for cell in [*without, *results.where(kind="no decay")]:
        told = _name(cell) if cell["kind"] != "no decay" else f"{_name(cell)}, division"
        numbers[f"generalised with or without delay: {told}"] = intervals.proportion(cell["test"] >= 0)
        numbers[f"held-out accuracy at the end: {told}"] = intervals.mean(cell["test_curve"][:, -1])
    return claims.Finding({_name(c): _grokked(c) for c in without}, control, numbers)


def _chain(length: int) -> bool:
    """Whether steps in a row, each with a skill that grows evenly, would count as a delay."""
    skill = np.linspace(0.01, 15, 1500)
    step = np.array([StepChain(length=length, u=float(u)).p for u in skill])
    first = [np.array([int(np.argmax(curve >= _modular.RIGHT))]) for curve in (step, step**length)]
    return bool(_modular.delayed(first[0], first[1])[0])


def _efficiency(results: claims.Results) -> claims.Finding:
    effects, control, numbers = {}, {}, {}
    for true in results.where(kind="grid", decay=1.0):
        random = results.one(kind="random", decay=1.0, loss=true["loss"], act=true["act"])
        for when, into in (("late", effects), ("early", control)):
            into[_name(true)] = _log_mean(true[when], random[when])
        for part in ("wave", "rest"):
            numbers[f"margin of the logits' {part}, {_name(true)}"] = intervals.mean(true[f"{part}_margin"])
        numbers[f"weight norm, random over true, ln, {_name(true)}"] = _log_mean(random["norm"], true["norm"])
    return claims.Finding(
        effects, control, numbers, note="Controls: the same networks when the pairs were first learned."
    )


def _log_mean(first: np.ndarray, second: np.ndarray) -> Effect:
    """Mean over seeds of the ln ratio; undefined where one is not positive."""
    if (first <= 0).any() or (second <= 0).any():
        return Effect(math.nan, math.nan, math.nan)
    return intervals.mean(np.log(first) - np.log(second))


def _progress(results: claims.Results) -> claims.Finding:
    effects, control = {}, {}
    for true in results.where(kind="grid", decay=1.0, loss="cross-entropy"):
        random = results.one(kind="random", decay=1.0, loss=true["loss"], act=true["act"])
        steps, others = (np.array(_modular.checkpoints(c.config["steps"])) for c in (true, random))
        growth, idle = [], []
        for curve, wave, own, learned in zip(
            true["test_curve"], true["wave_curve"], random["wave_curve"], true["train"], strict=True
        ):
            start = int(np.argmax(steps >= learned))
            later = np.flatnonzero((curve < 3 / true["p"]) & (np.arange(len(steps)) >= start))
            end = int(later[-1]) if len(later) else start
            growth.append(wave[end] - wave[start])
            near = [int(np.abs(others - steps[i]).argmin()) for i in (start, end)]
            idle.append(own[near[1]] - own[near[0]])
        effects[_name(true)], control[_name(true)] = intervals.mean(growth), intervals.mean(idle)
    return claims.Finding(effects, control, note="Controls: random labels over the same steps.")


def _division(results: claims.Results) -> claims.Finding:
    effects, numbers, few = {}, {}, []
    for loss, act in GRID:
        times = {
            t: results.one(kind="division", table=t, loss=loss, act=act) for t in ("quotient", "product")
        }
        name = f"{loss}, {SPOKEN[act]}"
        for table, cell in times.items():
            numbers[f"share that grokks, {table}, {name}"] = _grokked(cell)
            if (cell["test"] >= 0).mean() < 7 / 8:
                few.append(f"{table}, {name}")
        quotient, product = (np.where(c["test"] < 0, c.config["steps"], c["test"]) for c in times.values())
        effects[name] = intervals.log_ratio(quotient, product)
    random = {
        f"random table, {_name(c)}": intervals.proportion(c["test"] >= 0)
        for c in results.where(kind="random")
    }
    told = f"fewer than 7 of 8 runs generalised ({'; '.join(few)})" if few else ""
    return claims.Finding(
        effects, random, numbers, "Controls: share of runs on a random table that generalise.", told
    )


def _scarcity(results: claims.Results) -> claims.Finding:
    effects: dict[str, Effect] = {}
    for cell in results.where(kind="scarcity"):
        test = np.where(cell["test"] < 0, cell.config["steps"], cell["test"])
        train = np.where(cell["train"] < 0, cell.config["steps"], np.maximum(cell["train"], 1))
        effects[_name(cell)] = intervals.mean(np.log(test / train))
    numbers: Mapping[str, Effect] = {
        f"ln delay with half of the pairs, {_name(c)}": intervals.mean(
            np.log(c["test"] / np.maximum(c["train"], 1))
        )
        for c in results.where(kind="grid", decay=1.0)
        if (c["test"] > 0).all() and (c["train"] >= 0).all()
    }
    return claims.Finding(effects, {}, numbers)


# ---------------------------------------------------------------------- the figure

SHORT = {"cross-entropy": "CE", "squared": "SE"}


def _draw_curves(results: claims.Results, axes: Any) -> None:
    shown = (("cross-entropy", "relu"), ("squared", "square"))
    for (loss, act), colour in zip(shown, ("0.45", "C0"), strict=True):
        cell = results.one(kind="grid", loss=loss, act=act, decay=0.0)
        steps = np.array(_modular.checkpoints(cell.config["steps"]))
        axes.plot(steps[1:], cell["train_curve"][:, 1:].T, color=colour, lw=0.8, ls=":")
        axes.plot(steps[1:], cell["test_curve"][:, 1:].T, color=colour, lw=0.9)
        axes.plot([], [], color=colour, label=f"{SHORT[loss]} {SPOKEN[act]}, held out")
        axes.plot([], [], color=colour, ls=":", label=f"{SHORT[loss]} {SPOKEN[act]}, training")
    axes.set(xscale="log", xlabel="step", ylabel="accuracy", title="Without weight decay", ylim=(-0.03, 1.42))
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axes.legend(loc="upper left", fontsize=7.5, labelspacing=0.25)


def _draw_times(results: claims.Results, axes: Any) -> None:
    kinds = ("grid", "safe", "double", "temperature", "penalty")
    rows = [
        *results.where(kind="grid", decay=1.0),
        *[c for c in results.where(decay=0.0) if c["kind"] in kinds],
    ]
    edge = 2e4
    for row, cell in enumerate(rows):
        never = cell["test"] < 0
        height = row + np.linspace(-0.3, 0.3, len(never))
        learned = cell["train"] >= 0
        good = _modular.delayed(cell["train"], cell["test"])
        axes.plot(np.maximum(cell["train"][learned], 1), height[learned], "|", color="0.5", ms=4)
        axes.plot(cell["test"][good], height[good], "o", color="C0", ms=2.5)
        axes.plot(cell["test"][~never & ~good], height[~never & ~good], "o", mfc="none", color="C0", ms=2.5)
        axes.plot(np.full(never.sum(), edge), height[never], "x", color="C3", ms=2.5)
    names = [
        f"{SHORT[c.config['loss']]} {SPOKEN[c.config['act']]}, "
        + (f"decay {c['decay']:g}" if c["kind"] == "grid" else str(c["kind"]))
        for c in rows
    ]
    twins = len(results.where(kind="grid", decay=1.0))
    axes.axhline(twins - 0.5, color="0.7", lw=0.8)
    axes.set(
        yticks=range(len(rows)), yticklabels=names, xscale="log", xlim=(5, 3.2e4), xlabel="step with 99 %"
    )
    axes.set_title("| training   ● held out   × never", fontsize=9.5)
    axes.tick_params(axis="y", labelsize=7.5)
    axes.invert_yaxis()


def _draw_efficiency(results: claims.Results, axes: Any) -> None:
    names = []
    for place, true in enumerate(results.where(kind="grid", decay=1.0)):
        random = results.one(kind="random", decay=1.0, loss=true["loss"], act=true["act"])
        for when, colour, shift in (("early", "0.6", -0.15), ("late", "C0", 0.15)):
            with np.errstate(invalid="ignore", divide="ignore"):
                ratio = np.log(true[when] / random[when])
            spread = place + shift + np.linspace(-0.08, 0.08, len(ratio))
            axes.plot(
                spread,
                ratio,
                "o",
                color=colour,
                ms=2.5,
                label={"early": "when learned", "late": "at the end"}[when] if not place else None,
            )
            axes.plot([place + shift - 0.12, place + shift + 0.12], [ratio.mean()] * 2, color=colour, lw=1.5)
        names.append(f"{SHORT[true.config['loss']]}\n{SPOKEN[true.config['act']]}")
    for bound in (-SLIGHT, SLIGHT):
        axes.axhline(bound, color="black", ls="--", lw=0.8)
    low, high = axes.get_ylim()
    axes.set(
        xticks=range(len(names)),
        xticklabels=names,
        ylabel="ln ratio, true over random labels",
        ylim=(low, high + 0.25 * (high - low)),
    )
    axes.tick_params(axis="x", labelsize=7.5)
    axes.set_title("Margin per norm", fontsize=10)
    axes.legend(loc="upper left", fontsize=7.5, labelspacing=0.25, borderpad=0)


CLAIM = GrokkingNeedsWeightDecay

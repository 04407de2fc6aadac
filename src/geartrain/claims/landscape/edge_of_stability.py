"""Full-batch training brings the sharpness to the edge of stability, and keeps it there.

**Question** Does full-batch training bring the largest eigenvalue λ of the Hessian to 2/η, the
value above which gradient descent is unstable, and keep it there?

**Protocol** Three trainings by plain full-batch gradient descent: the network of the toy `edge-of-stability`
(1-30-30-1, tanh, 40 points of a square wave, mean squared error), and a digits network 64-32-10 (tanh, 512
digits) with mean squared error and with cross-entropy. Six step sizes each, 8 seeds, 4,000 steps; λ
every 50 steps by block Lanczos from a random start (60 products, residual 1 %). A fourth training: Adam on the
digits with squared error, whose second moments are frozen after 200 steps; there the sharpness is that of
P^(-1/2) H P^(-1/2) and the threshold (2+2β₁)/((1-β₁)η) = 38/η. The estimand is
ηλ/2 (Adam: ηλ/38), the median over the last half of training. Four times in the last half
the top eigenvector is computed, and it is counted how often the next ten pairs of updates change sign along it.

**Control** The same trainings with a tenth of the smallest step for ten times as many steps, which is the
gradient flow as near as can be had: they must stay below one half of *their* threshold. The flow also says what
the sharpness would be without the step: at equal training time it must lie beyond what the largest step allows,
or the step would not be what holds it (part f). And a parabola, whose sharpness cannot move (part h).

**Pitfalls** A start beyond the threshold (ηλ/2 > 1 before the first step) cannot be *brought* to the
edge; such networks are set aside by what they are at step 0, and counted. A network that diverges later stays
in and counts as 10. Step sizes that never get there within the budget count against the claim only if fewer
than two others do: "brings" means "at those step sizes, within 4,000 steps". Cross-entropy has no minimum, and
its curvature dies as the examples are fitted: the last half of training then says nothing about its beginning,
so that part g asks for the highest level on the way. Too few Lanczos steps bias λ low: the residual is
kept at 1 % of the value, which bounds the error of the value by its square.

**Literature** Cohen, Kaur, Li, Kolter, Talwalkar 2021, arXiv 2103.00065: the observation, with both losses;
their figure for cross-entropy has the sharpness drop at the end of training. Cohen et al. 2022, arXiv
2207.14484: adaptive methods, 38/η. Damian, Nichani, Lee 2022, arXiv 2209.15594: the third derivative pushes
back (self-stabilisation). Lewkowycz et al. 2020, arXiv 2003.02218: starts beyond the threshold may be thrown to
flatter places instead of diverging.

**What would change our mind** A level that settles at another value than 1 as the step is varied, or a flow
whose sharpness ends at the same value as that of the large steps.

Ledger: 0.4, 0.21, 4.12.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from geartrain import claims, datasets, ensemble, instruments, zoo
from geartrain.claims import intervals
from geartrain.claims.effect import Effect, Finding
from geartrain.claims.landscape._stacked import Product, Stack, top_eigenpairs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEPS = {
    "curve": (0.01, 0.025, 0.05, 0.075, 0.1, 0.15),
    "digits": (0.1, 0.2, 0.4, 0.6, 0.8, 0.9),
    "digits-ce": (0.2, 0.4, 0.6, 0.8, 1.2, 1.6),
    "digits-adam": (0.001, 0.002, 0.003, 0.004, 0.006, 0.01),
}
NAMES = {
    "curve": "curve 1-30-30-1, squared error",
    "digits": "digits, squared error",
    "digits-ce": "digits, cross-entropy",
    "digits-adam": "digits, squared error, frozen Adam",
}
FLOW = 10  # the control's step is so many times smaller than the smallest, and it takes so many times more of them
DIVERGED = 10.0
WARM, BETA1, BETA2, EPS = 200, 0.9, 0.999, 1e-8
_UPDATES = 11
_SIZES = {"curve": (1, 30, 30, 1)}
_PARABOLA = (0.8, 1.02)
_BAND = (0.9, 1.1)


def _is_at_edge() -> claims.Some:
    return claims.Some(claims.within(*_BAND, control=(0.0, 0.5)), least=2)


class EdgeOfStability(claims.Claim):
    """Sharpness against step size, over four trainings."""

    title: ClassVar = "The edge of stability"
    statement: ClassVar = "Full-batch training brings the sharpness to 2/η and keeps it there."
    source: ClassVar = claims.Source(
        "000_d2036805deb0d42a.txt",
        (
            "something to do with large update steps messing things up",
            "too-large update steps are causing problems",
        ),
    )
    ledger: ClassVar = ("0.4", "0.21", "4.12")
    changed: ClassVar = (
        "A pilot with seeds from 1000 on fixed the step sizes (starts below the threshold; some get there within "
        "4,000 steps, some do not) and the 200 steps of Adam before its second moments are frozen. Added: the flow "
        "at equal training time (part f), since a control that stays below its own threshold does not show that the "
        "step is what holds the sharpness; and the highest level on the way for cross-entropy (part g), since the "
        "pilot had its curvature die in the last half. The parabola checks the instrument (part h): it is no control."
    )
    seeds: ClassVar = 8
    minutes: ClassVar = 8.0
    instruments: ClassVar = ("edge_of_stability",)
    scope: ClassVar = (
        "Full-batch gradient descent, 4,000 steps, tanh networks: 1-30-30-1 on 40 points of a square wave (mean "
        "squared error) and 64-32-10 on 512 digits (mean squared error over examples and outputs; cross-entropy); "
        "Adam with frozen second moments on the latter with squared error. Constant steps, starts below the "
        "threshold, no momentum or decay."
    )
    parts: ClassVar = {
        "a": claims.Part(
            "Median ηλ/2 over the last half, curve network, squared error", _is_at_edge(), axis="ηλ/2"
        ),
        "b": claims.Part("Median ηλ/2 over the last half, digits, squared error", _is_at_edge(), axis="ηλ/2"),
        "c": claims.Part("Median ηλ/2 over the last half, digits, cross-entropy", _is_at_edge(), axis="ηλ/2"),
        "d": claims.Part(
            "Median ηλ/38 over the last half, digits, squared error, frozen Adam (λ preconditioned)",
            _is_at_edge(),
            bears=False,
            axis="ηλ/38",
        ),
        "e": claims.Part(
            "Share of updates that turn round along the top eigenvector, last half, second largest step, squared error",
            claims.Every(claims.above(0.5, control=(0.0, 0.5))),
            bears=False,
            axis="share",
        ),
        "f": claims.Part(
            "ηλ/2 of the gradient flow at equal training time, η the largest step, squared error",
            claims.Every(claims.above(1.1, control=None)),
            bears=False,
            axis="ηλ/2 of the flow",
        ),
        "g": claims.Part(
            "Highest ηλ/2 on the way, digits, cross-entropy",
            claims.Some(claims.above(0.9, control=None), least=2),
            bears=False,
            axis="highest ηλ/2",
        ),
        "h": claims.Part(
            "Change of ηλ/2 in 300 steps on a parabola (true by construction)",
            claims.within(-0.02, 0.02),
            bears=False,
        ),
    }

    def cells(self, scale: str) -> list[dict[str, Any]]:
        """Four trainings times six steps, the flow of each, and a parabola."""
        length, every, examples = {"quick": (1000, 50, 512), "test": (48, 12, 32)}.get(scale, (4000, 50, 512))
        found: list[dict[str, Any]] = []
        for net, grid in STEPS.items():
            few = {"test": grid[-2:], "quick": grid[::2] if net == "digits-adam" else grid}
            kept = few.get(scale, grid)
            warm = {"warm": min(WARM, length // 4)} if net == "digits-adam" else {}
            size = {} if net == "curve" else {"examples": examples}
            arms = [(step, 1, "grid") for step in kept] + [(round(kept[0] / FLOW, 9), FLOW, "flow")]
            for step, longer, arm in arms:
                more = {name: value * longer for name, value in warm.items()}
                times = {"steps": length * longer, "every": every * longer}
                found.append({"net": net, "arm": arm, "step": step, **times, **size, **more})
        return [*found, {"net": "parabola", "arm": "check", "step": _PARABOLA[0]}]

    def compute(self, config: dict[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
        """ηλ/2, loss and alternation of one training."""
        if config["net"] == "parabola":
            return {
                "ratio": (
                    ("seed", "record"),
                    np.array([_parabola(s, config["step"]) for s in seeds], np.float32),
                )
            }
        training = frozen_adam if config["net"] == "digits-adam" else descent
        return training(config, seeds)

    def analyse(self, results: claims.Results) -> dict[str, Finding]:
        """Levels over the last half, alternation, the flow, the highest level."""
        found = {part: _at_edge(results, net) for part, net in zip("abcd", STEPS, strict=True)}
        squared = ("curve", "digits")
        fast = {net: _grid(results, net)[-2] for net in squared}
        slow = {net: results.one(net=net, arm="flow") for net in squared}
        found["e"] = Finding(
            {NAMES[net]: intervals.mean(cell["alternation"]) for net, cell in fast.items()},
            {f"flow, {NAMES[net]}": intervals.mean(cell["alternation"]) for net, cell in slow.items()},
        )
        found["f"] = _without_step(results, squared)
        found["g"] = Finding(_effects(_grid(results, "digits-ce"), lambda ratio: ratio.max(1)))
        ratio = results.one(net="parabola")["ratio"].astype(float)
        numbers = {
            f"ηλ/2 = {_PARABOLA[1]:g}: growth per step along the top": Effect.exact(2 * _PARABOLA[1] - 1)
        }
        found["h"] = Finding(intervals.mean(ratio[:, 1] - ratio[:, 0]), numbers=numbers)
        return found

    def draw(self, results: claims.Results, figure: Figure) -> None:
        """The level at which every seed ends, over the step size."""
        _draw_levels(results, figure)


# ---------------------------------------------------------------------- trainings


def descent(config: dict[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
    """Gradient descent of all seeds at once; a block of steps between two looks at the curvature."""
    net, step = config["net"], config["step"]
    data, loss = (
        problem(net, config.get("examples", 0)),
        nn.functional.cross_entropy if net == "digits-ce" else nn.functional.mse_loss,
    )
    nets = ensemble.train(
        partial(make_model, net), data, loss=loss, optimizer="sgd", lr=step, steps=0, seeds=list(seeds), engine="stack",
        dtype=torch.float64 if net == "curve" else torch.float32,
    )  # fmt: skip

    def sharpness() -> np.ndarray:
        found = nets.measure("hessian_top_eigenvalue", num_products=60, tolerance=1e-2).value
        alive = np.array([s.state != "diverged" for s in nets.status])
        return np.where(alive, np.asarray(found), np.inf)

    def advance(steps: int) -> Tensor:
        nets.train(steps)
        return nets.parameters

    stack = Stack(_SIZES.get(net, (64, 32, 10)), *data)
    scale = torch.ones_like(nets.parameters)
    return _follow(config, stack, nets.parameters, advance, sharpness, lambda: scale, limit=2.0)


def frozen_adam(config: dict[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
    """Adam whose second moments stand still after some steps; from then on a preconditioned moving average."""
    stack = Stack((64, 32, 10), *problem(config["net"], config["examples"]))
    state = _Adam(stack, _starts(config["net"], seeds), config["step"], config["warm"])

    def sharpness() -> np.ndarray:
        if not state.taken:
            return np.zeros(len(seeds))  # there is no preconditioner yet
        start = _random_like(state.params)
        found = top_eigenpairs(_turned(stack.product(state.params), state.scale), start)[0].double()
        return torch.where(state.params.isfinite().all(1), found, torch.inf).numpy()

    limit = (2 + 2 * BETA1) / (1 - BETA1)
    return _follow(config, stack, state.params, state.advance, sharpness, lambda: state.scale, limit=limit)


class _Adam:
    """Parameters of all members with their moments."""

    def __init__(self, stack: Stack, params: Tensor, step: float, warm: int) -> None:
        self.stack, self.params, self.step, self.warm, self.taken = stack, params, step, warm, 0
        self.first, self.second = torch.zeros_like(params), torch.zeros_like(params)
        self.scale = torch.ones_like(params)  # P^(-1/2)

    def advance(self, steps: int) -> Tensor:
        """So many steps."""
        for _ in range(steps):
            self.taken += 1
            slope = self.stack.gradient(self.params)
            self.first = BETA1 * self.first + (1 - BETA1) * slope
            if self.taken <= self.warm:
                self.second = BETA2 * self.second + (1 - BETA2) * slope**2
                self.scale = ((self.second / (1 - BETA2**self.taken)).sqrt() + EPS).rsqrt()
            update = self.first / (1 - BETA1**self.taken) * self.scale**2
            self.params = self.params - self.step * update
        return self.params


def _follow(
    config: dict[str, Any],
    stack: Stack,
    params: Tensor,
    advance: Callable[[int], Tensor],
    sharpness: Callable[[], np.ndarray],
    scale: Callable[[], Tensor],
    *,
    limit: float,
) -> dict[str, Any]:
    """Ratio and loss every so many steps; four times in the last half, alternation along the top eigenvector."""
    every, count = config["every"], config["steps"] // config["every"]
    looks = {count // 2 + i * count // 8 for i in range(4)}
    ratios, losses, shares = [], [], []
    for record in range(count + 1):
        ratios.append(config["step"] * sharpness() / limit)
        losses.append(stack.losses(params.detach()).double().numpy())
        if record == count:
            break
        before = 0
        if record in looks:
            before = _UPDATES
            shares.append(alternation(stack, params, advance, scale()))
        params = advance(every - before)
    ratio = np.nan_to_num(np.stack(ratios, 1), nan=DIVERGED, posinf=DIVERGED, neginf=0.0)
    loss = np.nan_to_num(np.stack(losses, 1), nan=1e6, posinf=1e6)
    return {
        "ratio": (("seed", "record"), np.clip(ratio, 0, DIVERGED).astype(np.float32)),
        "loss": (("seed", "record"), np.minimum(loss, 1e6).astype(np.float32)),
        "alternation": (("seed",), np.mean(shares, axis=0).astype(np.float32)),
    }


def alternation(stack: Stack, params: Tensor, advance: Callable[[int], Tensor], scale: Tensor) -> np.ndarray:
    """Share of pairs of successive updates whose parts along the top eigenvector differ in sign, over the next steps.

    With a preconditioner the eigenvector is that of P^(-1/2) H P^(-1/2) and the update is seen in the same coordinates.
    """
    start = params.detach().clone()
    _, top, _ = top_eigenpairs(_turned(stack.product(start), scale), _random_like(start))
    path = [start, *(advance(1).detach().clone() for _ in range(_UPDATES))]
    parts = ((torch.stack(path).diff(dim=0) / scale) * top).sum(2)
    return (parts[1:] * parts[:-1] < 0).double().mean(0).numpy()


def _turned(product: Product, scale: Tensor) -> Product:
    return lambda v: scale * product(scale * v)


def _random_like(params: Tensor) -> Tensor:
    source = torch.Generator().manual_seed(0)
    return torch.randn(params.shape[1], generator=source, dtype=torch.float64).to(params).expand_as(params)


@cache
def problem(net: str, examples: int = 512) -> tuple[Tensor, Tensor]:
    """Inputs and targets."""
    if net == "curve":
        x = torch.linspace(-1, 1, 40, dtype=torch.float64)[:, None]
        return x, torch.sign(torch.sin(4 * x))
    inputs, labels = datasets.digits.load(examples).train
    return inputs, labels if net == "digits-ce" else nn.functional.one_hot(labels, 10).float()


def make_model(net: str) -> nn.Module:
    """A network at its start: the curve's as the toy's, weights of variance 0.8²/inputs; the digits' as in PyTorch."""
    if net != "curve":
        return nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    model = nn.Sequential(nn.Linear(1, 30), nn.Tanh(), nn.Linear(30, 30), nn.Tanh(), nn.Linear(30, 1))
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.8 / math.sqrt(layer.in_features))
            nn.init.zeros_(layer.bias)
    return model


def _starts(net: str, seeds: Iterable[int]) -> Tensor:
    rows = []
    with torch.random.fork_rng(devices=[]):
        for seed in seeds:
            torch.manual_seed(seed)
            rows.append(nn.utils.parameters_to_vector(make_model(net).parameters()).detach())
    return torch.stack(rows)


def _parabola(seed: int, ratio: float) -> tuple[float, float]:
    """ηλ/2 by the instrument before and after 300 steps on the toy `quadratic`."""
    run = zoo.get("quadratic", seed=seed, step=2 * ratio, noise=0.0).make_run()
    found = []
    for steps in (1, 300):
        run.advance(steps)
        found.append(float(instruments.get("edge_of_stability")(run, tol=1e-3)))
    return found[0], found[1]


# ---------------------------------------------------------------------- what they mean


def _grid(results: claims.Results, net: str) -> list[claims.Cell]:
    return sorted(results.where(net=net, arm="grid"), key=lambda cell: cell["step"])


def _admitted(cell: claims.Cell) -> np.ndarray:
    """Whose start lies below the threshold, known before the first step."""
    return cell["ratio"][:, 0] <= 1


def level(ratio: np.ndarray) -> np.ndarray:
    """Median over the last half of training, for each seed."""
    return np.median(ratio[:, ratio.shape[1] // 2 :], axis=1)


def _effects(cells: list[claims.Cell], statistic: Callable[[np.ndarray], np.ndarray]) -> dict[str, Effect]:
    """Median over the admitted seeds at each step size; a step size with fewer than half of them says nothing."""
    found = {}
    for cell in cells:
        keep = _admitted(cell)
        if keep.sum() >= max(2, len(keep) / 2):
            found[f"η = {cell['step']:g}"] = intervals.median(statistic(cell["ratio"][keep].astype(float)))
    return found


def _at_edge(results: claims.Results, net: str) -> Finding:
    cells, flow = _grid(results, net), results.one(net=net, arm="flow")
    inverse = [1 / cell["step"] for cell in cells[-3:]]
    ends = np.stack([np.maximum(level(c["ratio"].astype(float)), 1e-9) / c["step"] for c in cells[-3:]], 1)
    numbers = {
        "slope of ln λ on ln 1/η, three largest steps": intervals.slope(
            np.log(inverse).tolist(), np.log(ends)
        ),
        "starts beyond the threshold": Effect.exact(sum(int((~_admitted(c)).sum()) for c in cells)),
        "diverged": Effect.exact(sum(int((c["ratio"][:, -1] >= DIVERGED).sum()) for c in cells)),
    }
    quiet = {
        f"a tenth of the smallest step, η = {flow['step']:g}": intervals.median(
            level(flow["ratio"].astype(float))
        )
    }
    effects = _effects(cells, level)
    invalid = "" if effects else "at every step size most starts lie beyond the threshold"
    return Finding(effects, quiet, numbers, invalid=invalid)


def _without_step(results: claims.Results, squared: tuple[str, ...]) -> Finding:
    """ηλ/2 for the largest step, with the flow's λ at its end; beside it, with its own λ at that training time."""
    effects, numbers = {}, {}
    for net in (*squared, "digits-ce"):
        flow, cell = results.one(net=net, arm="flow"), _grid(results, net)[-1]
        keep = _admitted(cell)
        if keep.sum() < 2:
            continue
        when = int(flow["step"] * flow["steps"] / (cell["step"] * cell["every"]) + 0.5)
        of_flow = intervals.median(flow["ratio"][keep, -1].astype(float) * cell["step"] / flow["step"])
        (effects if net in squared else numbers)[NAMES[net]] = of_flow
        numbers[f"of the training itself, {NAMES[net]}"] = intervals.median(
            cell["ratio"][keep, when].astype(float)
        )
    return Finding(
        effects, numbers=numbers, invalid="" if effects else "most starts lie beyond the threshold"
    )


# ---------------------------------------------------------------------- what it looks like


def _draw_levels(results: claims.Results, figure: Figure) -> None:
    shown = [net for net in STEPS if results.where(net=net)]
    for axes, net in zip(figure.subplots(1, len(shown), sharey=True), shown, strict=True):
        axes.axhspan(*_BAND, color="0.9", lw=0)
        axes.axhline(1, color="0.4", ls="--", lw=1)
        for cell in _grid(results, net):
            keep = _admitted(cell)
            seeds = level(cell["ratio"])[keep]
            axes.semilogx(np.full(len(seeds), cell["step"]), seeds, "o", color="C0", alpha=0.45, ms=4, mew=0)
            lost = int((seeds > 1.4).sum())
            places = cell["step"] * 1.09 ** (np.arange(lost) - (lost - 1) / 2)
            axes.plot(places, np.full(lost, 1.3), "x", color="C3", ms=4)
            if len(seeds):
                axes.plot(cell["step"], np.median(seeds), "_", color="black", ms=11, mew=1.6)
            if net == "digits-ce":
                peaks = cell["ratio"].max(1)[keep]
                axes.plot(
                    np.full(len(peaks), cell["step"] * 1.07), peaks, "^", color="C1", alpha=0.6, ms=4, mew=0
                )
        flow = results.one(net=net, arm="flow")
        axes.plot(
            np.full(len(flow["ratio"]), flow["step"]), level(flow["ratio"]), "s", color="0.5", ms=3.5, mew=0
        )
        axes.set(xlabel="step size η", title=NAMES[net].replace(", ", ",\n", 1), ylim=(-0.03, 1.42))
        axes.minorticks_off()
        axes.margins(x=0.12)
    first = figure.axes[0]
    first.set_ylabel("λ over its threshold, ηλ/2 (Adam: ηλ/38)")
    for marker, colour, label in (("o", "C0", "last half, a seed"), ("s", "0.5", "control (flow)")):
        first.plot([], [], marker, color=colour, ms=4, label=label)
    first.plot([], [], "_", color="black", ms=12, label="median")
    first.plot([], [], "^", color="C1", ms=4, label="highest on the way")
    first.plot([], [], "x", color="C3", ms=4, label="diverged")
    figure.legend(loc="outside lower center", ncols=5, fontsize=8.5, handletextpad=0.3)


CLAIM = EdgeOfStability

"""What `gt.watch` costs in a loop, group by group and under its governor, beside Cockpit."""

from __future__ import annotations

import contextlib
import copy
import io
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from _bench import Bench, Ratio
from torch import Tensor, nn
from torch.nn import functional

import geartrain as gt

TITLE = "Watching a loop"

GROUPS = ("norms", "updates", "flow", "noise")
RECORDED = {"economy": "190-210", "business": "220-250", "full": "680"}
"""Cockpit 1.0.2 on an MLP of this size, every step, as ratios to the plain step (measured once, on this machine)."""


class Block(nn.Module):
    """Attention and a small network, both with a residual connection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """One block."""
        q, k, v = (t.unflatten(-1, (4, -1)).transpose(1, 2) for t in self.mix(self.first(x)).chunk(3, -1))
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(functional.gelu(self.up(self.second(x))))


class GPT(nn.Module):
    """0.8 million parameters: 4 blocks of width 128, 65 letters, 64 places."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(65, 128), nn.Embedding(64, 128)
        self.blocks = nn.Sequential(*(Block(128) for _ in range(4)))
        self.norm, self.head = nn.LayerNorm(128), nn.Linear(128, 65, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of the next letter at every place."""
        return self.head(self.norm(self.blocks(self.words(x) + self.places(torch.arange(x.shape[1])))))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))


class Loop:
    """A loop that can be taken some steps further, and what surrounds it."""

    def __init__(self, kind: str) -> None:
        torch.manual_seed(0)
        self.model = GPT() if kind == "GPT" else mlp()
        self.steps = 10 if kind == "GPT" else 64
        generator = torch.Generator().manual_seed(0)
        if kind == "GPT":
            text = torch.randint(65, (64, 65), generator=generator)
            self.data, self.size = (text[:, :-1], text[:, 1:]), 8
            self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        else:
            inputs = torch.randn(2048, 784, generator=generator)
            self.data, self.size = (inputs, torch.randint(10, (2048,), generator=generator)), 128
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9)
        self.monitor: Any = None
        self.at = 0

    def watched(self, **options: Any) -> Loop:
        """Watched from now on."""
        self.monitor = gt.watch(self.model, self.optimizer, **options).start()
        return self

    def batch(self) -> tuple[Tensor, Tensor]:
        """The next one."""
        start = (self.at * self.size) % len(self.data[0])
        self.at += 1
        return self.data[0][start : start + self.size], self.data[1][start : start + self.size]

    def __call__(self) -> Any:
        """Some steps further."""
        for _ in range(self.steps):
            inputs, targets = self.batch()
            self.optimizer.zero_grad()
            loss = functional.cross_entropy(self.model(inputs).flatten(0, -2), targets.flatten())
            if self.monitor is not None:
                self.monitor.loss(loss)
            loss.backward()
            self.optimizer.step()
        return self.monitor


def settled(loop: Loop, times: int) -> Loop:
    """The governor needs some steps to know the prices."""
    for _ in range(times):
        loop()
    return loop


def run(bench: Bench) -> None:
    for kind in ("GPT", "MLP"):
        prices(bench, kind)
    governed(bench)
    beside_cockpit(bench)


# ---------------------------------------------------------------------- what each group costs


def prices(bench: Bench, kind: str) -> None:
    """Every group alone, at every step and at every tenth."""
    size = "0.8 M parameters, batch 8 x 64" if kind == "GPT" else "784-256-256-10, batch 128"
    table = bench.table(
        f"Overhead of each group over the plain step, {kind} ({size})", ["group", "every step", "every 10"]
    )
    for group in GROUPS:
        loops = {"gradient": Loop(kind)}
        for period in (1, 10):
            every = dict.fromkeys(GROUPS, 0) | {group: period}
            loops[f"geartrain, every {period}"] = Loop(kind).watched(overhead=None, every=every)
        timing = bench.paired(f"{kind}, {group}", loops, base="gradient", repeats=15)
        table.row(group, *(percent(timing[f"geartrain, every {p}"]) for p in (1, 10)))
    table.note(
        "`updates` at every tenth step measures two successive ones (a cosine takes two updates), so it costs a fifth "
        "of the first column. The governor decides from its own measurements of these prices, not from this table."
    )


def percent(ratio: Ratio) -> str:
    return f"{100 * (ratio.median - 1):.1f} % ({100 * (ratio.low - 1):.1f} to {100 * (ratio.high - 1):.1f})"


# ---------------------------------------------------------------------- the whole set under its governor


def governed(bench: Bench) -> None:
    """Everything, as `gt.watch(model, optimizer)` does it."""
    columns = [
        "loop",
        "share allowed",
        "overhead, paired",
        "by its own count",
        "readings per 1,000 steps",
        "goal",
    ]
    table = bench.table("The whole always-on set under the governor", columns)
    for kind, share in (("GPT", 0.05), ("GPT", 0.03), ("MLP", 0.05)):
        loop = settled(Loop(kind).watched(overhead=share), 1 if bench.quick else 45)
        start, before, own, total = counts(loop)
        sides = {"gradient": Loop(kind), "geartrain": loop}
        timing = bench.paired(f"{kind}, governed to {share}", sides, base="gradient", repeats=31)
        steps, seen, own_now, total_now = counts(loop)
        counted = (own_now - own) / max(total_now - total, 1e-9)
        rates = {g: round(1000 * n / (steps - start)) for g, n in zip(GROUPS, seen - before, strict=True)}
        words = ", ".join(f"{g} {n}" for g, n in rates.items())
        ratio = timing["geartrain"]
        goal = bench.goal(ratio <= 1 + share)
        table.row(kind, f"{100 * share:.0f} %", percent(ratio), f"{100 * counted:.1f} %", words, goal)
        bench.keep(f"{kind}, governed to {share}", {"own": counted, "readings": rates})
    table.note(
        "The governor's own count holds the time inside the monitor; it plans with what steps take longer beside that "
        "(emptied caches) as well, as far as it can tell. The paired overhead holds everything."
    )


def counts(loop: Loop) -> tuple[int, np.ndarray, float, float]:
    governor = loop.monitor.governor
    seen = np.array([governor.accounts[g].occurrences for g in GROUPS])
    return loop.monitor.steps, seen, governor.own, governor.total


# ---------------------------------------------------------------------- Cockpit


class CockpitLoop(Loop):
    """The MLP's loop in the form that Cockpit asks for."""

    def __init__(self, label: str, interval: int) -> None:
        super().__init__("MLP")
        import backpack
        from cockpit import Cockpit
        from cockpit.utils import schedules
        from cockpit.utils.configuration import configuration

        self.model = backpack.extend(self.model)
        self.mean = backpack.extend(nn.CrossEntropyLoss())
        self.single = backpack.extend(nn.CrossEntropyLoss(reduction="none"))
        schedule = schedules.linear(interval=interval)
        with quiet():
            self.cockpit = Cockpit(
                self.model.parameters(), quantities=configuration(label, track_schedule=schedule)
            )
        self.steps = interval
        self.done = 0

    def __call__(self) -> Any:
        """Some steps further."""
        with quiet():
            for _ in range(self.steps):
                inputs, targets = self.batch()
                self.optimizer.zero_grad()
                outputs = self.model(inputs)
                loss, losses = self.mean(outputs, targets), self.single(outputs, targets)
                info = {
                    "batch_size": len(inputs),
                    "individual_losses": losses,
                    "loss": loss,
                    "optimizer": self.optimizer,
                }
                with self.cockpit(self.done, info=info):
                    loss.backward(create_graph=self.cockpit.create_graph(self.done))
                self.optimizer.step()
                self.done += 1
        return self.cockpit.get_output()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


OBSERVABLES = {
    "Distance": "distance", "GradNorm": "grad_norm", "InnerTest": "inner_test",
    "NormTest": "norm_test", "OrthoTest": "ortho_test", "UpdateSize": "update_norm", "Loss": "loss",
}  # fmt: skip
SHARED = ("Alpha", *OBSERVABLES)
MISSING = ("GradHist1d", "TICDiag", "HessTrace")


def beside_cockpit(bench: Bench) -> None:
    """The same observables, as often."""
    cockpit = bench.peer("cockpit", "1.0.2")
    columns = ["every", "geartrain", "Cockpit, economy", "Cockpit, business", "goal"]
    table = bench.table("Cockpit's observables on the MLP, over the plain step", columns)
    for interval in (1, 16):
        every = {"norms": interval, "updates": interval, "flow": 0, "noise": interval}
        ours = Loop("MLP").watched(overhead=None, extras=("distance",), every=every)
        ours.steps = interval
        plain = Loop("MLP")
        plain.steps = interval
        sides: dict[str, Callable[[], Any]] = {"gradient": plain, "geartrain": ours}
        if cockpit is not None:
            sides |= {label: CockpitLoop(label, interval) for label in ("economy", "business")}
        timing = bench.paired(f"MLP, every {interval}", sides, base="gradient", repeats=15, at_least=0.1)
        goal = bench.goal(timing["geartrain"] <= 1.10) if interval == 16 else None
        table.row(
            f"{interval} steps", timing["geartrain"], timing.get("economy"), timing.get("business"), goal
        )
    table.note(
        f"Both measure {', '.join(SHARED)}; geartrain also per layer. Cockpit's business set has three more "
        f"({', '.join(MISSING)}), which take passes or per-example histograms that `gt.watch` does not add to a loop: "
        "`gt.measure` has the trace of the Hessian. Recorded earlier for Cockpit at every step, on a quiet machine: "
        f"{', '.join(f'{k} x{v}' for k, v in RECORDED.items())}."
    )
    if cockpit is not None:
        agreement(bench)


def agreement(bench: Bench) -> None:
    """Both on the very same steps: the largest relative difference of what both measure."""
    theirs, ours = CockpitLoop("economy", 1), Loop("MLP")
    ours.model.load_state_dict(copy.deepcopy(theirs.model.state_dict()))
    theirs.steps = ours.steps = 6
    theirs.size = ours.size = 64
    ours.watched(overhead=None, extras=("distance",), every={"norms": 1, "updates": 2, "flow": 0, "noise": 1})
    output, monitor = theirs(), ours()
    table = bench.table(
        "The same steps measured by both", ["Cockpit", "geartrain", "largest relative difference"]
    )
    for name, column in OBSERVABLES.items():
        found = {int(s): v[name] for s, v in output.items() if name in v}
        own = monitor.history.column(column)
        pairs = [(flat(v), own[s + shift(name)]) for s, v in found.items() if 0 <= s + shift(name) < len(own)]
        known = [(a, b) for a, b in pairs if np.isfinite(a) and np.isfinite(b)]
        error = max((abs(a - b) / max(abs(a), 1e-12) for a, b in known), default=float("nan"))
        table.row(name, column, error)
    table.note(
        "Alpha is not compared: Cockpit fits its parabola to both losses and both slopes, weighed by their noise; the "
        "gauge is that of the two slopes, with a correction for the noise where asked."
    )


def shift(name: str) -> int:
    """Cockpit notes the distance before a step, and the update of the step before."""
    return -1 if name == "Distance" else 0


def flat(value: Any) -> float:
    """Cockpit gives norms per parameter."""
    return float(np.linalg.norm(np.asarray(value, dtype=float)))

"""Many networks at once: each way of computing them against a plain loop, from 9 to 43,633 parameters."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from _bench import Bench
from torch import Tensor, nn
from torch.nn import functional

import geartrain as gt
from geartrain.ensemble.plan import peak_flops

TITLE = "Ensembles"
MODULUS = 113
LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Case:
    """One architecture with its data.

    Attributes:
        name: For tables.
        widths: Of the perceptron.
        activation: Between its layers.
        loss: Mean over the points.
        data: Inputs and targets; every step sees all of them.
        members: Networks of the batched ways.
        lone: Networks of the plain loop; its cost per network does not depend on their number.
        steps: Per timing.
        goals: Smallest ratios to the loop.
    """

    name: str
    widths: tuple[int, ...]
    activation: type[nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor]
    data: tuple[Tensor, Tensor]
    members: int
    lone: int
    steps: int
    goals: dict[str, float]

    def make(self) -> nn.Module:
        """One network."""
        layers: list[nn.Module] = []
        for a, b in zip(self.widths, self.widths[1:], strict=False):
            layers += [nn.Linear(a, b), self.activation()]
        return nn.Sequential(*layers[:-1])

    @property
    def num_params(self) -> int:
        """Weights and biases."""
        return sum((a + 1) * b for a, b in zip(self.widths, self.widths[1:], strict=False))

    @property
    def flops(self) -> int:
        """Of one step of one network: forward, and backward but for the inputs' gradient; dense products."""
        products = [a * b for a, b in zip(self.widths, self.widths[1:], strict=False)]
        return len(self.data[0]) * (6 * sum(products) - 2 * products[0])


def cases(quick: bool) -> list[Case]:
    generator = torch.Generator().manual_seed(0)
    corners = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    points = torch.randn(512, 2, generator=generator)
    pairs = torch.randperm(MODULUS**2, generator=generator)[: round(0.3 * MODULUS**2) - 1]
    a, b = pairs // MODULUS, pairs % MODULUS
    codes = torch.cat([functional.one_hot(a, MODULUS), functional.one_hot(b, MODULUS)], 1).float()
    xor = corners, torch.tensor([[0.0], [1.0], [1.0], [0.0]])
    rings = points, (points.norm(dim=1) > 1.2).long()
    sums = codes, (a + b) % MODULUS
    return [
        Case("2-2-1, 4 points", (2, 2, 1), nn.Tanh, functional.mse_loss, xor, 1000, 2, 50, {"stack": 60.0}),
        Case(
            "2-64-64-2, 512 points", (2, 64, 64, 2), nn.ReLU, functional.cross_entropy, rings,
            64 if quick else 128, 4, 16, {"stack": 3.5, "compiled": 8.0},
        ),
        Case(
            f"modular addition, {len(a):,} points", (2 * MODULUS, 128, MODULUS), nn.ReLU, functional.cross_entropy,
            sums, 4, 1, 4, {"stack": 1.0},
        ),
    ]  # fmt: skip


def run(bench: Bench) -> None:
    jax = _jax(bench)
    peak = peak_flops(torch.device("cpu"), torch.float32)
    table = bench.table(
        "How many times faster than a plain loop with foreach Adam, per network and step",
        [
            "network",
            "parameters",
            "loop",
            "stack",
            "vmap, 64 at a time",
            "compiled",
            "JAX, vmap + jit + scan",
            "torch's batched products alone",
            "goal",
        ],
    )
    share = bench.table(
        "Share of the peak of torch's own matrix products, counting dense products",
        [
            "network",
            "loop",
            "stack",
            "vmap",
            "compiled",
            "JAX",
            "largest deviation from the loop's parameters",
        ],
    )
    for case in cases(bench.quick):
        _one(bench, case, jax, peak, table, share)
    _flat(bench, cases(bench.quick)[1])
    table.note(
        "Full batches, float32, one thread. The loop trains each network alone with `torch.optim.Adam(foreach=True)`; "
        "the others train all networks with the same seeds. For modular addition the stack gathers rows instead of "
        "multiplying by one-hot codes; JAX is given the same one-hot codes, and beside it the gathered form by hand. "
        "The column of products shows what torch itself takes for nothing but the matrix products of the dense forward "
        "and backward pass, 16 networks at a time: no engine built on them can gain more (gathered rows do fewer)."
    )
    share.note(
        "The peak is that of a large product in torch. Shares above one are possible: gathered rows save most of the "
        "counted work, and compiled code may use wider vectors than torch's library does on this processor."
    )


def _one(bench: Bench, case: Case, jax: Any, peak: float, table: Any, share: Any) -> None:
    sides: dict[str, Callable[[], Any]] = {"loop": _loop(case)}
    numbers = {"loop": case.lone}
    for engine, chunk in (("stack", None), ("vmap", 64), ("compiled", None)):
        sides[engine] = _engine(case, engine, chunk)
        numbers[engine] = case.members
    if jax is not None:
        for name, gathered in (("jax", False), ("jax gathered", True)):
            if not gathered or case.widths[0] == 2 * MODULUS:
                sides[name] = _jax_side(jax, case, gathered)
                numbers[name] = case.members
    sides["products alone"], numbers["products alone"] = _products(case), case.members
    timing = bench.paired(case.name, sides, base="loop", repeats=7)

    def times(side: str) -> str | None:
        if side not in timing:
            return None
        ratio, scale = timing.over("loop", side), numbers[side] / numbers["loop"]
        return f"{ratio.median * scale:.3g} ({ratio.low * scale:.3g}-{ratio.high * scale:.3g})"

    def gained(side: str) -> float:
        return timing.over("loop", side).median * numbers[side] / numbers["loop"]

    def rate(side: str) -> float | None:
        if side not in timing:
            return None
        return case.flops * case.steps * numbers[side] / timing.median(side) / peak

    micro = timing.median("loop") / case.lone / case.steps * 1e6
    goals = [f"{e} at least {g:g}: {bench.goal(gained(e) >= g)}" for e, g in case.goals.items()]
    theirs = times("jax")
    if "jax gathered" in timing:
        theirs = f"{theirs}; gathered {times('jax gathered')}"
    table.row(
        case.name, case.num_params, f"{micro:.3g} us", times("stack"), times("vmap"), times("compiled"), theirs,
        times("products alone"), "; ".join(goals),
    )  # fmt: skip
    deviations = _deviations(case)
    share.row(
        case.name, rate("loop"), rate("stack"), rate("vmap"), rate("compiled"), rate("jax"),
        "; ".join(f"{engine} {value:.1e}" for engine, value in deviations.items()),
    )  # fmt: skip
    bench.keep(f"{case.name}, deviation after 20 steps", deviations)
    bench.keep(f"{case.name}, seconds per network and step", {
        side: timing.median(side) / numbers[side] / case.steps for side in sides if side in timing
    })  # fmt: skip


def _loop(case: Case) -> Callable[[], Any]:
    members = []
    for seed in range(case.lone):
        torch.manual_seed(seed)
        model = case.make()
        members.append((model, torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, foreach=True)))

    def train() -> Any:
        for model, optimizer in members:
            for _ in range(case.steps):
                optimizer.zero_grad()
                case.loss(model(case.data[0]), case.data[1]).backward()
                optimizer.step()
        return members[0][0]

    return train


def _ensemble(case: Case, engine: str, chunk: int | None, members: int, steps: int) -> gt.ensemble.Ensemble:
    return gt.ensemble.train(
        case.make, case.data, loss=case.loss, optimizer="adam", lr=LEARNING_RATE, steps=steps, seeds=members,
        engine=engine, chunk=chunk,
    )  # fmt: skip


def _engine(case: Case, engine: str, chunk: int | None) -> Callable[[], Any]:
    chunk = None if chunk is None else min(chunk, case.members)
    nets = _ensemble(case, engine, chunk, case.members, 1)
    return lambda: nets.train(case.steps)


def _products(case: Case, chunk: int = 16) -> Callable[[], Any]:
    """The matrix products of a dense forward and backward pass, and nothing else."""
    chunk = min(chunk, case.members) if case.num_params > 100 else case.members
    number, pairs = len(case.data[0]), list(itertools.pairwise(case.widths))
    inputs = [torch.randn(chunk, number, a) for a, _ in pairs]
    outputs = [torch.randn(chunk, number, b) for _, b in pairs]
    weights = [torch.randn(chunk, b, a) for a, b in pairs]
    spare = [[torch.empty_like(t) for t in group] for group in (inputs, outputs, weights)]

    def multiply() -> Any:
        for _ in range(case.steps * case.members // chunk):
            for i, (x, g, w) in enumerate(zip(inputs, outputs, weights, strict=True)):
                torch.bmm(x, w.mT, out=spare[1][i])
                torch.bmm(g.mT, x, out=spare[2][i])
                if i:
                    torch.bmm(g, w, out=spare[0][i])
        return spare

    return multiply


def _deviations(case: Case, steps: int = 20, members: int = 2) -> dict[str, float]:
    """Largest difference of any parameter from the network trained alone."""
    truth = []
    for seed in range(members):
        torch.manual_seed(seed)
        model = case.make()
        optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, foreach=True)
        for _ in range(steps):
            optimizer.zero_grad()
            case.loss(model(case.data[0]), case.data[1]).backward()
            optimizer.step()
        truth.append(nn.utils.parameters_to_vector(model.parameters()).detach())
    found = {}
    for engine in ("stack", "vmap", "compiled"):
        nets = _ensemble(case, engine, members, members, steps)
        found[engine] = float((nets.parameters - torch.stack(truth)).abs().max())
    return found


def _flat(bench: Bench, case: Case) -> None:
    """The cost per network and step with more and more networks."""
    sizes = (16, 128) if bench.quick else (16, 128, 1000)
    table = bench.table(
        f"{case.name}: cost per network and step with more networks, relative to {sizes[0]} of them",
        ["engine", *(f"{n} networks" for n in sizes[1:])],
    )
    for engine in ("stack", "compiled"):
        steps = 4
        sides = {
            f"geartrain, {n}": functools.partial(_ensemble(case, engine, None, n, 1).train, steps)
            for n in sizes
        }
        base = f"geartrain, {sizes[0]}"
        timing = bench.paired(f"{case.name}, {engine}, by number", sides, base=base, repeats=5)
        table.row(engine, *(timing[f"geartrain, {n}"].median * sizes[0] / n for n in sizes[1:]))


def _jax(bench: Bench) -> Any:
    flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    os.environ.setdefault("XLA_FLAGS", flags)  # one thread, like everybody here
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    return bench.peer("jax")


def _jax_side(jax: Any, case: Case, gathered: bool) -> Callable[[], Any]:
    """The same networks in JAX: the gradient vmapped, the steps scanned, the whole jitted, its buffers donated."""
    jnp = jax.numpy
    x, y = jnp.asarray(case.data[0].numpy()), jnp.asarray(case.data[1].numpy())
    which = jnp.asarray(case.data[0].nonzero()[:, 1].view(len(x), -1).numpy()) if gathered else None

    def loss(params: Any) -> Any:
        h = x
        for i, (w, b) in enumerate(params):
            h = w[which].sum(1) + b if gathered and i == 0 else h @ w + b
            if i < len(params) - 1:
                h = jnp.tanh(h) if case.activation is nn.Tanh else jax.nn.relu(h)
        if case.loss is functional.mse_loss:
            return ((h - y) ** 2).mean()
        return -jnp.take_along_axis(jax.nn.log_softmax(h), y[:, None], 1).mean()

    def step(state: Any, _: Any) -> tuple[Any, Any]:
        params, m, v, t = state
        losses, g = jax.vmap(jax.value_and_grad(loss))(params)
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
        size, root = LEARNING_RATE / (1 - 0.9**t), jnp.sqrt(1 - 0.999**t)
        params = jax.tree.map(lambda p, m, v: p - size * m / (jnp.sqrt(v) / root + 1e-8), params, m, v)
        return (params, m, v, t + 1), losses

    train = jax.jit(lambda state: jax.lax.scan(step, state, None, length=case.steps), donate_argnums=0)
    chunk = min(64, case.members) if case.num_params > 100 else case.members
    states = []
    for first in range(0, case.members, chunk):
        models = []
        for seed in range(first, min(first + chunk, case.members)):
            torch.manual_seed(seed)
            models.append([m for m in case.make() if isinstance(m, nn.Linear)])
        params = [
            tuple(
                jnp.asarray(torch.stack([t(layers[i]) for layers in models]).detach().numpy())
                for t in (lambda layer: layer.weight.T.contiguous(), lambda layer: layer.bias)
            )
            for i in range(len(models[0]))
        ]
        zeros = jax.tree.map(jnp.zeros_like, params)
        states.append((params, zeros, jax.tree.map(jnp.zeros_like, params), jnp.ones(())))

    def side() -> Any:
        for i, state in enumerate(states):
            states[i], losses = train(state)
        jax.block_until_ready(states)
        return losses

    return side

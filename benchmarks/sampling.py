"""Sampling: learning coefficients beside devinterp, for time and for accuracy, and HMC beside BlackJAX.

BlackJAX is not in the extra ``benchmark``, since its requirements move jax; the page says how to have it beside.
"""

from __future__ import annotations

import copy
import itertools
import math
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from _bench import Bench, Ratio, Table, Timing
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import geartrain as gt
from geartrain.sampling import Potential, diagnostics

TITLE = "Sampling"
CHAINS, BATCH = 16, 64
LOCALISATION = 1.0


def run(bench: Bench) -> None:
    warnings.simplefilter("ignore")
    coefficients(bench)
    accuracy(bench)
    hamiltonian(bench)


# ------------------------------------------------------------------ learning coefficients


@dataclass(frozen=True)
class Subject:
    """A model at a minimum, and how it is sampled.

    Attributes:
        model: The model.
        loss: Mean over the examples.
        data: Inputs and targets.
        step: Step size of SGLD.
        n_beta: Factor of the loss.
    """

    model: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    data: tuple[Tensor, Tensor]
    step: float
    n_beta: float

    @property
    def objective(self) -> gt.Objective:
        """For geartrain."""
        return gt.Objective(self.model, self.loss, self.data)


def perceptron(activation: type[nn.Module] = nn.ReLU) -> Subject:
    """A network of 4,994 weights, trained a little, on 1,024 points."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 64), activation(), nn.Linear(64, 64), activation(), nn.Linear(64, 2))
    x = torch.randn(1024, 10)
    y = (x[:, 0] * x[:, 1] > 0).long()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return Subject(model, nn.CrossEntropyLoss(), (x, y), 1e-5, 1024 / math.log(1024))


class Residual(nn.Module):
    """A network whose pass is not one of the known stacks: it branches on numbers of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(10, 64), nn.Linear(64, 64), nn.Linear(64, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Sinusoids and a residual sum."""
        x = torch.sin(self.first(x))
        return self.last(x + torch.sin(self.second(x)) * torch.exp(-x.square()))


def coefficients(bench: Bench) -> None:
    """The same chains, draws, batch and step on both sides."""
    draws = 20 if bench.quick else 200
    table = bench.table(
        f"Time of devinterp over geartrain: {CHAINS} chains x {draws} draws of SGLD, batches of {BATCH}",
        [
            "network",
            "engine",
            "devinterp 1.3.2 / geartrain",
            "ms per joint step",
            "of it products and normal numbers",
            "devinterp",
            "goal",
        ],
    )
    stacked = perceptron()
    torch.manual_seed(1)
    other = Subject(Residual(), stacked.loss, stacked.data, stacked.step, stacked.n_beta)
    for name, subject, goals in (
        ("MLP 10-64-64-2", stacked, {"stack": 20.0, "vmap": 8.0}),
        ("residual network with sinusoids", other, {"vmap": 8.0}),
    ):
        sides: dict[str, Callable[[], Any]] = {
            f"geartrain {engine}": _ours(subject, draws, engine=engine) for engine in goals
        }
        sides["floor"] = _floor((10, 64, 64, 2), CHAINS, BATCH, draws, noise=True)
        if peer := _devinterp(bench, subject, draws):
            sides["devinterp"] = peer
        timing = bench.paired(f"SGLD, {name}", sides, base=next(iter(sides)), repeats=5, heavy=True)
        for engine, goal in goals.items():
            own = f"geartrain {engine}"
            ratio = timing.over("devinterp", own) if "devinterp" in timing else None
            table.row(
                name, engine, ratio, 1e3 * timing.median(own) / draws,
                1e3 * timing.median("floor") / draws, 1e3 * timing.median("devinterp") / draws if ratio else None,
                f"{goal:g}: {bench.goal(None if ratio is None else ratio >= goal)}",
            )  # fmt: skip
    table.note(
        "Whole calls: `gt.llc` with its look at the curvature, its diagnostics and its paired baseline; "
        "`estimate_learning_coeff_with_summary` with defaults. A joint step moves all chains. devinterp computes "
        "chains one after the other and collates every batch in a DataLoader; geartrain gathers rows in memory. "
        "Products and normal numbers: what torch takes for nothing but those, which nothing built on it can go below."
    )


def _floor(
    widths: tuple[int, ...], chains: int, rows: int, passes: int, *, noise: bool = False
) -> Callable[[], Any]:
    """Nothing but the batched products of a perceptron's forward and backward pass, and normal numbers if wanted."""
    layers = [
        (torch.randn(chains, rows, a), torch.randn(chains, a, b), torch.randn(chains, rows, b))
        for a, b in itertools.pairwise(widths)
    ]
    count = sum((a + 1) * b for a, b in itertools.pairwise(widths))

    def side() -> Any:
        for _ in range(passes):
            for i, (x, w, g) in enumerate(layers):
                torch.bmm(x, w)
                torch.bmm(x.mT, g)
                if i:
                    torch.bmm(g, w.mT)
            if noise:
                torch.randn(chains, count)

    return side


def _ours(
    subject: Subject,
    draws: int,
    *,
    engine: str = "auto",
    batch: int = BATCH,
    chains: int = CHAINS,
    burn_in: int = 0,
) -> Callable[[], Any]:
    potential = Potential(subject.objective, subject.n_beta, LOCALISATION, batch_size=batch, engine=engine)
    seeds = itertools.count()

    def side() -> Any:
        return gt.llc(
            potential, kernel="sgld", step_size=subject.step, chains=chains, draws=draws, burn_in=burn_in,
            generator=next(seeds),
        )  # fmt: skip

    return side


def _devinterp(
    bench: Bench, subject: Subject, draws: int, *, batch: int = BATCH, chains: int = CHAINS, burn_in: int = 0
) -> Callable[[], Any] | None:
    if bench.peer("devinterp", "1.3.2") is None:
        return None
    from devinterp.optim.sgld import SGLD
    from devinterp.slt.sampler import estimate_learning_coeff_with_summary

    model = copy.deepcopy(subject.model)
    seeds = itertools.count()

    def evaluate(model: nn.Module, data: Any) -> Tensor:
        inputs, targets = data
        return subject.loss(model(inputs), targets)

    def side() -> Any:
        seed = next(seeds)
        torch.manual_seed(seed)
        loader = DataLoader(TensorDataset(*subject.data), batch_size=batch, shuffle=True)
        # Its SGLD has drift lr/2 (nbeta gradient + localisation pull) and noise sqrt(lr): the same convention.
        options: Any = {"lr": subject.step, "localization": LOCALISATION, "nbeta": subject.n_beta}
        return estimate_learning_coeff_with_summary(
            model, loader, evaluate=evaluate, sampling_method=SGLD, optimizer_kwargs=options, num_chains=chains,
            num_draws=draws, num_burnin_steps=burn_in, seed=1000 * seed, verbose=False,
        )  # fmt: skip

    return side


def accuracy(bench: Bench) -> None:
    """Least squares in ten dimensions, whose coefficient is known exactly: time to a given accuracy."""
    repeats = 3 if bench.quick else 12
    chains, batch, burn_in, draws = 4, 32, 200, 300
    subject, truth = _least_squares(batch)
    ours = _ours(subject, draws, batch=batch, chains=chains, burn_in=burn_in)
    sides: dict[str, Callable[[], Any]] = {"geartrain": ours}
    if peer := _devinterp(bench, subject, draws, batch=batch, chains=chains, burn_in=burn_in):
        sides["devinterp"] = peer
    timing = bench.paired("SGLD, least squares", sides, base="geartrain", repeats=3, heavy=True)
    table = bench.table(
        f"Least squares, d 10, n 1,024, batches of {batch}, {chains} chains x {draws} draws: exact value {truth:.3f}",
        [
            "side",
            "seconds",
            "mean over seeds",
            "rms error",
            "error it states",
            "time to equal accuracy / geartrain",
        ],
    )
    values = {
        name: np.array([_value_and_error(side()) for _ in range(repeats)]) for name, side in sides.items()
    }
    cost = {
        name: timing.median(name) * float(np.mean((found[:, 0] - truth) ** 2))
        for name, found in values.items()
    }
    for name, found in values.items():
        table.row(
            "devinterp 1.3.2" if name == "devinterp" else name, timing.median(name), float(found[:, 0].mean()),
            float(np.sqrt(np.mean((found[:, 0] - truth) ** 2))), float(np.sqrt((found[:, 1] ** 2).mean())),
            cost[name] / cost["geartrain"],
        )  # fmt: skip
    bench.keep("least squares", {name: found.tolist() for name, found in values.items()} | {"truth": truth})
    table.note(
        f"{repeats} seeds. The exact value includes what step size and minibatches add, which both share (without: "
        "4.97). Time to equal accuracy: seconds times mean squared error. devinterp's error is that of its baseline, "
        "which it takes from as many minibatches as chains; its `llc/std`, divided by the root of the number of chains "
        "here, does not see it."
    )


def _least_squares(batch: int) -> tuple[Subject, float]:
    g = torch.Generator().manual_seed(0)
    n, d, step = 1024, 10, 1e-3
    x = torch.randn(n, d, generator=g)
    y = x @ torch.ones(d, 1) + torch.randn(n, 1, generator=g)
    model = nn.Linear(d, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.linalg.lstsq(x, y).solution.T)
        residual = float((y - model(x)).square().mean())
    n_beta = n / math.log(n)
    h = torch.linalg.eigvalsh((x.T @ x / n).double())
    noise = gt.sampling.truths.least_squares_noise(h, n_beta, residual, batch)
    truth = gt.sampling.truths.quadratic_estimate(
        h, n_beta, LOCALISATION, step_size=step, gradient_noise=noise
    )
    return Subject(model, lambda out, t: 0.5 * (out - t).square().mean(), (x, y), step, n_beta), truth


def _value_and_error(found: Any) -> tuple[float, float]:
    if isinstance(found, dict):
        chains = sum(key.startswith("llc-chain/") for key in found)
        return float(found["llc/mean"]), float(found["llc/std"]) / math.sqrt(chains)
    return float(found.value), found.standard_error


# ------------------------------------------------------------------ HMC


def hamiltonian(bench: Bench) -> None:
    """Chain-samples per processor second, and effective ones, at the same step and length."""
    table = bench.table(
        "HMC, 32 chains, 1.3k weights, 256 points, 16 leapfrog steps: geartrain over BlackJAX",
        [
            "network",
            "engine",
            "chain-samples per CPU second",
            "BlackJAX 1.7.1",
            "ratio",
            "per effective sample",
            "if only torch's products took time",
            "goal",
        ],
    )
    peer = _blackjax(bench)
    draws, long = (4, 12) if bench.quick else (30, 150)
    for name, activation in (("4-32-32-2, tanh", nn.Tanh), ("4-32-32-2, ReLU", nn.ReLU)):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(4, 32), activation(), nn.Linear(32, 32), activation(), nn.Linear(32, 2)
        )
        x = torch.randn(256, 4)
        objective = gt.Objective(model, nn.CrossEntropyLoss(), (x, (x[:, 0] * x[:, 1] > 0).long()))
        sides: dict[str, Callable[[], Any]] = {
            f"geartrain {engine}": _our_hmc(objective, draws, engine) for engine in ("stack", "vmap")
        }
        sides["floor"] = _floor((4, 32, 32, 2), 32, 256, 16 * draws)
        if peer is not None:
            sides["blackjax"] = _their_hmc(peer, objective, activation is nn.Tanh, draws)
        timing = bench.paired(f"HMC, {name}", sides, base="geartrain stack", repeats=5)
        gain = None
        if peer is not None:
            longer = (
                _our_hmc(objective, long, "stack"),
                _their_hmc(peer, objective, activation is nn.Tanh, long),
            )
            ours, theirs = (_ess(side()) for side in longer)
            gain = ours / theirs
            bench.keep(
                f"effective samples, {name}", {"geartrain": ours, "blackjax": theirs, "draws": 32 * long}
            )
        for engine, goal in (("stack", 1.4), ("vmap", 1.0)):
            _hmc_row(bench, table, timing, name, engine, goal, draws, gain)
    table.note(
        "Same step size (0.01), number of leapfrog steps and start on both sides, no jitter; both in float32 on one "
        "thread. BlackJAX is compiled as vmap + scan + jit, compilation not counted. Effective samples: of the energy, "
        "in a run of 150 draws after its first third; the algorithm is the same, so that the two "
        "ratios differ by chance only."
    )
    table.note(
        "BlackJAX lies in a folder of its own, since its requirements move jax: `pip install --target FOLDER --no-deps "
        "blackjax==1.7.1 fastprogress jaxopt optax chex toolz absl-py`, then `PYTHONPATH=FOLDER python "
        "benchmarks/run.py sampling`."
    )


def _hmc_row(
    bench: Bench,
    table: Table,
    timing: Timing,
    name: str,
    engine: str,
    goal: float,
    draws: int,
    gain: float | None,
) -> None:
    own = f"geartrain {engine}"
    speed = 32 * draws / timing.median(own)
    if gain is None:
        table.row(name, engine, speed, None, None, None, None, f"{goal:g}: {bench.goal(None)}")
        return
    ratio = timing.over("blackjax", own)
    per = Ratio(ratio.median * gain, ratio.low * gain, ratio.high * gain, ratio.repeats)
    met = f"{goal:g}: {bench.goal(per >= goal)}"
    table.row(
        name,
        engine,
        speed,
        32 * draws / timing.median("blackjax"),
        ratio,
        per,
        timing.over("blackjax", "floor"),
        met,
    )


def _ess(energies: np.ndarray) -> float:
    return float(diagnostics.ess(torch.as_tensor(energies[:, energies.shape[1] // 3 :]).double(), "mean"))


def _our_hmc(objective: gt.Objective, draws: int, engine: str) -> Callable[[], np.ndarray]:
    potential = Potential(objective, prior_precision=1.0, engine=engine)
    seeds = itertools.count()

    def side() -> np.ndarray:
        found = gt.sampling.sample(
            potential, "hmc", chains=32, draws=draws, burn_in=0, step_size=0.01, steps=16, jitter=0.0,
            keep="statistics", generator=next(seeds),
        )  # fmt: skip
        return found.energies.numpy()

    return side


def _blackjax(bench: Bench) -> Any:
    # One thread, as for torch; jax reads this when it starts.
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
    return bench.peer("blackjax", "1.7.1")


def _their_hmc(blackjax: Any, objective: gt.Objective, tanh: bool, draws: int) -> Callable[[], np.ndarray]:
    import jax
    import jax.numpy as jnp

    (batch,) = objective.batches
    x, y = (jnp.asarray(t.numpy()) for t in batch)
    start = [jnp.asarray(p.detach().numpy()) for p in objective.model.parameters()]
    act = jnp.tanh if tanh else jax.nn.relu

    def log_density(p: list[Any]) -> Any:
        a = act(x @ p[0].T + p[1])
        a = act(a @ p[2].T + p[3])
        logits = a @ p[4].T + p[5]
        fit = jnp.sum(jax.nn.log_softmax(logits)[jnp.arange(len(y)), y])
        return fit - 0.5 * sum(jnp.sum(q**2) for q in p)

    kernel = blackjax.hmc(log_density, 0.01, jnp.ones(objective.num_params), 16)
    states = jax.vmap(kernel.init)([jnp.stack([q] * 32) for q in start])

    @jax.jit
    def chains(key: Any, states: Any) -> Any:
        def one(states: Any, key: Any) -> Any:
            states, _ = jax.vmap(kernel.step)(jax.random.split(key, 32), states)
            return states, states.logdensity

        return jax.lax.scan(one, states, jax.random.split(key, draws))[1]

    seeds = itertools.count()

    def side() -> np.ndarray:
        return -np.asarray(chains(jax.random.key(next(seeds)), states)).T

    return side

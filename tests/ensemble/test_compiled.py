"""The compiled engine: whole blocks of steps equal to torch's networks and optimizers, and refusals that say why."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.made import normal, seeded
from torch import Tensor, nn
from torch.nn import functional

import geartrain as gt
from geartrain._torch import flat
from geartrain.ensemble.engines import compiled
from geartrain.ensemble.engines._base import Batch, Block, FusedEngine

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="needs geartrain[fast]"),
    pytest.mark.slow,  # the first call compiles for half a minute; later ones find the code on disk
]

# Rounding of a float32 network over 15 steps: a thousand units in the last place, as sums are taken in another order.
TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-4}
OPTIMIZERS: dict[str, tuple[str, dict[str, float], Callable[..., torch.optim.Optimizer], dict[str, Any]]] = {
    "sgd": ("sgd", {"weight_decay": 0.1}, torch.optim.SGD, {"weight_decay": 0.1}),
    "momentum": ("sgd", {"momentum": 0.9}, torch.optim.SGD, {"momentum": 0.9}),
    "nesterov": (
        "sgd",
        {"momentum": 0.8, "nesterov": 1.0},
        torch.optim.SGD,
        {"momentum": 0.8, "nesterov": True},
    ),
    "adam": ("adam", {"weight_decay": 0.05}, torch.optim.Adam, {"weight_decay": 0.05}),
    "adamw": ("adamw", {"weight_decay": 0.2}, torch.optim.AdamW, {"weight_decay": 0.2}),
    "rmsprop": ("rmsprop", {"momentum": 0.5}, torch.optim.RMSprop, {"momentum": 0.5}),
}
DEFAULTS = {"sgd": {}, "rmsprop": {"alpha": 0.99, "eps": 1e-8}}
ADAM = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
STEPS, MEMBERS = 15, 3


def perceptron(
    *widths: int, activation: Callable[[], nn.Module] = nn.Tanh, bias: bool = True
) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b, bias=bias), activation()]
    return nn.Sequential(*layers[:-1])


def networks(make: Callable[[], nn.Module], dtype: torch.dtype) -> list[nn.Module]:
    models = []
    for seed in range(MEMBERS):
        torch.manual_seed(seed)
        models.append(make().to(dtype))
    return models


def row(model: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach()


def block_of(params: Tensor, batches: list[Batch], optimizer: str = "adam", **options: Any) -> Block:
    rule, given, _, _ = OPTIMIZERS[optimizer]
    values = {"weight_decay": 0.0, **DEFAULTS.get(rule, ADAM), **given}
    names = {"sgd": ["momentum_buffer"], "rmsprop": ["momentum_buffer", "square_avg"]}.get(
        rule, ["exp_avg", "exp_avg_sq"]
    )
    names = [n for n in names if n != "momentum_buffer" or values.get("momentum")]
    settings: dict[str, Any] = {
        "params": params, "buffers": {}, "optimizer": rule, "steps": STEPS, "static": len(batches) == 1,
        "settings": {k: torch.full((len(params),), v, dtype=params.dtype) for k, v in values.items()},
        "state": {n: torch.zeros_like(params) for n in names},
        "taken": torch.zeros(len(params), dtype=torch.int64),
        "lr": torch.linspace(0.02, 0.01, STEPS, dtype=params.dtype)[:, None].expand(STEPS, len(params)).contiguous(),
        "batch": lambda k: batches[k % len(batches)],
    }  # fmt: skip
    return Block(**{**settings, **options})


def trained_alone(
    model: nn.Module,
    batches: list[tuple[Tensor, Tensor]],
    loss: Any,
    optimizer: str = "adam",
    clip: float | None = None,
) -> list[float]:
    _, _, make, options = OPTIMIZERS[optimizer]
    rule = make(model.parameters(), lr=0.02, **options)
    losses = []
    for k in range(STEPS):
        rule.param_groups[0]["lr"] = 0.02 - 0.01 * k / (STEPS - 1)
        rule.zero_grad()
        value = loss(model(batches[k % len(batches)][0]), batches[k % len(batches)][1])
        value.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        rule.step()
        losses.append(value.item())
    return losses


def engine_for(models: list[nn.Module], loss: Any) -> tuple[compiled.Compiled, Tensor]:
    layout = flat.layout_of(flat.select(models[0], None))
    return compiled.build(models[0], loss, layout), torch.stack([row(m) for m in models])


def close(a: Any, b: Any, dtype: torch.dtype) -> bool:
    return torch.allclose(
        torch.as_tensor(a, dtype=dtype), torch.as_tensor(b, dtype=dtype), rtol=0, atol=TOLERANCE[dtype]
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_equals_torch(optimizer: str, dtype: torch.dtype) -> None:
    models = networks(lambda: perceptron(3, 9, 4), dtype)
    x, y = (
        normal(70, 3).to(dtype),
        torch.randint(4, (70,), generator=seeded(1)),
    )  # more than one tile of points
    engine, params = engine_for(models, functional.cross_entropy)
    losses = engine.run(block_of(params, [Batch(x, y, True, True)], optimizer))
    for i, model in enumerate(models):
        assert close(losses[:, i], trained_alone(model, [(x, y)], functional.cross_entropy, optimizer), dtype)
        assert close(params[i], row(model), dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("activation", [
    nn.ReLU, nn.LeakyReLU, lambda: nn.LeakyReLU(-0.3), nn.Tanh, nn.Sigmoid, nn.SiLU, nn.GELU, nn.Identity
])  # fmt: skip
@pytest.mark.parametrize("widths", [(2, 2, 1), (17, 33, 6), (5, 40, 21, 10)])
def test_every_activation_and_width(widths: tuple[int, ...], activation: Any, dtype: torch.dtype) -> None:
    models = networks(lambda: perceptron(*widths, activation=activation, bias=widths[0] != 17), dtype)
    x, y = normal(67, widths[0]).to(dtype), normal(67, widths[-1], seed=1).to(dtype)
    engine, params = engine_for(models, functional.mse_loss)
    losses = engine.run(block_of(params, [Batch(x, y, True, True)], "sgd"))
    for i, model in enumerate(models):
        assert close(losses[:, i], trained_alone(model, [(x, y)], functional.mse_loss, "sgd"), dtype)
        assert close(params[i], row(model), dtype)


@pytest.mark.parametrize("piece", [1, 16 << 20])
@pytest.mark.parametrize("threads", [1, 2])
def test_batches_that_change_and_differ_between_members(
    piece: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "PIECE_BYTES", piece)
    models = networks(lambda: perceptron(3, 9, 4), torch.float64)
    x, y = normal(STEPS, MEMBERS, 8, 3), torch.randint(4, (STEPS, MEMBERS, 8), generator=seeded(1))
    engine, params = engine_for(models, functional.cross_entropy)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        losses = engine.run(block_of(params, [Batch(a, b, False, False) for a, b in zip(x, y, strict=True)]))
    finally:
        torch.set_num_threads(before)
    for i, model in enumerate(models):
        own = [(x[k, i], y[k, i]) for k in range(STEPS)]
        assert close(losses[:, i], trained_alone(model, own, functional.cross_entropy), torch.float64)
        assert close(params[i], row(model), torch.float64)


@pytest.mark.parametrize("squared", [False, True])
def test_batches_of_different_sizes(squared: bool) -> None:
    models = networks(lambda: perceptron(3, 9, 4), torch.float64)
    x, labels = normal(MEMBERS, 8, 3), torch.randint(4, (MEMBERS, 8), generator=seeded(1))
    y = normal(MEMBERS, 8, 4, seed=2) if squared else labels
    loss = functional.mse_loss if squared else functional.cross_entropy
    sizes = torch.tensor([8, 5, 1])
    weights = (torch.arange(8) < sizes[:, None]) / sizes[:, None].double()
    engine, params = engine_for(models, loss)
    engine.run(block_of(params, [Batch(x, y, False, False, weights)]))
    for i, model in enumerate(models):
        trained_alone(model, [(x[i, : sizes[i]], y[i, : sizes[i]])], loss)
        assert close(params[i], row(model), torch.float64)


def test_clipping_and_ignored_labels() -> None:
    models = networks(lambda: perceptron(3, 9, 4), torch.float64)
    x, y = normal(20, 3), torch.randint(4, (20,), generator=seeded(1))
    y[3:7] = -100
    engine, params = engine_for(models, functional.cross_entropy)
    clip = torch.tensor([0.05, 0.2, torch.inf]).double()
    engine.run(block_of(params, [Batch(x, y, True, True)], "sgd", clip=clip))
    for i, model in enumerate(models):
        trained_alone(model, [(x, y)], functional.cross_entropy, "sgd", clip=float(clip[i]))
        assert close(params[i], row(model), torch.float64)


def test_masked_parameters_do_not_move() -> None:
    models = networks(lambda: perceptron(3, 9, 4), torch.float64)
    engine, params = engine_for(models, functional.cross_entropy)
    before, mask = params.clone(), (normal(*params.shape, seed=4) > 0).double()
    x, y = normal(20, 3), torch.randint(4, (20,), generator=seeded(1))
    engine.run(block_of(params, [Batch(x, y, True, True)], "momentum", mask=mask))
    assert torch.equal(params[mask == 0], before[mask == 0])
    assert (params != before)[mask == 1].all()


def test_members_freeze_where_their_loss_is_low_or_no_number() -> None:
    models = networks(lambda: perceptron(3, 9, 4), torch.float64)
    x, y = normal(20, 3), torch.randint(4, (20,), generator=seeded(1))
    engine, params = engine_for(models, functional.cross_entropy)
    params[1, 0] = torch.nan
    before = params.clone()
    free = trained_alone(models[2], [(x, y)], functional.cross_entropy)
    below = torch.tensor([-torch.inf, -torch.inf, free[4]]).double() * (1 + 1e-9)
    block = block_of(params, [Batch(x, y, True, True)], below=below)
    losses = engine.run(block)
    assert torch.isfinite(losses[:, 0]).all()
    assert torch.isnan(losses[:, 1]).all()
    assert torch.equal(params[1].nan_to_num(7.0), before[1].nan_to_num(7.0))
    assert not block.state["exp_avg"][1].any()
    assert torch.isfinite(losses[:5, 2]).all()
    assert torch.isnan(losses[5:, 2]).all()


def test_two_blocks_are_one() -> None:
    models = networks(lambda: perceptron(3, 9, 4), torch.float32)
    batch = Batch(normal(70, 3).float(), torch.randint(4, (70,), generator=seeded(1)), True, True)
    engine, params = engine_for(models, functional.cross_entropy)
    whole = block_of(params.clone(), [batch])
    engine.run(whole)
    halves = block_of(params.clone(), [batch])
    for start, end in ((0, 6), (6, STEPS)):
        lr = halves.lr[start:end].contiguous()
        options = {"state": halves.state, "taken": halves.taken + start, "lr": lr, "steps": end - start}
        engine.run(block_of(halves.params, [batch], **options))
    assert torch.equal(whole.params, halves.params)


def test_labels_outside_the_classes_are_refused() -> None:
    models = networks(lambda: perceptron(3, 9, 4), torch.float32)
    engine, params = engine_for(models, functional.cross_entropy)
    with pytest.raises(IndexError, match="Labels run from 4 to 4; there are 4 classes"):
        engine.run(block_of(params, [Batch(normal(2, 3).float(), torch.tensor([4, 4]), True, True)]))


def test_the_engine_is_fused_and_says_what_it_cannot_run() -> None:
    models = networks(lambda: perceptron(3, 9, 4), torch.float32)
    engine, params = engine_for(models, functional.cross_entropy)
    assert isinstance(engine, FusedEngine)
    assert engine.members_at_once(64) <= torch.get_num_threads()
    block = block_of(params, [])
    assert engine.can_run(block) is None
    assert "no compiled update for adagrad" in str(
        engine.can_run(dataclasses.replace(block, optimizer="adagrad"))
    )
    assert "do not lie in a row" in str(engine.can_run(block_of(params.T.contiguous().T, [])))


@pytest.mark.parametrize(
    ("make", "x", "why"),
    [
        (lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)), normal(5, 3), "LayerNorm, not only linear layers"),
        (lambda: perceptron(3, 400, 400, 4), normal(5, 3), "at most 50,000 parameters; this one has 163,604"),
        (lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh()), normal(5, 3), "activation follows the last"),
        (lambda: nn.Sequential(nn.Linear(3, 4), nn.GELU("tanh"), nn.Linear(4, 4)), normal(5, 3), "is not known"),
        (lambda: nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5)), normal(5, 3), "Dropout with p=0.5"),
        (lambda: perceptron(3, 4, 4), normal(5, 3), None),
    ],
)  # fmt: skip
def test_refusals_say_why(make: Any, x: Tensor, why: str | None) -> None:
    reason = compiled.supports(
        make().double(), functional.cross_entropy, Batch(x, torch.zeros(len(x)).long(), True, True)
    )
    assert reason is None if why is None else why in str(reason)


def test_without_numba_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    batch = Batch(normal(5, 3), torch.zeros(5).long(), True, True)
    reason = compiled.supports(perceptron(3, 4).double(), functional.cross_entropy, batch)
    assert reason == "numba is not installed; install geartrain[fast]"


def test_an_ensemble_trained_by_it_equals_networks_alone() -> None:
    data = normal(30, 3), torch.randint(4, (30,), generator=seeded(1))
    options: dict[str, Any] = {"loss": functional.cross_entropy, "steps": 20, "batch_size": 7, "lr": 0.01}
    nets = gt.ensemble.train(
        lambda: perceptron(3, 9, 4).double(), data, seeds=3, engine="compiled", chunk=2, **options
    )
    for seed in range(3):
        alone = gt.ensemble.alone(lambda: perceptron(3, 9, 4).double(), data, seed=seed, **options)
        assert close(nets.parameters[seed], row(alone.model), torch.float64)

"""Every member equals the network that a plain loop with `torch.optim` trains: engines x optimizers x settings."""

from __future__ import annotations

import pytest
import torch
from tests.ensemble.nets import (
    CLASSES,
    IMAGES,
    POINTS,
    VALUES,
    Tied,
    alone,
    assert_equals_alone,
    convolutional,
    dropped,
    mlp,
    normed,
    train,
)
from torch import nn
from torch.nn import functional

import geartrain as gt
from geartrain.ensemble import Average, Schedule, engines
from geartrain.ensemble.optimizers import NAMES
from geartrain.errors import UnsupportedError

ENGINES = engines.names()


def train_or_skip(engine, *args, **options):
    """Declining is an engine's right, if it says why; for the two that must run everything here it is a failure."""
    try:
        return train(*args, engine=engine, **options)
    except UnsupportedError as error:
        if engine in ("loop", "vmap"):
            raise
        pytest.skip(str(error))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("optimizer", NAMES)
def test_each_engine_with_each_optimizer(engine, optimizer):
    options = dict(optimizer=optimizer, lr=0.03, weight_decay=0.02, batch_size=7)
    nets = train_or_skip(engine, chunk=3, **options)
    assert nets.plan is not None
    assert nets.plan.engine == engine
    for seed in range(4):
        assert_equals_alone(nets, seed, alone(seed=seed, **options))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("optimizer", NAMES)
def test_every_setting_may_differ_by_member(engine, optimizer):
    own = [
        dict(lr=0.01, weight_decay=0.0, batch_size=5, clip_grad_norm=0.3),
        dict(lr=0.05, weight_decay=0.1, batch_size=24, clip_grad_norm=float("inf")),
        dict(lr=0.0, weight_decay=0.3, batch_size=9, clip_grad_norm=0.01),
    ]
    if optimizer.startswith("adam"):
        for one, betas, eps in zip(
            own, [(0.9, 0.999), (0.5, 0.9), (0.0, 0.99)], (1e-8, 1e-3, 1e-5), strict=True
        ):
            one.update(betas=betas, eps=eps)
    else:
        for one, momentum in zip(own, (0.9, 0.5, 0.1), strict=True):
            one.update(momentum=momentum)
    together = {key: [one[key] for one in own] for key in own[0]}
    nets = train_or_skip(engine, optimizer=optimizer, seeds=[5, 6, 9], **together)
    for i, seed in enumerate((5, 6, 9)):
        assert_equals_alone(nets, i, alone(seed=seed, optimizer=optimizer, **own[i]))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("make", "data", "loss"),
    [
        (normed, (POINTS, CLASSES), functional.cross_entropy),
        (dropped, (POINTS, CLASSES), functional.cross_entropy),
        (convolutional, (IMAGES, CLASSES[:12]), functional.cross_entropy),
        (Tied, (POINTS, CLASSES), functional.cross_entropy),
        (lambda: nn.Linear(3, 2).double(), (POINTS, VALUES), nn.MSELoss()),
        (lambda: nn.Bilinear(3, 3, 2).double(), ((POINTS, POINTS.flip(1)), VALUES), functional.mse_loss),
    ],
    ids=["batch norm", "dropout", "convolution", "tied, frozen, unused", "regression", "two inputs"],
)
def test_any_model(engine, make, data, loss):
    options = dict(lr=0.02, batch_size=6, loss=loss)
    if make is dropped and engine != "loop":
        with pytest.raises(UnsupportedError):
            train(make, data, engine=engine, **options)
        engine = "auto"
    nets = train_or_skip(engine, make, data, **options)
    if engine == "auto":
        assert nets.plan.engine == "loop"
        assert "dropout" in nets.plan.declined["vmap"]
    for seed in (0, 3):
        assert_equals_alone(nets, seed, alone(make, data, seed=seed, **options))


SETTINGS = {
    "full batches": {},
    "label noise": {"label_noise": 0.3, "batch_size": 8},
    "label noise, full": {"label_noise": 0.3},
    "subset": {"subset": [3, 1, 4, 15, 9, 2, 6], "batch_size": 3},
    "cosine": {"schedule": "cosine"},
    "warm-up": {"schedule": Schedule("constant", warmup=5)},
    "stairs": {"schedule": Schedule("step", every=4, gamma=0.3)},
    "function": {"schedule": lambda t: 1 / (1 + t)},
    "clipping": {"clip_grad_norm": 0.1},
    "ema": {"average": 0.8},
    "swa": {"average": Average("swa", start=4, every=3)},
    "mask": {"mask": {"0.weight": (torch.arange(15) % 2).view(5, 3)}},
    "initial": {"initial": torch.linspace(-1, 1, 38, dtype=torch.float64)},
    "stop below": {"stop": 1.0, "lr": 0.1},
    "plateau": {"stop": gt.ensemble.Stop(plateau=2), "lr": 0.5},
    "diverging": {"optimizer": "sgd", "lr": 1e12, "data": (POINTS, POINTS), "loss": functional.mse_loss},
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("setting", SETTINGS)
def test_each_setting(engine, setting):
    options = {"lr": 0.05, "optimizer": "adam", **SETTINGS[setting]}
    nets = train_or_skip(engine, chunk=2, steps=30, **options)
    stopped = 0
    for seed in range(4):
        lone = alone(seed=seed, steps=30, **options)
        stopped += lone.status.state != "running"
        assert_equals_alone(nets, seed, lone)
    assert bool(stopped) == (setting in ("stop below", "plateau", "diverging"))


@pytest.mark.parametrize("engine", ENGINES)
def test_single_precision(engine):
    # 40 Adam steps of size 1e-3 from gradients that agree to 1e-6 relatively: 1e-5 allows for steps of small gradients.
    options = dict(dtype=torch.float32, steps=40, batch_size=8)
    nets = train_or_skip(engine, **options)
    assert nets.parameters.dtype == torch.float32
    for seed in range(4):
        assert_equals_alone(nets, seed, alone(seed=seed, **options), tolerance=1e-5)


def test_per_member_schedules_subsets_masks_and_states():
    masks = [{"2.weight": torch.full((3, 5), float(i % 2))} for i in range(3)]
    subsets = [[0, 1, 2, 3], list(range(24)), list(range(5, 15))]
    starts = [{k: v * (i + 1) for k, v in mlp().state_dict().items()} for i in range(3)]
    common = dict(lr=0.05, batch_size=6)
    nets = train(
        seeds=3, mask=masks, subset=subsets, initial=starts, label_noise=[0, 0.5, 0.2],
        schedule=lambda t: [1.0, 0.5, 1 / (t + 1)], **common,
    )  # fmt: skip
    factors = (lambda t: 1.0, lambda t: 0.5, lambda t: 1 / (t + 1))
    for i, noise in enumerate((0, 0.5, 0.2)):
        lone = alone(
            seed=i,
            mask=masks[i],
            subset=subsets[i],
            initial=starts[i],
            label_noise=noise,
            schedule=factors[i],
            **common,
        )
        assert_equals_alone(nets, i, lone)


def test_engines_and_chunks_agree_and_company_does_not_matter():
    reference = train(engine="loop", batch_size=5).parameters
    for options in (dict(engine="vmap"), dict(engine="vmap", chunk=3), dict(engine="loop", chunk=2), {}):
        torch.testing.assert_close(
            train(batch_size=5, **options).parameters, reference, rtol=1e-10, atol=1e-10
        )
    some = train(seeds=[3, 1], batch_size=5, engine="loop").parameters
    assert torch.equal(some, reference[[3, 1]])


def test_a_member_is_the_seeded_network():
    torch.manual_seed(2)
    expected = mlp()
    nets = train(steps=0)
    for mine, theirs in zip(nets.member(2).parameters(), expected.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_the_program_is_left_alone():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    train(dropped, steps=3, batch_size=4, label_noise=0.2)
    assert torch.equal(torch.get_rng_state(), state)

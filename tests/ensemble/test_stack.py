"""The stack engine: gradients equal to autograd's over a zoo of stacks, and refusals that say why."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.made import normal, seeded
from torch import Tensor, nn
from torch.nn import functional

from geartrain._torch import flat
from geartrain.ensemble.engines import loop, stack
from geartrain.ensemble.engines._base import Batch

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU, "leaky": lambda: nn.LeakyReLU(0.2), "backward leaky": lambda: nn.LeakyReLU(-0.2), "gelu": nn.GELU,
    "gelu tanh": lambda: nn.GELU("tanh"), "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "silu": nn.SiLU, "none": nn.Identity,
}  # fmt: skip
X, Y = normal(12, 5), torch.randint(3, (12,), generator=seeded(1))
TOKENS = torch.randint(11, (6, 5), generator=seeded(2))
IMAGES = normal(12, 2, 8, 8, seed=3)
CODES = functional.one_hot(torch.randint(60, (12,), generator=seeded(4)), 60).double()


def perceptron(*widths: int, activation: Callable[[], nn.Module] = nn.Tanh) -> nn.Sequential:
    return nn.Sequential(
        *[m for a, b in itertools.pairwise(widths) for m in (nn.Linear(a, b), activation())][:-1]
    )


class Attending(nn.Module):
    """One layer of torch's attention with a causal mask, positions as a parameter, the last place read out."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(11, 8, padding_idx=0), nn.Parameter(torch.randn(5, 8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm, self.out = nn.LayerNorm(8), nn.Linear(8, 11)
        self.register_buffer("mask", torch.ones(5, 5, dtype=torch.bool).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        h = self.tokens(x) + self.places
        h = h + self.attention(h, h, h, attn_mask=self.mask, need_weights=False)[0]
        return self.out(self.norm(h))[:, -1]


class ByHand(nn.Module):
    """Attention written out, tied weights, products with numbers, a mean over places."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.qkv = nn.Embedding(11, 8), nn.Linear(8, 24)
        self.out, self.up = nn.Linear(8, 8, bias=False), nn.Linear(8, 11, bias=False)
        self.up.weight = self.tokens.weight

    def forward(self, x: Tensor) -> Tensor:
        h = self.tokens(x)
        q, k, v = self.qkv(h).chunk(3, -1)
        h = h + self.out(torch.softmax(q @ k.transpose(-2, -1) / 8**0.5, -1) @ v)
        return self.up(torch.relu(h).mean(1))


class Fused(nn.Module):
    """Heads by view and permute, fused causal attention, position numbers from the size."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(11, 8), nn.Embedding(7, 8)
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 11)

    def forward(self, x: Tensor) -> Tensor:
        h = self.tokens(x) + self.places(torch.arange(x.shape[1], device=x.device))
        batch, places, width = h.shape
        q, k, v = self.qkv(h).view(batch, places, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(h - mixed.transpose(1, 2).reshape(batch, places, width) * 0.5)


class Branches(nn.Module):
    """A value used three times, once by an activation that would like to work in place."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 4), nn.Linear(4, 4)
        self.unreached = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return (h + torch.tanh(self.b(torch.relu(h))) + torch.sigmoid(h)).sum(-1)


def next_token(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())


def squeezed(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.mse_loss(outputs.squeeze(-1), targets)


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, stride=2),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(6, 3),
    )


ZOO: dict[str, tuple[Callable[[], nn.Module], Any, Tensor, Tensor]] = {
    "perceptron": (lambda: perceptron(5, 7, 6, 3), functional.cross_entropy, X, Y),
    "loss module": (lambda: perceptron(5, 7, 3), nn.CrossEntropyLoss(), X, Y),
    "ignored labels": (lambda: perceptron(5, 7, 3), nn.CrossEntropyLoss(ignore_index=1), X, Y),
    "squared error": (lambda: perceptron(5, 7, 3), nn.MSELoss(), X, normal(12, 3, seed=5)),
    "squeezed": (lambda: perceptron(5, 7, 1), squeezed, X, normal(12, seed=6)),
    "one layer": (lambda: nn.Linear(5, 3), functional.cross_entropy, X, Y),
    "one-hot": (lambda: perceptron(60, 7, 3), functional.cross_entropy, CODES, Y),
    "sparse": (lambda: perceptron(60, 7, 3), functional.cross_entropy, CODES * normal(12, 60, seed=9), Y),
    "nested": (
        lambda: nn.Sequential(
            nn.Linear(5, 8), nn.Sequential(nn.LayerNorm(8), nn.Tanh(), nn.Dropout(0.0)), nn.Linear(8, 3, bias=False)
        ),
        functional.cross_entropy, X, Y,
    ),
    "convolutions": (convolutions, functional.cross_entropy, IMAGES, Y),
    "pooled": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, padding="same"), nn.LayerNorm([4, 8, 8], elementwise_affine=False), nn.ReLU(),
            nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
        ),
        functional.cross_entropy, IMAGES, Y,
    ),
    "attending": (Attending, functional.cross_entropy, TOKENS, TOKENS[:, 0]),
    "by hand": (ByHand, functional.cross_entropy, TOKENS, TOKENS[:, 0]),
    "fused": (Fused, next_token, TOKENS, TOKENS.roll(-1, 1)),
    "branches": (Branches, functional.mse_loss, X, normal(12, seed=7)),
}  # fmt: skip


def networks(
    make: Callable[[], nn.Module], members: int = 3
) -> tuple[nn.Module, flat.Layout, Tensor, dict[str, Tensor]]:
    models = []
    for seed in range(members):
        torch.manual_seed(seed)
        models.append(make().double())
    layout = flat.layout_of(flat.select(models[0], None))
    params = torch.stack([layout.flatten(p.detach() for p in flat.select(m, None).values()) for m in models])
    others = {n for n, _ in models[0].named_buffers()} | {
        n for n, p in models[0].named_parameters() if not p.requires_grad
    }
    buffers = {n: torch.stack([m.get_parameter(n).detach() if n in dict(m.named_parameters()) else m.get_buffer(n)
                               for m in models]) for n in others}  # fmt: skip
    return models[0], layout, params, buffers


def assert_equal_to_autograd(make: Any, loss: Any, batch: Batch) -> None:
    model, layout, params, buffers = networks(make)
    truth, gradient = loop.build(model, loss, layout).loss_and_gradient(params, dict(buffers), batch)
    engine = stack.build(make().double(), loss, layout)
    before = params.clone()
    for _ in range(2):  # the second time into used buffers
        losses, mine = engine.loss_and_gradient(params, buffers, batch)
        assert torch.allclose(losses, truth, rtol=1e-12, atol=1e-13)
        assert (mine - gradient).abs().max() <= 1e-12 * (1 + gradient.abs().max())
        mine.fill_(torch.nan)  # whoever asked may write into it
    assert torch.equal(params, before)


@pytest.mark.parametrize("name", ZOO)
class TestZoo:
    def test_shared_batches(self, name: str) -> None:
        make, loss, x, y = ZOO[name]
        assert stack.supports(make().double(), loss, Batch(x, y, True, True)) is None
        assert_equal_to_autograd(make, loss, Batch(x, y, True, True))

    def test_batches_of_each_member(self, name: str) -> None:
        make, loss, x, y = ZOO[name]
        orders = [torch.randperm(len(x), generator=seeded(s)) for s in range(3)]
        own = Batch(torch.stack([x[o] for o in orders]), torch.stack([y[o] for o in orders]), False, False)
        assert_equal_to_autograd(make, loss, own)

    def test_outputs(self, name: str) -> None:
        make, loss, x, _ = ZOO[name]
        model, layout, params, buffers = networks(make)
        mine = stack.build(make().double(), loss, layout).outputs(params, buffers, x)
        assert torch.allclose(
            mine, loop.build(model, loss, layout).outputs(params, buffers, x), rtol=1e-12, atol=1e-13
        )


# The mean over what is not ignored is no mean over examples, which weights are for.
@pytest.mark.parametrize("name", sorted(ZOO.keys() - {"ignored labels"}))
def test_batches_of_different_sizes(name: str) -> None:
    make, loss, x, y = ZOO[name]
    sizes = torch.tensor([len(x), 3, 1])
    weights = (torch.arange(len(x)) < sizes[:, None]) / sizes[:, None].double()
    pair = (t.expand(3, *t.shape).contiguous() for t in (x, y))
    assert_equal_to_autograd(make, loss, Batch(*pair, False, False, weights))


@given(
    widths=st.lists(st.integers(1, 70), min_size=2, max_size=4),
    points=st.integers(1, 9),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    norm=st.booleans(),
    bias=st.booleans(),
    classes=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_any_stack(
    widths: list[int], points: int, activation: str, norm: bool, bias: bool, classes: bool, seed: int
) -> None:
    def make() -> nn.Module:
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(widths):
            layers += [
                nn.Linear(a, b, bias=bias),
                *([nn.LayerNorm(b)] if norm and b > 2 else []),
                ACTIVATIONS[activation](),
            ]
        return nn.Sequential(*layers)

    x = normal(points, widths[0], seed=seed)
    labels = torch.randint(widths[-1], (points,), generator=seeded(seed))
    y = labels if classes else normal(points, widths[-1], seed=seed + 1)
    assert_equal_to_autograd(
        make, functional.cross_entropy if classes else nn.MSELoss(), Batch(x, y, True, True)
    )


def test_targets_of_each_member_with_shared_inputs() -> None:
    labels = torch.randint(3, (3, 12), generator=seeded(8))
    assert_equal_to_autograd(
        lambda: perceptron(5, 7, 3), functional.cross_entropy, Batch(X, labels, True, False)
    )


def test_changed_data_in_the_same_place_are_seen() -> None:
    # Rows gathered from one-hot inputs are kept while the same tensor comes again.
    make, codes = (lambda: perceptron(60, 7, 3)), CODES.clone()
    _, layout, params, buffers = networks(make)
    engine = stack.build(make().double(), functional.cross_entropy, layout)
    first = engine.loss_and_gradient(params, buffers, Batch(codes, Y, True, True))[0]
    codes.copy_(CODES.roll(1, 1))
    second = engine.loss_and_gradient(params, buffers, Batch(codes, Y, True, True))[0]
    fresh = stack.build(make().double(), functional.cross_entropy, layout)
    assert torch.equal(second, fresh.loss_and_gradient(params, buffers, Batch(codes, Y, True, True))[0])
    assert not torch.allclose(first, second)


def test_few_members_at_a_time_and_all_at_once_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    make, batch = (lambda: perceptron(5, 7, 3)), Batch(X, Y, True, True)
    _, layout, params, buffers = networks(make, members=7)
    together = stack.build(make().double(), functional.cross_entropy, layout)
    expected = [t.clone() for t in together.loss_and_gradient(params, buffers, batch)]
    assert together.members_at_once(7) == 7
    monkeypatch.setattr(stack, "CACHE_BYTES", 4000)
    few = stack.build(make().double(), functional.cross_entropy, layout)
    got = few.loss_and_gradient(params, buffers, batch)
    assert few.members_at_once(7) < 4
    assert all(torch.allclose(a, b, rtol=1e-13) for a, b in zip(got, expected, strict=True))


def test_frozen_parameters_get_no_gradient() -> None:
    def make() -> nn.Module:
        model = perceptron(5, 7, 3)
        model[0].requires_grad_(False)
        return model

    assert_equal_to_autograd(make, functional.cross_entropy, Batch(X, Y, True, True))
    assert networks(make)[1].names == ("2.weight", "2.bias")


class Forking(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if x.sum() > 0 else -self.layer(x)


class Misleading(nn.Linear):
    """A subclass is not what it inherits from."""

    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


def hooked() -> nn.Module:
    model = perceptron(5, 3)
    model[0].register_forward_hook(lambda module, inputs, output: output * 2)
    return model


@pytest.mark.parametrize(
    ("make", "loss", "y", "why"),
    [
        (lambda: nn.Sequential(nn.Linear(5, 3), nn.Dropout(0.1)), functional.cross_entropy, Y, "Dropout with p=0.1"),
        (lambda: nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3)), functional.cross_entropy, Y, "BatchNorm1d"),
        (lambda: perceptron(5, 3), nn.CrossEntropyLoss(label_smoothing=0.1), Y, "smooths labels"),
        (lambda: perceptron(5, 3), nn.CrossEntropyLoss(torch.ones(3).double()), Y, "weighs classes"),
        (lambda: perceptron(5, 3), nn.CrossEntropyLoss(reduction="sum"), Y, "reduction 'sum'"),
        (lambda: perceptron(5, 3), functional.cross_entropy, normal(12, 3).softmax(1), "probabilities, not labels"),
        (lambda: perceptron(5, 3), nn.L1Loss(), normal(12, 3), "no fast pass for L1Loss"),
        (lambda: perceptron(5, 3), lambda o, t: ((o - t) ** 2).mean(), normal(12, 3), "no fast pass for pow"),
        (lambda: perceptron(5, 3), lambda o, t: functional.mse_loss(o, t) + 1, normal(12, 3), "not one cross-entropy"),
        (lambda: perceptron(5, 1), nn.MSELoss(), normal(12), "differ in shape or type"),
        (Forking, functional.cross_entropy, Y, "cannot be traced"),
        (lambda: Misleading(5, 3), functional.cross_entropy, Y, "cannot be run as a stack"),
        (hooked, functional.cross_entropy, Y, "hooks on 0"),
        (lambda: nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 3).float()), functional.cross_entropy, Y, "one type"),
    ],
)  # fmt: skip
def test_refusals_say_why(make: Any, loss: Any, y: Tensor, why: str) -> None:
    model = make()
    model = model if why == "one type" else model.double()
    if why == "one type":
        model[0].double()
    reason = stack.supports(model, loss, Batch(X, y, True, True))
    assert reason is not None
    assert why in reason
    assert "\n" not in reason


def test_recognition_changes_nothing() -> None:
    model = Attending().double()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    state = torch.random.get_rng_state()
    assert stack.supports(model, functional.cross_entropy, Batch(TOKENS, TOKENS[:, 0], True, True)) is None
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_rows_outside_an_embedding_are_refused() -> None:
    _, layout, params, buffers = networks(Fused)
    engine = stack.build(Fused().double(), next_token, layout)
    with pytest.raises(IndexError, match="embedding of 11 rows was asked for row 11"):
        engine.loss_and_gradient(params, buffers, Batch(TOKENS + 1, TOKENS, True, True))


def test_tanh_is_exact_from_the_smallest_to_the_largest() -> None:
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Tanh(), nn.Linear(1, 1, bias=False))
    engine = stack.build(model, functional.mse_loss, flat.layout_of(flat.select(model, None)))
    x = torch.cat([torch.logspace(-37, 3, 2001), torch.tensor([0.0, torch.inf])])
    x = torch.cat([x, -x])[:, None]
    found = engine.outputs(torch.ones(1, 2), {}, x)[0]
    truth = torch.tanh(x.double())
    assert bool(((found - truth).abs() <= 4 * torch.finfo(torch.float32).eps * truth.abs()).all())
    assert bool(engine.outputs(torch.ones(1, 2), {}, torch.tensor([[torch.nan]])).isnan().all())


@pytest.mark.parametrize("classes", [2, 15, 16, 40])
def test_cross_entropy_of_few_and_of_many_classes(classes: int) -> None:
    model = nn.Linear(5, classes).double()
    layout = flat.layout_of(flat.select(model, None))
    y = torch.randint(classes, (12,), generator=seeded(5))
    params = normal(3, layout.num_params, seed=6)
    batch = Batch(X, y, True, True)
    ours, theirs = (e.build(model, functional.cross_entropy, layout) for e in (stack, loop))
    for mine, truth in zip(
        ours.loss_and_gradient(params, {}, batch), theirs.loss_and_gradient(params, {}, batch), strict=True
    ):
        assert torch.allclose(mine, truth, rtol=1e-12, atol=1e-13)


def test_members_are_split_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    model = perceptron(5, 4, 3).double()
    engine = stack.build(model, functional.cross_entropy, flat.layout_of(flat.select(model, None)))
    batch, params = Batch(X, Y, True, True), normal(33, 39, seed=7)
    monkeypatch.setattr(engine, "_members_that_fit", lambda *_: 32)
    parts: list[int] = []
    weights = engine._weights
    monkeypatch.setattr(engine, "_weights", lambda p, *rest: parts.append(len(p)) or weights(p, *rest))
    engine.loss_and_gradient(params, {}, batch)
    assert parts == [17, 16]

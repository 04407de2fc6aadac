"""Noise of the step's own gradient: per-example gradients one by one as the twin, and a planted noise scale."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.monitor import loops
from torch import nn
from torch.nn import functional

import geartrain as gt
from geartrain.monitor import noise as noise_module

EACH = {"overhead": None, "every": {"norms": 0, "updates": 0, "flow": 0, "noise": 1}}


def one_by_one(model, loss, inputs, targets, covered=None):
    """(trΣ / n, |G|²), unbiased, from the gradient of every example."""
    chosen = [p for n, p in model.named_parameters() if covered is None or n.startswith(covered)]
    rows = []
    for i in range(len(inputs)):
        grads = torch.autograd.grad(
            loss(model(inputs[i : i + 1]), targets[i : i + 1]), chosen, allow_unused=True
        )
        rows.append(
            torch.cat(
                [
                    torch.zeros_like(p).reshape(-1) if g is None else g.reshape(-1)
                    for g, p in zip(grads, chosen, strict=True)
                ]
            )
        )
    x = torch.stack(rows).double()
    noise = float(x.var(0, unbiased=True).sum()) / len(x)
    return noise, float(x.mean(0).square().sum()) - noise, x


class Picture(nn.Module):
    def __init__(self, **options):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 3, 3, **options)
        self.head = nn.LazyLinear(2)

    def forward(self, x):
        return self.head(functional.relu(self.conv(x)).flatten(1))


class Wave(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv1d(2, 3, 3, padding=1, stride=2, dilation=2)

    def forward(self, x):
        return self.conv(x).mean(2)


def pictures(count=12, channels=1):
    torch.manual_seed(1)
    return torch.randn(count, channels, 6, 6, dtype=torch.float64), torch.arange(count) % 2


CASES = {
    "mlp": (loops.plain_mlp, lambda: loops.examples(12, dtype=torch.float64), None),
    "no bias": (lambda: nn.Linear(4, 3, bias=False).double(), lambda: loops.examples(12, dtype=torch.float64), None),
    "text": (lambda: loops.TinyText().double(), lambda: loops.sentences(12), None),
    "padded": (
        lambda: nn.Sequential(nn.Embedding(11, 5, padding_idx=3), nn.Linear(5, 11)).double(),
        lambda: loops.sentences(12),
        None,
    ),
    "tied": (lambda: loops.TinyText(tied=True).double(), lambda: loops.sentences(12), ("mix", "norm")),
    "pictures": (lambda: Picture().double(), pictures, None),
    "strided": (lambda: Picture(stride=2, padding=1, dilation=2).double(), pictures, None),
    "circular": (lambda: Picture(padding=1, padding_mode="circular").double(), pictures, ("head",)),
    "waves": (
        lambda: Wave().double(),
        lambda: (pictures(24)[0].reshape(-1, 2, 9)[:12], torch.arange(12) % 3),
        None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_examples_agree_with_single_gradients(case):
    """float64: the Gram matrices and the gradients of single examples are the same numbers."""
    make, data, covered = CASES[case]
    torch.manual_seed(0)
    model, (inputs, targets) = make(), data()
    model(inputs[:2])  # lazy layers
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    wanted = one_by_one(model, loops.loss_of, inputs, targets, covered)
    monitor = loops.watched(model, optimizer, [(inputs, targets)], options=EACH)
    history = monitor.history
    assert history.column("gradient_noise")[-1] == pytest.approx(wanted[0], rel=1e-9)
    assert history.column("gradient_signal")[-1] == pytest.approx(wanted[1], rel=1e-7)
    share = sum(p.numel() for n, p in model.named_parameters() if covered is None or n.startswith(covered))
    assert history.column("noise_covered")[-1] == pytest.approx(
        share / sum(p.numel() for p in model.parameters())
    )


@pytest.mark.parametrize("micro", [2, 3, 6])
@pytest.mark.parametrize("scale", [1.0, "micro"])
def test_micro_batches_are_parts_of_the_step(micro, scale):
    """Accumulated gradients, averaged by the loop or summed: the ratio is that of the parts."""
    model, (inputs, targets) = loops.plain_mlp(), loops.examples(24, dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    factor = 1.0 if scale == 1.0 else float(micro)
    with gt.watch(model, optimizer, **EACH) as monitor:
        for _ in range(3):  # the first step shows how many passes there are
            optimizer.zero_grad()
            for x, y in zip(inputs.chunk(micro), targets.chunk(micro), strict=True):
                (loops.loss_of(model(x), y) * factor / micro).backward()
            optimizer.step()
    rows = []
    for x, y in zip(inputs.chunk(micro), targets.chunk(micro), strict=True):
        grads = torch.autograd.grad(loops.loss_of(model(x), y), list(model.parameters()))
        rows.append(torch.cat([g.reshape(-1) for g in grads]))
    parts = torch.stack(rows) * factor
    spread = float(parts.var(0, unbiased=True).sum()) / micro
    signal = float(parts.mean(0).square().sum()) - spread
    assert monitor.history.column("gradient_noise")[-1] == pytest.approx(spread, rel=1e-9)
    assert monitor.history.column("gradient_signal")[-1] == pytest.approx(signal, rel=1e-9)
    assert monitor.history.column("backwards")[-1] == micro


class Planted(nn.Module):
    """Gradients (μ + σ z) of a linear loss: trΣ = d σ², |G|² = |μ|² at every point."""

    def __init__(self, dims):
        super().__init__()
        self.layer = nn.Linear(dims, 1, bias=False)

    def forward(self, x):
        return self.layer(x)


@pytest.mark.parametrize("micro", [1, 4])
def test_the_planted_noise_scale_is_found_and_its_interval_covers(micro):
    """B = dσ²/|μ|²; over 40 repeats the 95 % interval misses at most 6 times (binomial: p < 0.004)."""
    dims, size, truth = 12, 16, 12 * 1.0 / 0.75
    mean = torch.full((dims,), math.sqrt(0.75 / dims))
    missed, scores = 0, []
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        model = Planted(dims)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        with gt.watch(model, optimizer, **EACH) as monitor:
            for _ in range(16):
                optimizer.zero_grad()
                x = mean + torch.randn(size, dims, generator=generator)
                for part in x.chunk(micro):
                    (model(part).mean() / micro).backward()
                optimizer.step()
        found = monitor.noise_scale()
        low, high = found.details["interval"]
        missed += not low <= truth <= high
        scores.append((float(found) - truth) / float(found.standard_error))
    assert missed <= 6
    assert abs(np.median(scores)) < 4 / math.sqrt(40) * 1.25  # the median of 40 normal numbers


def test_only_some_examples_of_a_large_batch_are_compared(monkeypatch):
    """Spread from 16 of 64 examples, mean gradient from all: unbiased, so the mean of many readings is the truth."""
    monkeypatch.setattr(noise_module, "EXAMPLES", 16)
    dims, size = 6, 64
    generator = torch.Generator().manual_seed(0)
    model = Planted(dims)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with gt.watch(model, optimizer, **EACH) as monitor:
        for _ in range(150):
            optimizer.zero_grad()
            model(0.3 + torch.randn(size, dims, generator=generator)).mean().backward()
            optimizer.step()
    for name, truth in (("gradient_noise", dims / size), ("gradient_signal", dims * 0.09)):
        values = monitor.history.column(name)
        assert abs(values.mean() - truth) < 4 * values.std() / math.sqrt(len(values)), name


def test_the_three_tests_of_a_batch():
    """Norm, inner-product and orthogonality test, from the gradients of single examples (Cockpit, eqs. 29 to 33)."""
    model, (inputs, targets) = loops.plain_mlp(), loops.examples(12, dtype=torch.float64)
    *_, rows = one_by_one(model, loops.loss_of, inputs, targets)
    n, mean = len(rows), rows.mean(0)
    square = float(mean @ mean)
    norms, along = rows.square().sum(1) / square, (rows @ mean) ** 2 / square**2
    monitor = loops.watched(
        model, torch.optim.SGD(model.parameters(), lr=0.0), [(inputs, targets)], options=EACH
    )
    wanted = {
        "norm_test": math.sqrt(float(norms.sum() - n) / (n * (n - 1))),
        "inner_test": math.sqrt(float(along.sum() - n) / (n * (n - 1))),
        "ortho_test": math.sqrt(float((norms - along).sum()) / (n * (n - 1))),
    }
    for name, value in wanted.items():
        assert monitor.history.column(name)[-1] == pytest.approx(value, rel=1e-7)


def test_rescaled_losses_have_the_same_noise_scale():
    found = []
    for factor in (1.0, 1000.0):
        model, (inputs, targets) = loops.plain_mlp(), loops.examples(24, dtype=torch.float64)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        with gt.watch(model, optimizer, **EACH) as monitor:
            for x, y in zip(inputs.chunk(3), targets.chunk(3), strict=True):
                optimizer.zero_grad()
                (factor * loops.loss_of(model(x), y)).backward()
                optimizer.step()
        found.append(monitor.history.column("noise_over_batch"))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-9)


def reason(model, act, steps=3, **options):
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    with gt.watch(model, optimizer, **EACH, **options) as monitor:
        for _ in range(steps):
            act(optimizer)
    return monitor


def test_coupled_examples_have_no_gradients():
    model, (inputs, targets) = loops.mlp(), loops.examples()

    def act(optimizer):
        optimizer.zero_grad()
        loops.loss_of(model(inputs), targets).backward()
        optimizer.step()

    found = reason(model, act).noise_scale()
    assert not found.status.usable
    assert "batch normalisation in training mode couples the examples" in found.status.sentence


def test_gradients_that_were_not_cleared_are_noticed():
    """Leftovers are in the gradient but not in the parts: the layers do not add up, so there is no reading."""
    model, (inputs, targets) = loops.plain_mlp(), loops.examples(12, dtype=torch.float64)

    def act(optimizer):
        loops.loss_of(model(inputs), targets).backward()
        optimizer.step()

    assert np.isfinite(reason(model, act, steps=5).history.column("gradient_noise")).sum() <= 1


def test_layers_that_are_called_twice_are_left_out():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.same = nn.Linear(4, 4, dtype=torch.float64)
            self.head = nn.Linear(4, 3, dtype=torch.float64)

        def forward(self, x):
            return self.head(self.same(torch.tanh(self.same(x))))

    torch.manual_seed(0)
    model, (inputs, targets) = Twice(), loops.examples(12, dtype=torch.float64)
    wanted = one_by_one(model, loops.loss_of, inputs, targets, ("head",))
    monitor = loops.watched(
        model, torch.optim.SGD(model.parameters(), lr=0.0), [(inputs, targets)], options=EACH
    )
    assert monitor.history.column("gradient_noise")[-1] == pytest.approx(wanted[0], rel=1e-9)
    assert monitor.history.column("noise_covered")[-1] == pytest.approx(15 / 35)


def test_tables_of_positions_are_not_examples():
    """As many positions as examples: looked up once for the whole batch, they are parts of nobody's gradient."""

    class Placed(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.places, self.head = nn.Embedding(11, 8), nn.Embedding(6, 8), nn.Linear(8, 11)

        def forward(self, x):
            return self.head(torch.tanh(self.words(x) + self.places(torch.arange(x.shape[1]))))

    torch.manual_seed(0)
    model, (inputs, targets) = Placed().double(), loops.sentences(6, places=6)
    wanted = one_by_one(model, loops.loss_of, inputs, targets, ("words", "head"))
    monitor = loops.watched(
        model, torch.optim.SGD(model.parameters(), lr=0.0), [(inputs, targets)], options=EACH
    )
    assert monitor.history.column("gradient_noise")[-1] == pytest.approx(wanted[0], rel=1e-9)
    assert monitor.history.column("noise_covered")[-1] == pytest.approx(1 - 48 / (88 + 48 + 99))


def test_too_few_readings_say_so():
    model = loops.plain_mlp()
    monitor = gt.watch(model, torch.optim.SGD(model.parameters(), lr=0.1))
    found = monitor.noise_scale()
    assert not found.status.usable
    assert "0 readings of the noise are too few" in found.status.sentence

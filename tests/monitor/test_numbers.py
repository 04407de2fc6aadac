"""Norms, updates and their angles: closed forms, a dense twin, and the columns of a `geartrain.Run`."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.monitor import loops
from torch import nn
from torch.nn import functional

import geartrain as gt
from geartrain.monitor._parameters import Copy, Parameters


class Bowl(nn.Module):
    """½ Σ λ x²."""

    def __init__(self, curvature, start, dtype=torch.float64):
        super().__init__()
        self.curvature = torch.tensor(curvature, dtype=dtype)
        self.x = nn.Parameter(torch.tensor(start, dtype=dtype))

    def forward(self):
        return 0.5 * (self.curvature * self.x**2).sum()


def descend(model, optimizer, steps, **options):
    with gt.watch(model, optimizer, **{**loops.ALWAYS, **options}) as monitor:
        for _ in range(steps):
            optimizer.zero_grad()
            model().backward()
            optimizer.step()
    return monitor


@pytest.mark.parametrize("lr", [0.1, 0.5, 0.9, 1.5])
def test_gradient_descent_on_a_parabola(lr):
    """x → (1 - ηλ) x: gauge ηλ - 1, updates in the same or the opposite direction, all in closed form."""
    curvature, start = 2.0, 3.0
    model = Bowl([curvature], [start])
    monitor = descend(model, torch.optim.SGD(model.parameters(), lr=lr / curvature), 6)
    history, factor = monitor.history, 1 - lr
    x = start * factor ** np.arange(6)
    np.testing.assert_allclose(history.column("param_norm"), abs(x), rtol=1e-12)
    np.testing.assert_allclose(history.column("grad_norm"), abs(curvature * x), rtol=1e-12)
    np.testing.assert_allclose(history.column("update_norm"), abs(lr * x), rtol=1e-9)
    np.testing.assert_allclose(history.column("update_ratio"), lr, rtol=1e-9)
    np.testing.assert_allclose(history.column("gauge")[1:], lr - 1, atol=1e-9)
    np.testing.assert_allclose(history.column("cosine")[1:], math.copysign(1, factor), rtol=1e-9)
    np.testing.assert_allclose(history.column("back_and_forth")[1:], float(factor < 0), atol=1e-9)
    np.testing.assert_allclose(
        history.column("distance"), abs(start * (factor ** np.arange(1, 7) - 1)), rtol=1e-9
    )
    np.testing.assert_allclose(history.column("loss"), 0.5 * curvature * x**2, rtol=1e-12)


def test_half_of_the_directions_turn_round():
    """Two directions of equal motion, one beyond its minimum: cosine 0, one half taken back."""
    model = Bowl([1.0, 1.0], [1.0, 1.0])
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with gt.watch(model, optimizer, **loops.ALWAYS) as monitor:
        for gradient in ([1.0, 1.0], [1.0, -1.0]):
            model.x.grad = torch.tensor(gradient, dtype=torch.float64)
            optimizer.step()
    assert monitor.history.column("cosine")[1] == pytest.approx(0.0, abs=1e-12)
    assert monitor.history.column("back_and_forth")[1] == pytest.approx(0.5)


def test_the_same_columns_as_a_run():
    """A `geartrain.Run` and the same steps under a monitor note the same numbers."""

    def make():
        torch.manual_seed(0)
        model = loops.plain_mlp()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        data = loops.examples(dtype=torch.float64)
        return gt.Run(
            model, functional.cross_entropy, optimizer, data, epochs=2, batch_size=8, clip_grad_norm=0.2
        )

    plain = make().train()
    run = make()
    with gt.watch(run.model, run.optimizer, **loops.ALWAYS) as monitor:
        run.train()
    for name in ("lr", "update_norm", "param_norm", "cosine", "grad_norm"):
        np.testing.assert_allclose(
            monitor.history.column(name)[1:], plain.column(name)[1:], rtol=1e-7, err_msg=name
        )


def test_layers_are_the_modules_that_own_parameters():
    model = loops.plain_mlp()
    monitor = loops.watched(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        loops.batches(loops.examples(dtype=torch.float64), 8, 3),
    )
    table = monitor.tables["grad_norm"]
    assert table.layers == ("0", "2")
    assert table.array().shape == (3, 2)
    total = np.sqrt((table.array() ** 2).sum(1))
    np.testing.assert_allclose(total, monitor.history.column("grad_norm"), rtol=1e-12)
    ratios = monitor.tables["update_norm"].array() / monitor.tables["param_norm"].array()
    np.testing.assert_allclose(monitor.tables["update_ratio"].array(), ratios, rtol=1e-12)


@pytest.mark.parametrize("clip", [0.05, 1e6])
def test_gradients_before_and_after_clipping(clip):
    """Once clipping was seen, both norms are noted; the factor says what was left."""
    model = loops.plain_mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = loops.batches(loops.examples(dtype=torch.float64), 8, 6)
    monitor = loops.watched(model, optimizer, data, clip=clip)
    history = monitor.history
    used, whole, factor = (history.column(n)[2:] for n in ("used_grad_norm", "grad_norm", "clip_factor"))
    np.testing.assert_allclose(used, np.minimum(whole, clip), rtol=1e-4)  # clip_grad_norm_ adds 1e-6
    np.testing.assert_allclose(factor, used / whole, rtol=1e-12)


def test_without_clipping_one_norm_is_enough():
    model = loops.plain_mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    options = {"overhead": None, "every": 1}
    monitor = loops.watched(
        model, optimizer, loops.batches(loops.examples(dtype=torch.float64), 8, 6), options=options
    )
    assert "used_grad_norm" not in monitor.history.columns


def test_lbfgs_notes_the_gradient_at_the_start_of_its_step():
    """Its closure is called several times; the loss and gradient of the step are those of the first call."""
    model = Bowl([1.0, 4.0], [3.0, 1.0])
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)
    starts = []

    def closure():
        optimizer.zero_grad()
        loss = model()
        loss.backward()
        return loss

    with gt.watch(model, optimizer, **loops.ALWAYS) as monitor:
        for _ in range(4):
            with torch.no_grad():
                starts.append(
                    (float(model()), float((model.curvature * model.x).norm()), model.x.detach().clone())
                )
            optimizer.step(closure)
    losses, grads, places = zip(*starts, strict=True)
    np.testing.assert_allclose(monitor.history.column("loss"), losses, rtol=1e-12)
    np.testing.assert_allclose(monitor.history.column("grad_norm"), grads, rtol=1e-12)
    moved = [float((b - a).norm()) for a, b in zip(places, [*places[1:], model.x.detach()], strict=True)]
    np.testing.assert_allclose(monitor.history.column("update_norm"), moved, rtol=1e-9)


def test_parameters_that_are_frozen_and_thawed_and_skipped():
    model = loops.plain_mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = loops.batches(loops.examples(dtype=torch.float64), 8, 9)

    def freeze(flag):
        def act():
            model[0].requires_grad_(flag)
            for p in model[0].parameters():
                p.grad = None

        return act

    monitor = loops.watched(model, optimizer, data, at={3: freeze(False), 6: freeze(True)})
    gradients = monitor.tables["grad_norm"].array()
    moved = monitor.tables["update_norm"].array()
    assert (gradients[3:6, 0] == 0).all()
    assert (moved[3:6, 0] == 0).all()
    assert (gradients[:3, 0] > 0).all()
    assert (moved[6:] > 0).all()


def test_groups_that_are_added_on_the_way():
    model = loops.plain_mlp()
    optimizer = torch.optim.SGD(model[2].parameters(), lr=0.1)
    data = loops.batches(loops.examples(dtype=torch.float64), 8, 8)
    monitor = loops.watched(
        model,
        optimizer,
        data,
        at={4: lambda: optimizer.add_param_group({"params": list(model[0].parameters())})},
    )
    table = monitor.tables["update_norm"]
    assert table.layers == ("2", "0")
    assert np.isnan(table.array()[:4, 1]).all()
    assert (table.array()[4:, 1] > 0).all()
    assert monitor.history.column("cosine").size
    assert monitor.steps == 8


def test_parameters_of_nobody_have_a_name():
    model, scale = loops.plain_mlp(), nn.Parameter(torch.ones((), dtype=torch.float64))
    optimizer = torch.optim.SGD([*model.parameters(), scale], lr=0.1)
    monitor = loops.watched(model, optimizer, loops.batches(loops.examples(dtype=torch.float64), 8, 2))
    assert monitor.tables["param_norm"].layers == ("0", "2", "group 0")


def test_half_precision_norms_do_not_overflow():
    """Squares of bfloat16 are summed in single precision."""
    model = nn.Linear(300, 300, bias=False, dtype=torch.bfloat16)
    parameters = Parameters(model, torch.optim.SGD(model.parameters(), lr=0.1), 10**6)
    exact = float(model.weight.detach().double().norm())
    assert float(parameters.norms([model.weight])[0]) == pytest.approx(exact, rel=1e-5)


def test_complex_parameters_are_pairs_of_numbers():
    class Phase(nn.Module):
        def __init__(self):
            super().__init__()
            self.z = nn.Parameter(torch.tensor([3 + 4j], dtype=torch.complex128))

        def forward(self):
            return self.z.abs().square().sum()

    model = Phase()
    monitor = descend(model, torch.optim.SGD(model.parameters(), lr=0.25), 3)
    np.testing.assert_allclose(monitor.history.column("param_norm"), [5.0, 2.5, 1.25])
    np.testing.assert_allclose(monitor.history.column("gauge")[1:], -0.5)


def test_large_models_are_sampled():
    """Of every 7th entry: exact norms of what is taken, and an estimate of the update's within its sampling error."""
    torch.manual_seed(0)
    model = nn.Linear(400, 50)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    parameters = Parameters(model, optimizer, 3000)
    assert parameters.stride == 7
    taken = Copy(parameters)
    taken.take(parameters.tensors)
    before = [p.detach().clone() for p in model.parameters()]
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p))
    taken.subtract(parameters.tensors)
    exact = math.sqrt(
        sum(float((p.detach() - b).square().sum()) for p, b in zip(model.parameters(), before, strict=True))
    )
    estimate = math.sqrt(7) * math.sqrt(sum(float(f.square().sum()) for f in taken.flats))
    # The squares of n normal numbers have the relative deviation sqrt(2/n); of the norm, half of that.
    assert estimate == pytest.approx(exact, rel=4 * 0.5 * math.sqrt(2 / taken.flats[0].numel()))
    assert taken.flats[0].numel() == parameters.entries == -(-20000 // 7) + -(-50 // 7)


def test_memory_is_three_copies_of_the_parameters():
    model = loops.plain_mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gt.watch(model, optimizer, overhead=None) as monitor:
        loops.train(model, optimizer, loops.batches(loops.examples(dtype=torch.float64), 8, 5))
        group = monitor._loop.groups["updates"]
        kept = [*group._room, group._grads, group._last[1]]
    assert len(kept) == 3
    assert sum(f.numel() for c in kept for f in c.flats) == 3 * sum(p.numel() for p in model.parameters())

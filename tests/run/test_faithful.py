"""A Run does bit for bit what the loop that a person would write does."""

from __future__ import annotations

from collections import UserDict
from types import SimpleNamespace

import pytest
import torch
from tests.run import loops
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, default_collate


def by_hand(optimizer, scheduler, data, clip):
    """The loop as people write it; tensors and datasets in the order that the run draws (seed, epoch)."""
    model = loops.make_model()
    made = loops.OPTIMIZERS[optimizer](model.parameters())
    schedule, per_step = loops.SCHEDULERS[scheduler]
    schedule = schedule(made) if schedule else None
    source, losses = loops.data_of(data), []
    for epoch in range(3):
        model.train()
        for inputs, targets in batches(source, epoch):

            def closure(inputs=inputs, targets=targets):
                made.zero_grad()
                loss = functional.cross_entropy(model(inputs), targets)
                loss.backward()
                if clip:
                    nn.utils.clip_grad_norm_(model.parameters(), clip)
                return loss

            if optimizer == "lbfgs":
                loss = made.step(closure)
            else:
                loss = closure()
                made.step()
            losses.append(float(loss.detach()))
            if schedule and per_step:
                schedule.step()
        model.eval()
        with torch.no_grad():
            x, y = loops.examples(1)
            validation = functional.cross_entropy(model(x), y)
        if schedule and not per_step:
            schedule.step(*([float(validation)] if scheduler == "plateau" else []))
    return (
        losses,
        [p.detach() for p in model.parameters()],
        [b for b in model.buffers()],
        made.param_groups[0]["lr"],
    )


def batches(source, epoch):
    if callable(source):
        return source(epoch)
    if not isinstance(source, (tuple, torch.utils.data.TensorDataset)):
        return source
    inputs, targets = source if isinstance(source, tuple) else source.tensors
    order = torch.randperm(22, generator=torch.Generator().manual_seed(epoch))
    return [(inputs[order[i : i + 8]], targets[order[i : i + 8]]) for i in range(0, 22, 8)]


CASES = [(o, "none", "tensors", None) for o in loops.OPTIMIZERS]
CASES += [("momentum", s, "loader", None) for s in loops.SCHEDULERS]
CASES += [("adam", "step", d, None) for d in loops.DATA]
CASES += [
    ("momentum", "none", "tensors", 0.3),
    ("lbfgs", "none", "loader", 0.3),
    ("adam", "one cycle", "loader", 1e-3),
]


@pytest.mark.parametrize(("optimizer", "scheduler", "data", "clip"), CASES)
def test_same_bits_as_the_loop_by_hand(optimizer, scheduler, data, clip):
    losses, parameters, buffers, lr = by_hand(optimizer, scheduler, data, clip)
    run = loops.make_run(optimizer, scheduler, data, epochs=3, clip_grad_norm=clip)
    history = run.train()
    assert history.column("loss").tolist() == losses
    assert loops.frozen(list(run.model.parameters())) == loops.frozen(parameters)
    assert loops.frozen(list(run.model.buffers())) == loops.frozen(buffers)
    assert run.lr == lr
    assert run.step_count == len(history) == 9
    assert run.total_steps == 9
    assert [row["epoch"] for row in history.evaluations] == [1, 2, 3]


def test_the_users_own_step_and_evaluate():
    model, twin = loops.make_model(), loops.make_model()
    (x, y), calls = loops.examples(), []
    mine = torch.optim.SGD(model.parameters(), lr=0.1)

    def step(batch):
        mine.zero_grad()
        loss = functional.cross_entropy(model(batch[0]), batch[1])
        loss.backward()
        mine.step()
        return loss

    run = loops.Run(
        model, None, mine, (x, y), epochs=2, batch_size=8, step=step, evaluate=lambda: calls.append(1) or 0.5
    )
    torch.manual_seed(3)
    history = run.train()
    torch.manual_seed(3)
    theirs = torch.optim.SGD(twin.parameters(), lr=0.1)
    for epoch in range(2):
        for inputs, targets in batches((x, y), epoch):
            theirs.zero_grad()
            functional.cross_entropy(twin(inputs), targets).backward()
            theirs.step()
    assert loops.frozen(list(model.parameters())) == loops.frozen(list(twin.parameters()))
    assert len(calls) == 2
    assert history.evaluation("validation_loss")[1].tolist() == [0.5, 0.5]
    assert bool((history.column("update_norm") > 0).all())
    assert bool((history.column("grad_norm") > 0).all())


def test_plateau_without_validation_follows_the_training_loss():
    run = loops.make_run(scheduler="plateau", validation=None, epochs=4)
    run.train()
    assert run.lr < 0.05


def test_history_columns_mean_what_they_say():
    run = loops.make_run("sgd", clip_grad_norm=0.2)
    before = [p.detach().clone() for p in run.model.parameters()]
    run.advance(1)
    first = {k: run.history.column(k)[0] for k in run.history.columns}
    after = [p.detach() for p in run.model.parameters()]
    moved = torch.cat([(a - b).reshape(-1) for a, b in zip(after, before, strict=True)]).norm()
    assert first["update_norm"] == pytest.approx(float(moved), rel=1e-5)
    assert first["param_norm"] == pytest.approx(
        float(torch.cat([b.reshape(-1) for b in before]).norm()), rel=1e-5
    )
    assert first["grad_norm"] > 0.2  # before clipping
    assert first["update_norm"] == pytest.approx(0.1 * 0.2, rel=1e-4)  # step size x clipped norm
    assert first["lr"] == 0.1
    run.advance(1)
    assert -1 <= run.history.column("cosine")[1] <= 1


def test_work_is_counted():
    run = loops.make_run(epochs=2)
    run.train()
    assert run.work.gradients == 6


def test_progress_is_reported_after_every_step():
    seen = []
    loops.make_run(epochs=2).train(progress=lambda *a: seen.append(a))
    assert seen == [(i, 6) for i in range(1, 7)]


def test_a_deadline_ends_it_early_but_not_before_the_first_step():
    assert loops.make_run().advance(5, deadline=0.0) == 1


class Talkative(nn.Module):
    """Imitates a Hugging Face model: a ``config``, keywords in, an object with the loss out."""

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(num_labels=3)
        self.net = loops.make_model()

    def forward(self, inputs, labels):
        return SimpleNamespace(loss=functional.cross_entropy(self.net(inputs), labels))


@pytest.mark.parametrize("mapping", [dict, UserDict])
def test_a_model_that_brings_its_loss_needs_none_also_with_a_loader(mapping):
    x, y = loops.examples()
    rows = [{"inputs": a, "labels": b} for a, b in zip(x, y, strict=True)]
    loader = DataLoader(rows, batch_size=8, collate_fn=lambda part: mapping(default_collate(part)))
    model = Talkative()
    run = loops.Run(model, None, torch.optim.SGD(model.parameters(), lr=0.1), train=loader, epochs=2)
    run.train()
    assert run.step_count == 6
    expected = model.eval()(x, y).loss.item()
    assert float(run.objective(probe=22).value()) == pytest.approx(expected)


def test_the_length_of_a_stream_is_known_once_an_epoch_was_read():
    run = loops.make_run(data="callable", epochs=3)
    run.advance(2)
    assert run.total_steps is None
    run.advance(2)
    assert run.total_steps == 9


def test_train_keeps_the_start():
    run = loops.make_run(epochs=2)
    before = loops.frozen(list(run.model.parameters()))
    run.train()
    assert run.over
    assert run.origin is not None
    run.restore(run.origin)
    assert loops.frozen(list(run.model.parameters())) == before
    assert not run.over

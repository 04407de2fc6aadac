"""Checkpoints, forks and restoring, bit for bit."""

from __future__ import annotations

import gc

import pytest
import torch
from tests.run import loops
from torch import nn
from torch.nn import functional

from geartrain.run import Change

CASES = [(o, "step", "tensors") for o in loops.OPTIMIZERS]
CASES += [("momentum", s, "loader") for s in loops.SCHEDULERS]
CASES += [("adam", "one cycle", d) for d in loops.DATA]


@pytest.mark.parametrize(("optimizer", "scheduler", "data"), CASES)
@pytest.mark.parametrize("at", [0, 2, 3, 4])
def test_fork_and_restore(optimizer, scheduler, data, at):
    untouched = loops.make_run(optimizer, scheduler, data)
    untouched.advance(at)
    expected = loops.trail(untouched, 6)
    run = loops.make_run(optimizer, scheduler, data)
    run.advance(at)
    before = loops.picture(run)
    run.fork(steps=5)
    loops.assert_same(before, loops.picture(run))
    assert loops.trail(run, 6) == expected
    assert repr(run.history) == repr(untouched.history)  # by text: NaN is not equal to itself


@pytest.mark.parametrize(("optimizer", "scheduler", "data"), CASES)
def test_restoring_a_checkpoint_repeats_the_run(optimizer, scheduler, data):
    run = loops.make_run(optimizer, scheduler, data)
    run.advance(4)
    saved = run.checkpoint()
    first = loops.trail(run, 7)
    history = run.history
    run.restore(saved)
    assert loops.trail(run, 7) == first
    run.restore(saved)
    run.restore(saved)  # and a checkpoint serves any number of times
    assert loops.trail(run, 7) == first
    assert repr(run.history) == repr(history)


def test_a_fork_without_a_change_is_the_run_itself():
    run = loops.make_run("adam", "step", "loader")
    run.advance(4)
    branch = run.fork(steps=6, points=[0, 3, 6])
    assert len(repr(branch)) < 200  # the numbers of every step are not for reading
    start = len(run.history)
    run.advance(6)
    assert branch.history.column("loss").tolist() == run.history.column("loss")[start:].tolist()
    assert branch.steps.tolist() == [4, 7, 10]
    assert branch.taken == 6
    assert branch.complete


def test_forks_from_an_earlier_checkpoint():
    run = loops.make_run("adam", "step", "loader with generator")
    run.advance(2)
    saved = run.checkpoint("early")
    run.advance(5)
    before = loops.picture(run)
    branch = run.fork(steps=5, at=saved)
    loops.assert_same(before, loops.picture(run))
    assert branch.history.column("loss").tolist() == run.history.column("loss")[2:7].tolist()


CHANGES = {
    "nothing": Change(),
    "lr": Change(lr=1.0),
    "lr_factor": Change(lr_factor=0.1),
    "batch": Change(batch_size=4),
    "batch up": Change(batch_factor=2.0),
    "optimizer": Change(optimizer=lambda p: torch.optim.Adam(p, lr=0.1)),
    "momentum": Change(momentum=0.1),
    "weight_decay": Change(weight_decay=0.5),
    "clip": Change(clip_grad_norm=0.1),
    "transform": Change(transform=lambda b: (2 * b[0], b[1])),
    "loss": Change(loss_fn=lambda f, y: functional.multi_margin_loss(f, y)),
    "head": Change(head=("6", nn.Linear(5, 3))),
    "deep head": Change(head=("6", nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)))),
    "edit": Change(edit=lambda m: m[0].weight.zero_()),
    "edit dropout": Change(edit=lambda m: setattr(m[3], "p", 0.0)),
    "edit forward": Change(edit=lambda m: setattr(m[5], "forward", torch.sigmoid)),
    "edit data": Change(edit=lambda m: setattr(m[0].weight, "data", torch.zeros(6, 4))),
    "edit hook": Change(edit=lambda m: m[0].register_forward_hook(lambda *_: None) and None),
    "freeze": Change(edit=lambda m: m[0].requires_grad_(False) and None),
    "shuffle": Change(shuffle=False),
    "seed": Change(seed=7),
    "zero_grad": Change(zero_grad=False),
    "training_mode": Change(training_mode=False),
    "schedule": Change(keep_schedule=False),
    "prepare": Change(prepare=lambda run: setattr(run, "clip_grad_norm", 0.01)),
}


@pytest.mark.parametrize("data", ["tensors", "loader with generator"])
@pytest.mark.parametrize("name", CHANGES)
def test_every_change_is_undone(name, data):
    untouched = loops.make_run("momentum", "step", data)
    untouched.advance(4)
    expected = loops.trail(untouched, 5)
    run = loops.make_run("momentum", "step", data)
    run.advance(4)
    before = loops.picture(run)
    attributes = [dict(vars(m)) for m in run.model.modules()]
    hooks = [len(m._forward_hooks) for m in run.model.modules()]
    run.fork(CHANGES[name], steps=5)
    loops.assert_same(before, loops.picture(run))
    assert [vars(m) for m in run.model.modules()] == attributes
    assert [len(m._forward_hooks) for m in run.model.modules()] == hooks
    assert loops.trail(run, 5) == expected


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("where", ["loss", "edit", "block"])
def test_everything_is_undone_when_the_fork_breaks(error, where):
    run = loops.make_run("adam", "one cycle", "loader")
    run.advance(5)
    before = loops.picture(run)
    calls = []

    def loss(outputs, targets):
        calls.append(1)
        if len(calls) > 4:
            raise error("broken on purpose")
        return functional.cross_entropy(outputs, targets)

    def edit(model):
        model[0].weight.zero_()
        raise error("broken on purpose")

    def block():
        with run.branch(Change(lr=3.0)) as fork:
            fork.advance(2)
            raise error("broken on purpose")

    actions = {
        "loss": lambda: run.fork(loss_fn=loss, steps=9),
        "edit": lambda: run.fork(edit=edit),
        "block": block,
    }
    with pytest.raises(error, match="broken on purpose"):
        actions[where]()
    loops.assert_same(before, loops.picture(run))


def test_further_state_is_restored():
    twin = nn.Linear(2, 2)
    second = torch.optim.Adam(twin.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
    model = loops.make_model()
    mine = torch.optim.SGD(model.parameters(), lr=0.1)

    def step(batch):
        mine.zero_grad()
        loss = functional.cross_entropy(model(batch[0]), batch[1])
        scaler.scale(loss).backward()
        scaler.step(mine)
        scaler.update()
        second.zero_grad()
        twin(torch.randn(3, 2)).square().mean().backward()
        second.step()
        return loss

    extra = (twin, second, scaler)
    run = loops.Run(model, None, mine, loops.examples(), batch_size=8, step=step, extra_state=extra)

    def state():
        return loops.frozen([twin.state_dict(), second.state_dict(), scaler.state_dict()])

    run.advance(3)
    before = state()
    run.fork(steps=4)
    assert state() == before
    saved, _ = run.checkpoint(), run.advance(3)
    after = state()
    assert after != before
    run.restore(saved)
    assert state() == before
    run.advance(3)
    assert state() == after


def test_recurrent_weights_follow_a_swap():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.core, self.out = nn.GRU(4, 4, batch_first=True), nn.Linear(4, 3)

        def forward(self, x):
            return self.out(self.core(x[:, None])[0][:, -1])

    torch.manual_seed(0)
    run = loops.make_run("adam", model=Net())
    run.advance(2)

    def redraw(model):
        model.core.weight_ih_l0 = nn.Parameter(torch.zeros(12, 4))

    before = run.probe_losses()
    run.fork(edit=redraw, steps=2)
    assert run.probe_losses().tolist() == before.tolist()


def test_forks_leave_no_memory_behind():
    run = loops.make_run("adam")
    run.advance(3)
    run.fork(steps=3)
    before = tensors_alive()
    for _ in range(4):
        run.fork(steps=3, lr_factor=0.5)
    assert tensors_alive() <= before


def tensors_alive():
    gc.collect()
    return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())


def test_checkpoints_know_their_size():
    run = loops.make_run("adam")
    run.advance(1)
    parameters = sum(p.nbytes for p in run.model.parameters())
    assert run.checkpoint().nbytes >= 4 * parameters  # values, gradients, both moments


def test_sparse_gradients_are_copied_and_counted():
    torch.manual_seed(0)
    model = nn.Sequential(nn.EmbeddingBag(20, 4, sparse=True), nn.Linear(4, 2))
    data = (torch.randint(20, (16, 3)), torch.randint(2, (16,)))
    run = loops.Run(
        model, functional.cross_entropy, torch.optim.SGD(model.parameters(), lr=0.1), data, batch_size=8
    )
    run.advance(1)
    grad = model[0].weight.grad
    value, weight = grad.to_dense().clone(), model[0].weight.detach().clone()
    here = run.checkpoint()
    assert here.nbytes >= sum(p.nbytes for p in model.parameters())
    run.fork(lr_factor=2.0, steps=3)
    assert model[0].weight.grad is grad
    assert torch.equal(grad.to_dense(), value)
    assert torch.equal(model[0].weight, weight)

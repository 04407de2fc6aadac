"""Every field of a Change does what it says, inside the fork."""

from __future__ import annotations

import pytest
import torch
from tests.run import loops
from torch import nn
from torch.nn import functional
from torch.optim import lr_scheduler

from geartrain.errors import InputError, UnsupportedError
from geartrain.run import Change


def lrs(run, steps, **change):
    return run.fork(steps=steps, **change).history.column("lr").tolist()


def test_lr_sets_every_group_and_stops_the_schedule():
    model = loops.make_model()
    groups = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[4].parameters(), "lr": 0.2}]
    optimizer = torch.optim.SGD(groups, lr=0.3)
    run = loops.Run(
        model,
        functional.cross_entropy,
        optimizer,
        loops.examples(),
        batch_size=8,
        scheduler=lr_scheduler.StepLR(optimizer, 1),
    )
    with run.branch(Change(lr=0.5)) as fork:
        fork.advance(3)
        assert [g["lr"] for g in fork.optimizer.param_groups] == [0.5, 0.5]
    assert [g["lr"] for g in optimizer.param_groups] == [0.1, 0.2]


@pytest.mark.parametrize("scheduler", [s for s in loops.SCHEDULERS if s != "plateau"])
def test_lr_factor_scales_the_whole_schedule(scheduler):
    run = loops.make_run("sgd", scheduler, epochs=9)
    run.advance(2)
    plain = lrs(run, 9)
    assert lrs(run, 9, lr_factor=0.25) == pytest.approx([0.25 * lr for lr in plain], rel=1e-6)
    assert lrs(run, 9) == plain


def test_keep_schedule_false_freezes_the_step_size():
    run = loops.make_run("sgd", "step")
    run.advance(1)
    assert set(lrs(run, 8, keep_schedule=False)) == {0.1}


@pytest.mark.parametrize(
    ("data", "change", "sizes"),
    [
        ("tensors", {"batch_size": 4}, [4, 4, 4, 4, 4, 2]),
        ("tensors", {"batch_factor": 0.5}, [4, 4, 4, 4, 4, 2]),
        ("tensors", {"batch_size": 1000}, [22]),
        ("loader", {"batch_size": 4}, [4, 4, 4, 4, 3, 3]),
        ("loader", {"batch_factor": 2.0}, [16, 6]),
        ("loader", {"batch_factor": 4.0}, [22]),
        ("loader with generator", {"batch_size": 16}, [16, 6]),
        ("callable", {"batch_factor": 2.0}, [16, 8]),
    ],
)
def test_batch_sizes(data, change, sizes):
    run = loops.make_run("sgd", data=data)
    seen = []
    count = 2 * len(sizes)
    run.fork(Change(transform=lambda b: seen.append(len(b[1])) or b, **change), steps=count, points=[count])
    probes = [s for s in seen if s not in {22}] if sizes != [22] else seen
    assert probes[: len(sizes)] == sizes
    assert run.stream.batch_size == 8


def test_joined_batches_hold_every_example_once():
    run = loops.make_run("sgd", data="loader")
    for factor in (0.5, 1.0, 2.0, 3.0):
        with run.branch(Change(batch_factor=factor)) as fork:
            for _ in range(2):
                rows = []
                while (batch := fork.stream.next()) is not None:
                    rows.append(batch[0])
                together = torch.cat(rows)
                assert sorted(map(tuple, together.tolist())) == sorted(
                    map(tuple, loops.examples()[0].tolist())
                )


def test_optimizer():
    run = loops.make_run("sgd", "step")
    with run.branch(Change(optimizer=lambda p: torch.optim.Adam(p, lr=0.02))) as fork:
        fork.advance(2)
        assert isinstance(fork.optimizer, torch.optim.Adam)
        assert fork.history.column("lr").tolist() == [0.02, 0.02]
        assert fork.scheduler is None
    assert isinstance(run.optimizer, torch.optim.SGD)


def test_momentum_and_weight_decay():
    for name, key, value in (("momentum", "momentum", 0.5), ("adam", "betas", (0.5, 0.999))):
        run = loops.make_run(name)
        with run.branch(Change(momentum=0.5, weight_decay=0.25)) as fork:
            assert fork.optimizer.param_groups[0][key] == value
            assert fork.optimizer.param_groups[0]["weight_decay"] == 0.25
        assert run.optimizer.param_groups[0][key] != value


def test_clipping_on_and_off():
    run = loops.make_run("sgd")
    assert run.fork(steps=3, clip_grad_norm=0.01).history.column("update_norm").max() <= 0.1 * 0.01 * 1.001
    clipped = loops.make_run("sgd", clip_grad_norm=0.01)
    assert clipped.fork(steps=3, clip_grad_norm=0).history.column("update_norm").min() > 0.01


def test_transform_applies_to_training_and_probes_and_stacks():
    run = loops.make_run("sgd")
    double = Change(transform=lambda b: (2 * b[0], b[1]))
    plain = run.probe()[0]
    with run.branch(double) as fork:
        assert torch.equal(fork.probe()[0], 2 * plain)
        assert torch.equal(fork.probe("validation")[0], 2 * run.validation_data[0])
        with fork.branch(double) as deeper:
            assert torch.equal(deeper.probe()[0], 4 * plain)
        assert torch.equal(fork.probe()[0], 2 * plain)
    assert torch.equal(run.probe()[0], plain)


def test_loss():
    run = loops.make_run("sgd")
    branch = run.fork(steps=2, loss_fn=lambda f, y: 7 + 0 * f.mean())
    assert branch.history.column("loss").tolist() == [7, 7]
    assert bool((branch.losses == 7).all())


@pytest.mark.parametrize("scheduler", ["step", "one cycle", "lambda", "none"])
def test_a_new_head_is_trained(scheduler):
    run = loops.make_run("momentum", scheduler, data="loader")
    run.advance(2)
    head = nn.Linear(5, 3)
    start = head.weight.detach().clone()
    with run.branch(Change(head=("6", head))) as fork:
        fork.advance(4)
        assert fork.model[6] is head
        assert not torch.equal(head.weight, start)
    assert run.model[6] is not head


def test_thaw_whole_or_in_part():
    def frozen_run():
        model = loops.make_model()
        model[0].requires_grad_(False)
        model[4].requires_grad_(False)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        return loops.Run(model, functional.cross_entropy, optimizer, loops.examples(), batch_size=8)

    for thaw, moved in ((True, {0, 4}), ("0.", {0}), ("4.", {4})):
        run = frozen_run()
        before = {i: run.model[i].weight.clone() for i in (0, 4)}
        with run.branch(Change(thaw=thaw)) as fork:
            fork.advance(2)
            assert {i for i in before if not torch.equal(before[i], fork.model[i].weight)} == moved
        assert not any(p.requires_grad for i in (0, 4) for p in run.model[i].parameters())
        assert sum(len(g["params"]) for g in run.optimizer.param_groups) == 4


def test_parameters_that_the_optimizer_leaves_out_stay_out():
    model = loops.make_model()
    optimizer = torch.optim.SGD(model[6].parameters(), lr=0.1)
    run = loops.Run(model, functional.cross_entropy, optimizer, loops.examples(), batch_size=8)
    before = model[0].weight.detach().clone()
    with run.branch(Change(lr_factor=2.0, edit=lambda m: m[6].weight.zero_())) as fork:
        fork.advance(2)
        assert torch.equal(model[0].weight, before)


def test_shuffle_and_seed():
    run = loops.make_run("sgd", seed=3)
    first = run.train_data[0][:8]
    with run.branch(Change(shuffle=False)) as fork:
        assert torch.equal(fork.stream.next()[0], first)
    with run.branch(Change()) as fork:
        usual = fork.stream.next()[0]
    with run.branch(Change(seed=9)) as fork:
        other = fork.stream.next()[0]
    assert not torch.equal(usual, other)
    for kind in ("loader", "loader with generator"):
        loaded = loops.make_run("sgd", data=kind)
        orders = []
        for seed in (1, 2, 1):
            with loaded.branch(Change(seed=seed)) as fork:
                orders.append(fork.stream.next()[0].tolist())
        assert orders[0] == orders[2] != orders[1]


def test_zero_grad():
    run = loops.make_run("sgd")
    kept = run.fork(steps=4, zero_grad=False).history.column("grad_norm")
    cleared = run.fork(steps=4).history.column("grad_norm")
    assert kept[0] == cleared[0]
    assert kept[3] > cleared[3]
    forgetful = loops.make_run("sgd", zero_grad=False)
    assert forgetful.fork(steps=4, zero_grad=True).history.column("grad_norm").tolist() == cleared.tolist()


def test_training_mode():
    run = loops.make_run("sgd")
    seen = []
    run.fork(training_mode=False, steps=1, transform=lambda b: seen.append(run.model.training) or b)
    with run.branch(Change(training_mode=False)) as fork:
        buffers = loops.frozen(list(fork.model.buffers()))
        fork.advance(2)
        assert not fork.model.training
        assert loops.frozen(list(fork.model.buffers())) == buffers
    assert run.model.training


def test_prepare_may_do_anything():
    run = loops.make_run("sgd")
    other = loops.examples(9)

    def prepare(fork):
        fork.train_data = other
        fork.stream = type(fork.stream)(other, batch_size=22, shuffle=False, seed=0)

    with run.branch(Change(prepare=prepare)) as fork:
        assert torch.equal(fork.stream.next()[0], other[0])
    assert run.train_data is not other
    assert run.stream.batch_size == 8


# ---------------------------------------------------------------- with the user's own step


def own_loop():
    model = loops.make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step(batch):
        model.train()
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        return loss.item()

    return loops.Run(model, None, optimizer, loops.examples(), batch_size=8, step=step)


def test_her_step_follows_what_can_be_changed():
    run = own_loop()
    assert run.fork(steps=2, lr_factor=0.5).history.column("lr").tolist() == [0.05, 0.05]
    assert run.fork(steps=2, clip_grad_norm=0.01).history.column("update_norm").max() <= 0.1 * 0.01 * 1.001
    assert run.fork(steps=3, batch_size=22).history.column("step").tolist() == [0, 1, 2]
    branch = run.fork(steps=12)
    assert branch.losses.shape == (12, 1)
    assert branch.validation is None


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"loss_fn": functional.mse_loss}, "The loss"),
        ({"optimizer": lambda p: torch.optim.Adam(p)}, "The optimizer"),
        ({"zero_grad": False}, "Clearing of gradients"),
        ({"training_mode": False}, "The mode of the model"),
    ],
)
def test_her_step_decides_the_rest(change, what):
    with pytest.raises(UnsupportedError, match=f"{what} cannot be changed on a fork: the run's own step"):
        own_loop().fork(**change)


# ---------------------------------------------------------------- messages


@pytest.mark.parametrize(
    ("options", "change", "error", "message"),
    [
        (
            {},
            {"learning_rate": 1},
            InputError,
            "A fork cannot change 'learning_rate'; it can change: lr, lr_factor",
        ),
        ({}, {"lr_facto": 1}, InputError, "Did you mean 'lr_factor'"),
        (
            {"optimizer": "adam"},
            {"head": ("9", nn.Linear(5, 3))},
            InputError,
            "no module named '9'; it has: 0, 1, 2",
        ),
        (
            {},
            {"thaw": "nothing"},
            InputError,
            "thaw='nothing' fits no parameter; allowed: True, or the start of",
        ),
        (
            {"optimizer": "lbfgs"},
            {"head": ("6", nn.Linear(5, 3))},
            UnsupportedError,
            "LBFGS keeps one history",
        ),
        ({"optimizer": "lbfgs"}, {"momentum": 0.5}, UnsupportedError, "LBFGS has no 'momentum'"),
    ],
)
def test_what_cannot_be_changed(options, change, error, message):
    run = loops.make_run(**options)
    before = loops.picture(run)
    with pytest.raises(error, match=message):
        run.fork(**change)
    loops.assert_same(before, loops.picture(run))

"""Forks computed together equal those made alone, leave the run as it was, and say why the others went alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.training_toys import classifier, fingerprint
from torch import nn

from geartrain.ensemble import forks
from geartrain.errors import InputError
from geartrain.run import Change, Run

CHANGES: list[dict[str, Any]] = [
    {"lr_factor": 0.3},
    {"lr_factor": 3.0},
    {"weight_decay": 0.1},
    {"clip_grad_norm": 0.05},
]
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5),
}


def double_run(optimizer: str = "momentum", model: nn.Module | None = None, **options: Any) -> Run:
    torch.manual_seed(0)
    labels = torch.arange(96) % 3
    inputs = (torch.randn(96, 5) + 2.0 * nn.functional.one_hot(labels, 5)).double()
    model = (model or nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))).double()
    return Run(
        model, nn.functional.cross_entropy, OPTIMIZERS[optimizer](model.parameters()), train=(inputs, labels),
        validation=(inputs[:30] + 0.1, labels[:30]), batch_size=16, epochs=5, **options,
    )  # fmt: skip


def assert_same(one: Any, other: Any) -> None:
    np.testing.assert_array_equal(one.steps, other.steps)
    np.testing.assert_allclose(one.losses, other.losses, rtol=1e-9)
    np.testing.assert_allclose(one.validation, other.validation, rtol=1e-9)
    assert one.taken == other.taken
    assert one.complete == other.complete
    assert set(one.history.columns) == set(other.history.columns)
    for name in other.history.columns:
        np.testing.assert_allclose(
            one.history.column(name), other.history.column(name), rtol=1e-7, atol=1e-12
        )
    assert len(one.history.evaluations) == len(other.history.evaluations)
    for mine, theirs in zip(one.history.evaluations, other.history.evaluations, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_together_equals_alone(optimizer: str) -> None:
    run = double_run(optimizer)
    run.advance(9)
    before = fingerprint(run)
    found = forks(run, CHANGES, 15)
    assert found.together == (0, 1, 2, 3), found.alone
    assert found.engine in {"stack", "vmap", "loop"}
    for branch, change in zip(found.branches, CHANGES, strict=True):
        assert_same(branch, run.fork(Change(**change), 15))
    after = fingerprint(run)
    assert str(before) == str(after)


@pytest.mark.parametrize("per_step", [True, False])
def test_schedules_and_epochs_go_on(per_step: bool) -> None:
    run = double_run()
    run.scheduler = torch.optim.lr_scheduler.StepLR(run.optimizer, 2, 0.5)
    run.scheduler_per_step = per_step
    run.advance(4)
    found = forks(run, [{"lr_factor": 0.5}, {"momentum": 0.5}], 14, points=[3, 14])
    assert found.together == (0, 1)
    for branch, change in zip(found.branches, [{"lr_factor": 0.5}, {"momentum": 0.5}], strict=True):
        assert_same(branch, run.fork(Change(**change), 14, points=[3, 14]))


def test_batch_statistics_go_along() -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    run = double_run(model=model)
    run.advance(3)
    found = forks(run, [{"lr_factor": 0.5}, {"lr_factor": 2.0}], 10)
    for branch, factor in zip(found.branches, (0.5, 2.0), strict=True):
        assert_same(branch, run.fork(lr_factor=factor, steps=10))


def test_each_size_of_batches_is_a_group_and_leaving_points_are_kept() -> None:
    run = double_run()
    here = run.checkpoint()
    run.advance(5)
    changes = [
        {"lr": 0.01},
        {"batch_size": 32, "lr": 0.02},
        {"lr": 0.02},
        {"batch_size": 32},
        {"batch_size": 8},
    ]
    found = forks(run, changes, 8, at=here)
    assert found.together == (0, 1, 2, 3)
    assert found.alone == {4: "no other fork has its architecture, optimizer and size of batches"}
    for branch, change in zip(found.branches, changes, strict=True):
        assert_same(branch, run.fork(Change(**change), 8, at=here))


def test_own_orders_and_own_inputs_are_kept() -> None:
    run = double_run()
    run.advance(2)
    turned = lambda batch: (-batch[0], batch[1])  # noqa: E731
    changes = [{"seed": 3}, {"seed": 4, "edit": _redrawn}, {"shuffle": False}, {"transform": turned}]
    found = forks(run, changes, 12)
    assert found.together == (0, 1, 2, 3), found.alone
    for branch, change in zip(found.branches, changes, strict=True):
        assert_same(branch, run.fork(Change(**change), 12))


def _redrawn(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.normal_(0, 0.3)


def test_a_fork_that_breaks_is_made_again_and_names_the_module() -> None:
    run = double_run("sgd")
    found = forks(run, [{"lr": 0.01}, {"lr": 1e308}, {"lr": 0.1}], 10)
    assert found.together == (0, 2)
    assert found.alone == {1: "it broke, and was made again to find where"}
    assert found[1].history.failure is not None
    assert found[0].history.failure is None
    assert_same(found[2], run.fork(lr=0.1, steps=10))


REASONS = {
    "dropout draws": lambda: classifier(
        model=nn.Sequential(nn.Linear(5, 4), nn.Dropout(0.5), nn.Linear(4, 3))
    ),
    "different settings": lambda: _two_groups(),
    "LBFGS has no rule": lambda: _with(lambda p: torch.optim.LBFGS(p)),
    "amsgrad": lambda: _with(lambda p: torch.optim.Adam(p, amsgrad=True)),
    "come from a loader": lambda: _loader(),
    "depends on losses to come": lambda: _plateau(),
    "never cleared": lambda: classifier(zero_grad=False),
    "hooks on the model": lambda: _hooked(),
    "exactly the trained": lambda: _with(lambda p: torch.optim.SGD(list(p)[:2], lr=0.1)),
}


def _with(make: Any) -> Run:
    model = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))
    return classifier(model=model, optimizer=make(model.parameters()))


def _two_groups() -> Run:
    return _with(lambda p: torch.optim.SGD([{"params": [q], "lr": 0.1 + i} for i, q in enumerate(p)]))


def _loader() -> Run:
    run = classifier()
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*run.train_data), batch_size=8)
    return Run(run.model, nn.functional.cross_entropy, run.optimizer, train=data)


def _plateau() -> Run:
    run = classifier()
    run.scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(run.optimizer)
    return run


def _hooked() -> Run:
    run = classifier()
    run.model[0].register_forward_hook(lambda *a: None)
    return run


@pytest.mark.parametrize("reason", REASONS)
def test_what_cannot_go_together_goes_alone_and_says_why(reason: str) -> None:
    run = REASONS[reason]()
    found = forks(run, [{"edit": lambda m: None}, {"shuffle": False}], 2)
    assert found.together == ()
    assert reason in found.alone[0]
    assert [b.taken for b in found.branches] == [2, 2]


def test_deadline_and_bad_input() -> None:
    run = double_run()
    found = forks(run, [{"lr": 0.1}, {"lr": 0.2}], 50, deadline=0.0)
    assert [b.taken for b in found.branches] == [1, 1]
    assert not any(b.complete for b in found.branches)
    with pytest.raises(InputError, match="steps is -1; it must be 0 or more"):
        forks(run, [{"lr": 0.1}], -1)
    with pytest.raises(InputError, match="A fork cannot change 'learning_rate'"):
        forks(run, [{"learning_rate": 0.1}])

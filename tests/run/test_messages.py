"""What a run refuses, and how it breaks."""

from __future__ import annotations

import pytest
import torch
from tests.run import loops
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from geartrain.errors import InputError, NonFiniteError, UnsupportedError
from geartrain.run import Run


def build(model=None, data=None, optimizer=None, loss=functional.cross_entropy, **options):
    model = model or loops.make_model()
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1)
    return Run(model, loss, optimizer, loops.examples() if data is None else data, batch_size=8, **options)


def with_nan():
    inputs, targets = loops.examples()
    inputs[20, 1] = torch.nan
    return inputs, targets


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Run("model"), "model is a str; it must be a torch.nn.Module"),
        (
            lambda: Run(loops.make_model(), functional.cross_entropy, "adam"),
            "optimizer is a str; it must be a torch",
        ),
        (
            lambda: build(nn.Sequential(nn.Linear(4, 3)).requires_grad_(False)),
            "No parameter of Sequential needs a grad",
        ),
        (
            lambda: build(nn.ReLU(), optimizer=torch.optim.SGD(nn.Linear(1, 1).parameters())),
            "No parameter of ReLU",
        ),
        (
            lambda: build(optimizer=torch.optim.SGD(nn.Linear(1, 1).parameters())),
            "The optimizer holds no parameter of Sequential, so the model would never change",
        ),
        (
            lambda: Run(m := loops.make_model(), functional.cross_entropy, torch.optim.SGD(m.parameters())),
            "No training data were given",
        ),
        (lambda: build(epochs=0), "epochs is 0; it must be at least 1"),
        (lambda: build(loss=None), "No loss was given"),
        (lambda: build(batch_loss=len), "Both loss_fn and batch_loss"),
        (
            lambda: build(data=with_nan()),
            r"training data holds NaN.*1 of 22 examples.*\(20, 1\) of the inputs",
        ),
        (lambda: build(validation=with_nan()), "validation data holds NaN"),
        (lambda: build(data=(loops.examples()[0], loops.examples()[1][:3])), "tensors of different lengths"),
        (lambda: build(data=tuple(t[:0] for t in loops.examples())), "training data is empty"),
        (
            lambda: build(data=tuple(t[:5] for t in loops.examples())),
            "batch_size is 8, but the training data have 5 exam",
        ),
        (
            lambda: build(data=(b for b in [loops.examples()])),
            "one-shot generator, which cannot be read again",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_a_batch_size_below_one_is_refused():
    with pytest.raises(InputError, match="batch_size is 0; it must be at least 1"):
        loops.make_run(batch_size=0)


@pytest.mark.parametrize("kind", ["loader", "dataset", "callable"])
def test_nan_that_comes_later_is_refused_when_it_comes(kind):
    dataset = TensorDataset(*with_nan())
    data = {
        "loader": DataLoader(dataset, batch_size=8),
        "dataset": dataset,
        "callable": lambda epoch: DataLoader(dataset, batch_size=8),
    }[kind]
    with pytest.raises(
        InputError, match=r"training data \(batch ending at .* of the first epoch\) holds NaN"
    ):
        build(data=data, shuffle=False).train()


def test_no_batches_are_refused():
    with pytest.raises(InputError, match="yield no batches in epoch 0"):
        build(data=lambda epoch: []).train()


def test_step_must_return_the_loss():
    model = loops.make_model()
    run = Run(
        model,
        None,
        torch.optim.SGD(model.parameters(), lr=0.1),
        loops.examples(),
        batch_size=8,
        step=lambda batch: None,
    )
    with pytest.raises(InputError, match=r"step\(batch\) returned None; it must return the loss"):
        run.train()


def test_losses_must_be_scalars():
    with pytest.raises(InputError, match=r"The loss is a tensor of shape \(8, 3\); it must be a scalar"):
        build(loss=lambda f, y: f).advance(1)


def test_measuring_needs_a_loss():
    model = loops.make_model()
    run = Run(
        model,
        None,
        torch.optim.SGD(model.parameters(), lr=0.1),
        loops.examples(),
        batch_size=8,
        step=lambda batch: 1.0,
    )
    with pytest.raises(UnsupportedError, match=r"only a step\(batch\), no loss function"):
        run.objective()
    with pytest.raises(UnsupportedError, match="The run has no validation data"):
        loops.make_run(validation=None).objective("validation", probe=None)


# ---------------------------------------------------------------- how it breaks


class Root(nn.Module):
    """Fine until it is told otherwise."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += self.training
        return torch.sqrt(x.abs() - (100 if self.calls > 3 else 0))


def breaking(step=None):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), Root(), nn.Linear(5, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def own(batch):
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        return loss

    return Run(
        model,
        functional.cross_entropy,
        optimizer,
        loops.examples(),
        batch_size=8,
        step=own if step else None,
        name="it",
    )


@pytest.mark.parametrize("own", [False, True])
def test_the_step_and_the_first_module_are_named(own):
    run = breaking(own)
    history = run.train()
    assert history.failure is not None
    assert (history.failure.step, history.failure.what, history.failure.module) == (3, "loss", "2 (Root)")
    assert len(history) == 4
    assert run.advance(5) == 0
    with pytest.raises(
        NonFiniteError, match=r"In it, the loss stopped being finite at step 3, first in 2 \(Root\)"
    ) as e:
        run.require_finite()
    assert (e.value.step, e.value.module) == (3, "2 (Root)")


def test_a_gradient_that_breaks_names_its_module():
    class Kink(nn.Module):
        def forward(self, x):
            return (x - x.detach()).abs().sqrt() + x  # value fine, slope infinite

    torch.manual_seed(0)
    run = build(nn.Sequential(nn.Linear(4, 5), Kink(), nn.Linear(5, 3)))
    failure = run.train().failure
    assert (failure.step, failure.what, failure.module) == (0, "gradient", "0 (Linear, backward)")


def test_a_model_that_explodes_is_told_from_its_parameters():
    run = loops.make_run("sgd", model=nn.Sequential(nn.Linear(4, 3)))
    run.optimizer.param_groups[0]["lr"] = 1e38
    failure = run.train().failure
    assert failure is not None
    assert failure.step >= 1


def test_bad_data_of_later_epochs_are_named():
    inputs, targets = loops.examples()
    run = build(data=lambda epoch: [(inputs * (torch.nan if epoch else 1.0), targets)])
    failure = run.train().failure
    assert failure.module == "the data (this batch holds NaN or infinite numbers)"


def test_a_failed_run_can_be_restored():
    run = breaking()
    run.advance(2)
    saved = run.checkpoint()
    assert run.train().failure is not None
    run.restore(saved)
    assert run.history.failure is None
    assert len(run.history) == 2


def test_forks_that_fail_say_so_and_leave_the_run_alone():
    run = loops.make_run("sgd")
    run.advance(2)
    branch = run.fork(steps=10, loss_fn=lambda f, y: f.mean() * torch.nan)
    assert branch.history.failure is not None
    assert branch.complete
    assert run.history.failure is None

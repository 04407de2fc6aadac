"""House rules for the instruments of signal and data: nothing changed, same bits again, never an error for odd data."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.made import Next, normal, objective_of, run_of, same, sequence_loss, state_of, words
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from geartrain import instruments
from geartrain.errors import InputError
from geartrain.measuring import subject_for
from geartrain.objective import Objective
from geartrain.records import Cost, State, jsonable
from geartrain.run import Run

NAMES = (
    "activation_flow", "class_recall", "constant_loss", "data_order", "dead_units", "distribution_shift",
    "feature_leak",
    "feature_scales", "future_dependence", "gradient_flow", "gradient_noise_scale", "input_affinity",
    "input_conditioning", "label_balance", "loss_match", "neighbour_agreement", "output_probability", "output_reach",
    "output_target_match", "saturated_units", "target_scale",
)  # fmt: skip


def classifier() -> Run:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 8),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(8, 8),
        nn.Tanh(),
        nn.Linear(8, 3),
    )
    x = normal(90, 4, dtype=torch.float32)
    run = run_of((x[:60], torch.arange(60) % 3), (x[60:], torch.arange(30) % 3), model)
    run.model.train()
    run.advance(2)
    return run


def images() -> Run:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(3 * 36, 3))
    x = normal(60, 1, 8, 8, dtype=torch.float32)
    return run_of((x, torch.arange(60) % 3), (x[:20] + 0.1, torch.arange(20) % 3), model)


def language() -> Run:
    return run_of(words(), words(seed=1), Next(recurrent=True), sequence_loss)


def attention() -> Run:
    return run_of(words(), words(seed=1), Next(), sequence_loss)


def loaded() -> Run:
    x = normal(60, 4, dtype=torch.float32)
    loader = DataLoader(TensorDataset(x, x[:, :1].sin()), batch_size=12, shuffle=True)
    model = nn.Sequential(nn.Linear(4, 5), nn.Sigmoid(), nn.Linear(5, 1))
    optimizer = torch.optim.Adam(model.parameters())
    return Run(model, functional.mse_loss, optimizer, loader, loader)


def physics() -> Run:
    """A loss with input derivatives, hidden outputs, and no targets."""

    def residual(model: nn.Module, points: torch.Tensor) -> torch.Tensor:
        points = points.requires_grad_()
        values = model(points)
        slope = torch.autograd.grad(values.sum(), points, create_graph=True)[0]
        return (slope + values).square().mean()

    model = nn.Sequential(nn.Linear(1, 6), nn.Tanh(), nn.Linear(6, 1))
    optimizer = torch.optim.Adam(model.parameters())
    return Run(model, None, optimizer, normal(40, 1, dtype=torch.float32), batch_loss=residual, batch_size=8)


def dictionary() -> Run:
    """Batches as dicts, as Hugging Face models take them."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Next()

        def forward(self, input_ids, labels):
            scores = self.inner(input_ids)
            return type("Output", (), {"loss": sequence_loss(scores, labels), "logits": scores})()

    text, targets = words()
    model = Model()
    data = {"input_ids": text, "labels": targets}
    return Run(model, None, torch.optim.Adam(model.parameters()), data, batch_size=10)


def multi_label() -> Run:
    x = normal(40, 4, dtype=torch.float32)
    return run_of(
        (x, (x[:, :3] > 0).float()), None, nn.Linear(4, 3), functional.binary_cross_entropy_with_logits
    )


KINDS: dict[str, Callable[[], Run]] = {f.__name__: f for f in (language, loaded, multi_label)}


def measured(name: str, run: Run) -> Any:
    function = instruments.get(name)
    return function(subject_for(function.spec.needs, run, name), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_any_run_leaves_no_trace_and_gives_the_same_bits(name, kind):
    run = KINDS[kind]()
    torch.manual_seed(1)
    before, mode = state_of(run.model), run.model.training
    position = run.stream.position()
    first = measured(name, run)
    assert same(state_of(run.model), before)
    assert run.model.training is mode
    assert run.stream.position().taken == position.taken
    second = measured(name, run)
    assert same(first.value, second.value)
    assert same(first.standard_error, second.standard_error)
    assert np.ndim(first.value) == len(first.dims)
    assert first.name == name
    assert first.unit == instruments.get(name).spec.unit
    assert first.status.sentence.endswith(".")
    if first.status.state is State.NOT_APPLICABLE:
        assert math.isnan(first.value)
    elif first.status.state is State.EXACT:
        assert np.all(np.isfinite(first.value))
    jsonable(first.details)


@pytest.mark.parametrize("name", NAMES)
def test_spec_price_and_document(name):
    function = instruments.get(name)
    run = classifier()
    price = function.spec.price(subject_for(function.spec.needs, run, name))
    assert isinstance(price, Cost)
    assert function.spec.summary.startswith(("Measure", "Test"))
    document = function.__doc__
    for part in ("**Cost**", "Args:", "Returns:", "Example:"):
        assert part in document
    assert "Ledger:" in (sys.modules[getattr(instruments, name).__module__].__doc__ or "")


@pytest.mark.parametrize("name", NAMES)
def test_cost_is_what_was_quoted(name):
    function = instruments.get(name)
    subject = subject_for(function.spec.needs, attention(), name)
    price, result = function.spec.price(subject), function(subject)
    assert result.cost.seconds > 0
    assert result.cost.forwards <= price.forwards + 1
    assert result.cost.gradients <= price.gradients + 1


def test_nan_in_the_data_is_refused():
    x = normal(20, 2)
    x[3, 1] = math.nan
    with pytest.raises(InputError, match="NaN"):
        objective_of(x, x)
    loader = DataLoader(TensorDataset(x, x[:, :1]), batch_size=10)
    model = nn.Linear(2, 1).double()
    run = Run(
        model, functional.mse_loss, torch.optim.SGD(model.parameters(), lr=0.1), loader, (x[10:], x[10:, :1])
    )
    for name in ("distribution_shift", "feature_leak", "data_order"):
        with pytest.raises(InputError, match="NaN"):
            instruments.get(name)(run)


def test_batches_of_different_lengths():
    short, long = words(8, 5), words(8, 9)
    objective = Objective(Next(), sequence_loss, [short, long])
    for name in NAMES:
        function = instruments.get(name)
        if function.spec.needs in {"objective", "data"}:
            assert function(objective).name == name

"""Input affinity: affine models, a closed form, output activations undone, relations."""

from __future__ import annotations

import math

import pytest
import torch
from tests.made import Next, linear, normal, objective_of, same, seeded, sequence_loss, words
from torch import nn
from torch.nn import functional

from geartrain.errors import NonFiniteError
from geartrain.instruments import input_affinity
from geartrain.objective import Objective
from geartrain.records import State


def deep(activation: nn.Module, head: nn.Module | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    parts = [nn.Linear(4, 8), activation, nn.Linear(8, 8), activation, nn.Linear(8, 3)]
    return nn.Sequential(*parts, *([head] if head else []))


@pytest.mark.parametrize("head", [None, nn.Softmax(dim=1), nn.LogSoftmax(dim=1), nn.Sigmoid(), nn.Tanh()])
def test_stacks_of_linear_layers(head):
    x, y = normal(40, 4, dtype=torch.float32), normal(40, 3, dtype=torch.float32)
    assert input_affinity(objective_of(x, y, deep(nn.Identity(), head))).value < 1e-5
    assert input_affinity(objective_of(3 * x, y, deep(nn.Tanh(), head))).value > 0.02


def test_squares_have_a_closed_form():
    class Square(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Parameter(torch.ones((), dtype=torch.float64))

        def forward(self, x):
            return self.one * x.square()

    # Off the middle by (a-b)²/4, apart by a² - b²; for normal a and b: √(12/16) / √4.
    x = normal(4000, 1)
    result = input_affinity(Objective(Square(), functional.mse_loss, (x, x)))
    assert abs(result.value - math.sqrt(12 / 16) / 2) < 4 * result.standard_error


def test_rounding_in_a_nearly_dead_model_is_no_nonlinearity():
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))
    model[0].weight.data *= 1e-7
    x, y = normal(40, 4, dtype=torch.float32), normal(40, 3, dtype=torch.float32)
    assert input_affinity(objective_of(x, y, model)).value < 1e-5


def test_scale_of_outputs_and_offset_do_not_matter():
    x = normal(60, 4, dtype=torch.float32)
    model = deep(nn.ReLU())
    value = input_affinity(objective_of(x, x[:, :3], model)).value
    model[4].weight.data *= 100
    model[4].bias.data += 7
    assert input_affinity(objective_of(x, x[:, :3], model)).value == pytest.approx(value, rel=1e-3)


def test_dropout_is_off():
    model = nn.Sequential(nn.Dropout(0.5), linear([1.0, 2.0]))
    x = normal(30, 2)
    assert input_affinity(objective_of(x, x[:, :1], model.train())).value < 1e-10


def test_generator():
    x = normal(60, 4, dtype=torch.float32)
    objective = objective_of(x, x[:, :3], deep(nn.ReLU()))
    values = [input_affinity(objective, generator=seeded(s)).value for s in (1, 1, 2)]
    assert same(values[0], values[1])
    assert values[0] != values[2]


def test_not_applicable():
    assert input_affinity(objective_of(*words(), Next(), sequence_loss)).status.state is State.NOT_APPLICABLE
    x = normal(20, 2)
    hidden = Objective(linear([1.0, 1.0]), batch_loss=lambda m, b: m(b[0]).mean(), data=(x, x))
    assert "hides" in input_affinity(hidden).status.sentence
    assert "same output" in input_affinity(objective_of(x, x[:, :1], linear([0.0, 0.0]))).status.sentence


def test_nan_is_refused():
    x = normal(20, 2)
    model = linear([1.0, math.nan])
    with pytest.raises(NonFiniteError, match="outputs"):
        input_affinity(objective_of(x, x[:, :1], model))

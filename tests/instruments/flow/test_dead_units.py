"""Dead units: known shares for modules, functional code and convolutions."""

from __future__ import annotations

import math

import pytest
import torch
from tests.made import linear, normal, objective_of
from torch import Tensor, nn
from torch.nn import functional

from geartrain.errors import NonFiniteError
from geartrain.instruments import dead_units
from geartrain.records import State


class Functional(nn.Module):
    """Three of four units dead, the rectifier written as a function."""

    def __init__(self, rectify) -> None:
        super().__init__()
        self.layer = linear([1.0], [1.0], [1.0], [1.0], bias=[0.0, -9.0, -9.0, -9.0])
        self.rectify = rectify

    def forward(self, x: Tensor) -> Tensor:
        return self.rectify(self.layer(x)).sum(1, keepdim=True)


FORMS = {
    "F.relu": functional.relu,
    "F.relu inplace": lambda h: functional.relu(h, inplace=True),
    "torch.relu": torch.relu,
    "method": lambda h: h.relu(),
    "method inplace": lambda h: h.relu_(),
    "clamp": lambda h: h.clamp(min=0),
    "clamp_min": lambda h: torch.clamp_min(h, 0.0),
    "relu6": functional.relu6,
    "module": nn.ReLU(),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_way_of_writing_it(form):
    x = normal(20, 1).abs().clamp(max=5)
    result = dead_units(objective_of(x, x, Functional(FORMS[form])))
    assert result.value == 0.75
    assert result.details["worst_layer"] == 0.75
    assert result.details["num_units"] == 4
    assert not result.details["all_dead_layer"]
    assert result.status.state is State.EXACT


@pytest.mark.parametrize("form", [functional.leaky_relu, nn.PReLU().double()])
def test_leaky_units_never_die(form):
    x = normal(20, 1).abs()
    assert dead_units(objective_of(x, x, Functional(form))).value == 0


@pytest.mark.parametrize(
    "form", [torch.tanh, functional.gelu, lambda h: h.clamp(0, 1), lambda h: h.clamp(min=1e-6)]
)
def test_other_functions_are_no_rectifiers(form):
    x = normal(20, 1)
    result = dead_units(objective_of(x, x, Functional(form)))
    assert result.status.state is State.NOT_APPLICABLE
    assert math.isnan(result.value)


def test_the_loss_is_not_the_model():
    x = normal(20, 1)
    hinge = lambda f, y: torch.relu(1 - f * y).mean()  # noqa: E731
    assert not dead_units(objective_of(x, x, linear([1.0]), hinge)).status.usable


def test_channels_are_the_units_of_a_convolution():
    conv = nn.Conv2d(1, 3, 3)
    conv.weight.data[:] = 0
    conv.bias.data = torch.tensor([1.0, -1.0, 1.0])
    model = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(3 * 36, 2), nn.ReLU())
    model[3].weight.data[:], model[3].bias.data[:] = 0, -1
    result = dead_units(
        objective_of(normal(4, 1, 8, 8, dtype=torch.float32), normal(4, 2, dtype=torch.float32), model)
    )
    assert result.details["layers"] == pytest.approx({"1": 1 / 3, "4": 1.0}, rel=1e-6)
    assert result.value == pytest.approx(3 / 5)
    assert result.details["all_dead_layer"]
    assert result.details["worst_layer_name"] == "4"


def test_units_of_a_sequence_are_its_features():
    x = normal(4, 6, 1).abs()
    model = nn.Sequential(linear([1.0], [-1.0]), nn.ReLU(), linear([1.0, 1.0]))
    assert dead_units(objective_of(x, x, model)).value == 0.5


def test_one_waking_example_is_enough_in_any_batch():
    x = torch.full((10, 1), -1.0).double()
    x[9] = 1.0
    model = nn.Sequential(linear([1.0]), nn.ReLU(), linear([1.0]))
    assert dead_units(objective_of(x, x, model, micro_batch=3)).value == 0
    assert dead_units(objective_of(x[:9], x[:9], model, micro_batch=3)).value == 1


def test_positive_scaling_and_order_change_nothing():
    x = normal(30, 3)
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 40), nn.ReLU(), nn.Linear(40, 1)).double()
    model[0].bias.data -= 2
    first = dead_units(objective_of(x, x[:, :1], model))
    model[0].weight.data *= 7
    model[0].bias.data *= 7
    second = dead_units(objective_of(x.flip(0), x[:, :1], model))
    assert 0 < first.value < 1
    assert second.value == first.value
    assert second.details["inactive_share"] == pytest.approx(first.details["inactive_share"])


def test_nan_is_refused():
    model = nn.Sequential(linear([1.0]), nn.ReLU())
    objective = objective_of(torch.ones(3, 1).double(), torch.ones(3, 1).double(), model)
    model[0].weight.data[:] = math.nan
    with pytest.raises(NonFiniteError, match="NaN"):
        dead_units(objective)

"""Saturated units: known slopes, the output left out, relations."""

from __future__ import annotations

import math

import pytest
import torch
from tests.made import linear, normal, objective_of
from torch import nn
from torch.nn import functional

from geartrain.errors import NonFiniteError
from geartrain.instruments import saturated_units
from geartrain.records import State

TANH_EDGE = math.atanh(math.sqrt(0.95))  # 1 - tanh² = 0.05 there
SIGMOID_EDGE = 2 * TANH_EDGE  # sigmoid(x) = (1 + tanh(x/2)) / 2, so its slope has the same relative edge


@pytest.mark.parametrize(("activation", "edge"), [(nn.Tanh(), TANH_EDGE), (nn.Sigmoid(), SIGMOID_EDGE)])
def test_the_edge_is_where_it_should_be(activation, edge):
    x = torch.tensor([[0.0], [0.99 * edge], [1.01 * edge], [-1.01 * edge]]).double()
    model = nn.Sequential(linear([1.0]), activation, linear([1.0]))
    result = saturated_units(objective_of(x, x, model))
    assert result.value == 0.5
    assert result.details["layers"] == {"1": 0.5}


def test_log_slopes_of_sigmoids_at_zero():
    model = nn.Sequential(linear([0.0]), nn.Sigmoid(), linear([0.0]), nn.Sigmoid(), linear([1.0]))
    x = normal(6, 1)
    result = saturated_units(objective_of(x, x, model))
    assert result.value == 0
    assert result.details["log_slope_total"] == pytest.approx(2 * math.log(0.25))
    assert result.details["mean_log_slope"] == pytest.approx({"1": math.log(0.25), "3": math.log(0.25)})


@pytest.mark.parametrize("form", [torch.tanh, functional.tanh, lambda h: h.tanh(), lambda h: h.tanh_()])
def test_functional_code(form):
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = linear([9.0], [0.0])

        def forward(self, x):
            return form(self.layer(x)).sum(1, keepdim=True)

    x = torch.ones(4, 1).double()
    result = saturated_units(objective_of(x, x, Functional()))
    assert result.value == 0.5
    assert list(result.details["layers"]) == ["tanh"]


def test_the_output_is_apart():
    x = torch.full((4, 1), 9.0).double()
    model = nn.Sequential(linear([1.0]), nn.Sigmoid())
    result = saturated_units(
        objective_of(x, torch.ones(4, 1).double(), model, functional.binary_cross_entropy)
    )
    assert result.status.state is State.NOT_APPLICABLE
    assert result.details["output_saturated"] == 1.0
    deeper = nn.Sequential(linear([0.0]), nn.Sigmoid(), *model)
    assert saturated_units(objective_of(x, x, deeper)).details["layers"] == {"1": 0.0}


def test_elman_layers_count():
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.memory, self.out = nn.RNN(1, 2, batch_first=True).double(), linear([1.0, 1.0])
            for p in self.memory.parameters():
                p.data[:] = 20

        def forward(self, x):
            return self.out(self.memory(x)[0][:, -1])

    x = torch.ones(3, 5, 1).double()
    assert saturated_units(objective_of(x, x[:, 0], Last())).value == 1.0


def test_flipping_signs_and_order_changes_nothing():
    x = 3 * normal(50, 4)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 1)).double()
    first = saturated_units(objective_of(x, x[:, :1], model)).value
    model[0].weight.data *= -1
    model[0].bias.data *= -1
    second = saturated_units(objective_of(x.flip(0), x[:, :1], model, micro_batch=7)).value
    assert 0 < first < 1
    assert second == pytest.approx(first)


def test_no_such_units_and_nan():
    x = normal(5, 1)
    assert not saturated_units(objective_of(x, x, nn.Sequential(linear([1.0]), nn.ReLU()))).status.usable
    model = nn.Sequential(linear([1.0]), nn.Tanh(), linear([1.0]))
    objective = objective_of(x, x, model)
    model[0].weight.data[:] = math.nan
    with pytest.raises(NonFiniteError, match="NaN"):
        saturated_units(objective)

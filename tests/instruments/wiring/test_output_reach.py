"""Output reach: shares outside known ranges, every way of writing the head."""

from __future__ import annotations

import math

import pytest
import torch
from tests.made import linear, normal, objective_of
from torch import nn
from torch.nn import functional

from geartrain.instruments import output_reach
from geartrain.objective import Objective
from geartrain.records import State

X = normal(40, 1)
Y = torch.linspace(-2, 2, 40, dtype=torch.float64)[:, None]


class Ends(nn.Module):
    def __init__(self, end) -> None:
        super().__init__()
        self.layer, self.end = linear([1.0]), end

    def forward(self, x):
        return self.end(self.layer(x))


@pytest.mark.parametrize(
    ("end", "name", "share"),
    [
        (nn.Sigmoid(), "sigmoid", 0.75),
        (torch.sigmoid, "sigmoid", 0.75),
        (lambda h: h.sigmoid().squeeze(1)[:, None], "sigmoid", 0.75),
        (nn.Tanh(), "tanh", 0.5),
        (functional.relu, "relu", 0.5),
        (lambda h: h.clamp(min=0), "relu", 0.5),
        (functional.softplus, "softplus", 0.5),
        (nn.Identity(), "none", 0.0),
        (lambda h: 400 * torch.sigmoid(h), "none", 0.0),
    ],
)
def test_share_out_of_reach(end, name, share):
    result = output_reach(objective_of(X, Y, Ends(end)))
    assert result.details["last_activation"] == name
    assert result.value == pytest.approx(share)


def test_hidden_activations_do_not_bound():
    model = nn.Sequential(linear([1.0]), nn.Sigmoid(), linear([1.0]))
    result = output_reach(objective_of(X, Y, model))
    assert result.value == 0
    assert result.details["high"] == math.inf
    assert "unbounded" in result.status.sentence


def test_the_diabetes_of_old():
    y = torch.linspace(25, 346, 40, dtype=torch.float64)[:, None]
    result = output_reach(objective_of(X, y, Ends(torch.sigmoid)))
    assert result.value == 1
    assert (result.details["target_low"], result.details["target_high"]) == (25, 346)


def test_ends_belong_to_the_range():
    y = (torch.arange(40) % 3 / 2).double()[:, None]
    assert output_reach(objective_of(X, y, Ends(torch.sigmoid))).value == 0


def test_weights_and_order_do_not_matter():
    model = Ends(torch.tanh)
    model.layer.weight.data *= 100
    assert output_reach(objective_of(X.flip(0), Y.flip(0), model)).value == pytest.approx(0.5)


def test_not_applicable():
    assert output_reach(objective_of(X, torch.arange(40) % 2)).status.state is State.NOT_APPLICABLE
    hidden = Objective(linear([1.0]), batch_loss=lambda m, b: m(b[0]).mean(), data=(X, Y))
    assert not output_reach(hidden).status.usable

"""Symmetry orbits: counted by formula, explained by name."""

from __future__ import annotations

import pytest
import torch
from tests.made import Next, normal, objective_of, same, seeded, sequence_loss, state_of, words
from torch import nn
from torch.nn import functional

import geartrain as gt
from geartrain.errors import InputError
from geartrain.instruments import symmetry_orbit_dimension
from geartrain.records import State


def made(*layers):
    return nn.Sequential(*layers).double()


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        yield


def regression(model, *shape, outputs=2, n=60):
    return objective_of(normal(n, *shape), normal(n, outputs, seed=1), model)


@pytest.mark.parametrize(("width", "bias"), [(3, False), (5, True)])
def test_one_rescaling_for_each_relu_unit(width, bias):
    model = made(nn.Linear(3, width, bias=bias), nn.ReLU(), nn.Linear(width, 2))
    found = symmetry_orbit_dimension(regression(model, 3))
    assert float(found) == width
    assert found.exact
    assert found.details["by_kind"] == {"rescaling of units": width}
    assert found.details["unexplained"] == 0
    assert not found.details["modulo_softmax"]


def test_a_deep_relu_network_and_a_smooth_one():
    deep = made(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    with torch.no_grad():  # every unit on for some inputs and off for others, so that the formula holds
        deep[0].weight.copy_(normal(4, 3, seed=3))
        hidden = deep[1](deep[0](normal(200, 3)))
        deep[2].weight.copy_(normal(5, 4, seed=4))
        deep[2].bias.copy_(-(hidden @ deep[2].weight.T).mean(0))
    assert float(symmetry_orbit_dimension(regression(deep, 3, n=200))) == 9
    smooth = made(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    assert float(symmetry_orbit_dimension(regression(smooth, 3))) == 0


@pytest.mark.parametrize("width", [2, 3])
def test_linear_units_can_be_mixed(width):
    """GL(h): h² directions where h is the narrowest width; params - r (d_in + d_out - r)."""
    model = made(nn.Linear(4, width, bias=False), nn.Linear(width, 3, bias=False))
    found = symmetry_orbit_dimension(regression(model, 4, outputs=3))
    assert float(found) == found.details["explained"] == width**2
    affine = made(nn.Linear(4, width), nn.Linear(width, 3))
    found = symmetry_orbit_dimension(regression(affine, 4, outputs=3))
    assert float(found) == width**2 + width  # the bias moves on as well
    assert found.details["by_kind"]["bias moved on"] == width


def test_the_softmax_does_not_see_a_shift():
    labels = torch.arange(60) % 3
    model = made(nn.Linear(4, 3))
    found = symmetry_orbit_dimension(objective_of(normal(60, 4), labels, model))
    assert float(found) == 5  # a vector and a number added to all classes
    assert found.details["modulo_softmax"]
    assert float(symmetry_orbit_dimension(objective_of(normal(60, 4), normal(60, 3), model))) == 0


def test_normalisation():
    layer = made(nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 2))
    found = symmetry_orbit_dimension(regression(layer, 4))
    assert float(found) == found.details["explained"] == 5  # the shift; scaling is broken by ε
    assert found.details["near"] == {"scale before a normalisation": 1}
    batch = made(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))
    before = batch[0](normal(60, 4)).detach()
    batch[1].running_mean.copy_(before.mean(0))
    batch[1].running_var.copy_(before.var(0))
    objective = objective_of(normal(60, 4), normal(60, 2), batch, training=False)
    found = symmetry_orbit_dimension(objective)
    assert float(found) == found.details["explained"] == 18  # scale in, bias in, ReLU: one each per unit


class Attention(nn.Module):
    def __init__(self, causal=True):
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(4, 4) for _ in range(4))
        self.causal = causal

    def forward(self, x):
        mixed = functional.scaled_dot_product_attention(
            self.query(x), self.key(x), self.value(x), is_causal=self.causal
        )
        return self.out(mixed).flatten(1)


def test_attention():
    """GL(4) between queries and keys, GL(4) between values and outputs, keys and values with free biases."""
    found = symmetry_orbit_dimension(regression(Attention().double(), 3, 4, outputs=12, n=30))
    kinds = found.details["by_kind"]
    assert kinds["mixing of queries against keys"] == 16
    assert kinds["mixing of values against outputs"] == 16
    assert kinds["shift of the keys (softmax)"] == 4
    assert kinds["bias moved on"] == 4
    assert float(found) == found.details["explained"] == 40


def test_heads_of_pytorchs_own_attention():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x):
            return self.mix(x, x, x)[0].flatten(1)

    model = Own().double()
    with torch.no_grad():
        model.mix.in_proj_bias.normal_()
    kinds = symmetry_orbit_dimension(regression(model, 3, 4, outputs=12, n=30)).details["by_kind"]
    assert kinds["mixing of queries against keys"] == kinds["mixing of values against outputs"] == 2 * 2**2
    assert kinds["shift of the keys (softmax)"] == 4


def test_dead_units_are_told_apart():
    model = made(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    with torch.no_grad():
        model[0].bias[0] = -1e3
    found = symmetry_orbit_dimension(regression(model, 3, outputs=1))
    assert float(found) == 3 + 5  # three rescalings, five parameters of the dead unit
    assert found.details["silent"] == 5


def test_data_alone_may_leave_more_free():
    model = made(nn.Linear(3, 2))
    x = normal(20, 3)
    x[:, 2] = 0
    found = symmetry_orbit_dimension(objective_of(x, normal(20, 2), model))
    assert (float(found), found.details["on_data"]) == (0, 2)


def test_rescaling_and_single_precision_change_nothing():
    model = made(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    first = float(symmetry_orbit_dimension(regression(model, 3)))
    with torch.no_grad():
        model[0].weight *= 3
        model[0].bias *= 3
        model[2].weight /= 3
    assert float(symmetry_orbit_dimension(regression(model, 3), generator=seeded(4))) == first
    narrow = objective_of(normal(60, 3).float(), normal(60, 2).float(), model.float())
    assert float(symmetry_orbit_dimension(narrow)) == first


def test_large_networks_get_a_lower_bound():
    model = made(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 3))
    objective = objective_of(normal(80, 6), torch.arange(80) % 3, model)
    whole, bound = symmetry_orbit_dimension(objective), symmetry_orbit_dimension(objective, max_params=100)
    assert float(whole) == float(bound) == 20 + 21
    assert bound.status.state is State.ESTIMATE
    assert "At least 41" in bound.status.sentence


def test_language_models_and_where_there_is_none():
    found = symmetry_orbit_dimension(gt.Objective(Next(), sequence_loss, words()))
    assert float(found) >= found.details["explained"] > 0
    hidden = gt.Objective(nn.Linear(3, 1), batch_loss=lambda m, b: m(b).mean(), data=[torch.ones(4, 3)])
    assert "hidden in batch_loss" in symmetry_orbit_dimension(hidden).status.sentence


def test_price_budget_traces_and_refusal():
    objective = objective_of(normal(60, 4, dtype=torch.float32), torch.arange(60) % 3, nn.Linear(4, 3))
    before = state_of(objective.model)
    price, cost = symmetry_orbit_dimension.spec.price(objective), symmetry_orbit_dimension(objective).cost
    assert price.gradients == pytest.approx(cost.gradients)
    assert same(before, state_of(objective.model))
    assert symmetry_orbit_dimension(objective, budget=0).status.state is State.OUT_OF_BUDGET
    with pytest.raises(InputError, match="tol is 0; it must lie between 0 and 1"):
        symmetry_orbit_dimension(objective, tol=0)
    with torch.no_grad():
        objective.model.weight[0, 0] = float("nan")
    assert symmetry_orbit_dimension(objective).status.state is State.NON_FINITE

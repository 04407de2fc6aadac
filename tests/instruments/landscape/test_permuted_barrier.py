"""Barrier after matching: planted twins, scales and signs, trained networks, and models that are not understood."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.instruments.landscape.systems import fitted, network, planted, potential, ring
from tests.made import Next, normal, objective_of, same, seeded, sequence_loss, state_of, words
from torch import nn
from torch.nn import functional

import geartrain as gt
from geartrain.errors import InputError
from geartrain.instruments import linear_connectivity, permuted_barrier
from geartrain.records import State

KINDS = ["mlp", "cnn", "residual", "dense", "attention"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["weights", "activations"])
def test_permuted_twins_have_no_barrier_left(kind, method):
    model, inputs = network(kind)
    twin, _ = planted(model, inputs)
    objective = fitted(model, inputs)
    before = [state_of(m) for m in (model, twin)]
    result = permuted_barrier(objective, twin, method=method, points=5, batch_norm="interpolate")
    assert same(before, [state_of(m) for m in (model, twin)])
    assert result.details["distance"] < 1e-10
    assert float(result) < 1e-20
    assert result.details["before"] > 1e-4
    assert result.details["distance_before"] > 1
    assert result.details["function_error"] < 1e-12
    assert result.details["moved"] > 0.5


@pytest.mark.parametrize("kind", ["mlp", "cnn", "dense"])
@pytest.mark.parametrize("method", ["weights", "activations"])
def test_scaled_and_flipped_twins_need_all_symmetries(kind, method):
    model, inputs = network(kind)
    twin, _ = planted(model, inputs, scales=True)
    objective = fitted(model, inputs)
    every = permuted_barrier(objective, twin, symmetries="all", method=method, points=5)
    assert every.details["distance"] < 1e-9
    assert float(every) < 1e-18
    only = permuted_barrier(objective, twin, method=method, points=5)
    assert only.details["distance"] > 0.5


def test_orders_say_which_unit_takes_each_place():
    model, inputs = network("mlp")
    twin, planted_exchanges = planted(model, inputs, seed=4)
    orders = permuted_barrier(fitted(model, inputs), twin, points=3).details["orders"]
    for order, exchange in zip(orders.values(), planted_exchanges.values(), strict=True):
        np.testing.assert_array_equal(exchange.order[order], np.arange(16))
    assert list(orders) == ["0.weight", "2.weight"]


def test_before_is_the_linear_barrier_and_the_same_network_is_matched_to_itself():
    model, inputs = network("mlp")
    objective = fitted(model, inputs)
    other, _ = network("mlp", seed=1)
    result = permuted_barrier(objective, other)
    line = linear_connectivity(objective, other)
    assert result.details["before"] == pytest.approx(float(line))
    assert result.details["before_error"] == pytest.approx(line.standard_error)
    assert result.details["distance"] < result.details["distance_before"]
    itself = permuted_barrier(objective, objective)
    assert itself.details["moved"] == 0
    assert itself.details["distance"] == 0


def trained(seed):
    from sklearn.datasets import load_digits

    raw = load_digits()
    inputs, targets = torch.tensor(raw.data[:512] / 16).float(), torch.tensor(raw.target[:512])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(40):
            optimizer.zero_grad()
            functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
    return gt.Objective(model, functional.cross_entropy, (inputs, targets))


@pytest.mark.parametrize("method", ["weights", "activations"])
def test_two_seeds_on_digits_lose_most_of_their_barrier(method):
    first, second = trained(0), trained(1)
    result = permuted_barrier(first, second, method=method)
    assert float(result) < 0.25 * result.details["before"]
    assert float(result) + 4 * result.standard_error < result.details["before"]
    assert result.details["function_error"] < 1e-5


def test_attention_keeps_its_heads_and_says_so():
    model, inputs = network("attention")
    twin, _ = planted(model, inputs)
    result = permuted_barrier(fitted(model, inputs), twin, points=3, method="activations")
    assert result.details["not_understood"] == ("chunk",)
    assert "kept their places" in result.status.sentence


def test_a_loss_that_hides_the_outputs():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)).double()

    def physics(m, places):
        places = places.clone().requires_grad_()
        values = m(places)
        (slope,) = torch.autograd.grad(values.sum(), places, create_graph=True)
        return ((slope + values) ** 2).mean()

    objective = gt.Objective(model, batch_loss=physics, data=[torch.linspace(0, 1, 16).double()[:, None]])
    twin, _ = planted(model, torch.ones(4, 1).double())
    assert permuted_barrier(objective, twin, points=3).details["distance"] < 1e-12


def test_a_loss_that_counts_units_is_found_out():
    model, inputs = network("mlp")
    twin, _ = planted(model, inputs)
    numbered = torch.arange(16.0).double()

    def loss(m, batch):
        return m(batch).square().mean() + numbered @ m[0].bias.square()

    result = permuted_barrier(gt.Objective(model, batch_loss=loss, data=[inputs]), twin)
    assert result.status.state is State.NOT_APPLICABLE
    assert "changed the outputs" in result.status.sentence


def test_where_nothing_can_be_exchanged():
    linear = objective_of(normal(20, 3), normal(20, 2))
    none = permuted_barrier(linear, 2 * linear.parameters())
    assert none.status.state is State.NOT_APPLICABLE
    assert "no hidden units" in none.status.sentence
    recurrent = gt.Objective(Next(recurrent=True), sequence_loss, words())
    held = permuted_barrier(recurrent, Next(recurrent=True))
    assert held.status.state is State.NOT_APPLICABLE
    assert "GRU" in held.status.sentence
    bare = permuted_barrier(potential(ring, [1.0, 0.0]), torch.zeros(2).double())
    assert bare.status.state is State.NOT_APPLICABLE
    assert "never calls the model" in bare.status.sentence
    other = permuted_barrier(linear, nn.Linear(3, 2).double())
    assert other.status.state is State.NOT_APPLICABLE
    assert "different names or shapes" in other.status.sentence


def test_batch_norm_is_permuted_and_taken_anew():
    model, inputs = network("residual")
    twin, _ = planted(model, inputs)
    result = permuted_barrier(fitted(model, inputs), twin, points=3)
    assert result.details["distance"] < 1e-12
    losses = result.details["losses"]
    np.testing.assert_allclose(losses, losses[0], rtol=1e-9)


def test_cost_budget_and_repetition():
    model, inputs = network("mlp")
    objective = fitted(model, inputs)
    other, _ = network("mlp", seed=1)
    first, second = (permuted_barrier(objective, other, generator=seeded(2)) for _ in range(2))
    assert same(first.details["losses"], second.details["losses"])
    price = permuted_barrier.spec.price(objective).forwards
    assert price / 1.3 < first.cost.forwards < 1.3 * price
    cut = permuted_barrier(objective, other, points=33, budget=3)
    assert cut.status.state is State.OUT_OF_BUDGET
    assert "of 33 points" in cut.status.sentence
    assert permuted_barrier(objective, other, budget=0).status.state is State.OUT_OF_BUDGET
    with torch.no_grad():
        other[0].weight.fill_(float("nan"))
    assert permuted_barrier(objective, other).status.state is State.NON_FINITE


def test_refusals():
    model, inputs = network("mlp")
    objective = fitted(model, inputs)
    with pytest.raises(InputError, match="method is 'luck'; allowed: 'weights' or 'activations'"):
        permuted_barrier(objective, model, method="luck")
    with pytest.raises(InputError, match="symmetries is 'some'; allowed: 'permutations' or 'all'"):
        permuted_barrier(objective, model, symmetries="some")
    with pytest.raises(InputError, match="points is 1; allowed: 3 or more"):
        permuted_barrier(objective, model, points=1)

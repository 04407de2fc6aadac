"""Barrier on a straight line: known wells, convexity, statistics of batch norm, errors, budget and sentences."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from tests.bowls import bowl
from tests.instruments.landscape.systems import network, planted, potential, ring, wells
from tests.made import normal, objective_of, same, state_of
from torch import nn

import geartrain as gt
from geartrain.errors import InputError
from geartrain.instruments import linear_connectivity, loss_slice
from geartrain.instruments.landscape._path import coarse_to_fine
from geartrain.records import State


def at(*x: float) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float64)


def test_the_hill_between_two_wells():
    result = linear_connectivity(potential(wells, [-1.0, 0.0]), at(1.0, 0.0))
    assert float(result) == pytest.approx(1.0)
    assert result.details["at"] == pytest.approx(0.5)
    t = result.details["points"]
    np.testing.assert_allclose(result.details["losses"], ((2 * t - 1) ** 2 - 1) ** 2, atol=1e-14)
    assert result.details["distance"] == pytest.approx(2.0)
    assert not result.details["monotone"]


def test_the_barrier_is_above_the_chord_not_above_the_higher_end():
    # L = x⁴ from 0 to 1 is convex and climbs: no barrier. L = -x² from 0 to 1 bulges by t - t² above its chord.
    up = linear_connectivity(potential(lambda x: (x**4).sum(), [0.0]), at(1.0))
    assert float(up) == 0.0
    assert up.details["monotone"]
    assert "nowhere above its chord" in up.status.sentence
    arch = linear_connectivity(potential(lambda x: -(x**2).sum(), [0.0]), at(1.0))
    assert float(arch) == pytest.approx(0.25)
    assert arch.details["relative"] == pytest.approx(0.5)


def test_convex_losses_have_no_barrier():
    assert float(linear_connectivity(bowl([4.0, 1.0, 0.1], [1.0, 2.0, 3.0]), at(-3.0, 0.0, 5.0))) == 0.0
    data = normal(30, 4), torch.randint(3, (30,), generator=torch.Generator().manual_seed(0))
    objective = objective_of(*data)
    result = linear_connectivity(objective, normal(objective.num_params, seed=9))
    assert float(result) == 0.0
    assert (result.details["excess"] <= 1e-12).all()


def test_across_the_ring():
    assert float(linear_connectivity(potential(ring, [-1.0, 0.0]), at(1.0, 0.0))) == pytest.approx(1.0)
    # A quarter of the way round the chord comes within 1/√2 of the centre: (1/2 - 1)².
    assert float(linear_connectivity(potential(ring, [1.0, 0.0]), at(0.0, 1.0))) == pytest.approx(0.25)


def test_relations():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    inputs, targets = normal(30, 3, seed=1), normal(30, 2, seed=2)
    first, second = objective_of(inputs, targets, model), copy.deepcopy(model)
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.add_(normal(*parameter.shape, seed=parameter.numel()))
    there = linear_connectivity(first, second)
    back = linear_connectivity(first.of(second), model)
    np.testing.assert_allclose(there.details["excess"], back.details["excess"][::-1], atol=1e-12)
    seven = linear_connectivity(
        gt.Objective(model, lambda o, y: 7 * ((o - y) ** 2).mean(), (inputs, targets)), second
    )
    np.testing.assert_allclose(seven.details["excess"], 7 * there.details["excess"], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(seven.details["excess_errors"], 7 * there.details["excess_errors"], rtol=1e-9)
    direction = first.of(second).parameters() - first.parameters()
    along = loss_slice(first, direction, points=21)
    np.testing.assert_allclose(along.value[10::1], there.details["losses"], rtol=1e-12)
    as_vector = linear_connectivity(first, first.of(second).parameters())
    as_objective = linear_connectivity(first, first.of(second))
    assert same(as_vector.details["losses"], there.details["losses"])
    assert same(as_objective.details["losses"], there.details["losses"])


def test_the_error_is_paired_over_the_examples():
    objective = objective_of(
        normal(40, 3), normal(40, 1), nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    )
    other = normal(objective.num_params, seed=5)
    result = linear_connectivity(objective, other, points=3)
    rows = [objective.per_example_losses(p).numpy() for p in (objective.parameters(), other)]
    middle = objective.per_example_losses(0.5 * (objective.parameters() + other)).numpy()
    excess = middle - 0.5 * (rows[0] + rows[1])
    assert result.details["excess"][1] == pytest.approx(excess.mean())
    assert result.standard_error == pytest.approx(excess.std(ddof=1) / math.sqrt(40))


def scaled_before_norm(factor: float):
    """A network, and one whose weights before batch norm are ``factor`` as large: the same function."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(3, 5, bias=False), nn.BatchNorm1d(5, eps=1e-12), nn.Tanh(), nn.Linear(5, 1)
    ).double()
    inputs = normal(50, 3)
    model(inputs)
    model[1].momentum = 1.0
    model(inputs)
    model.eval()
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[0].weight.mul_(factor)
        other[1].running_mean.mul_(factor)
        other[1].running_var.mul_(factor**2)
    return objective_of(inputs, normal(50, 1, seed=3), model), other


def test_statistics_taken_anew_remove_a_barrier_of_scale():
    objective, other = scaled_before_norm(10.0)
    before = [state_of(m) for m in (objective.model, other)]
    anew = linear_connectivity(objective, other)
    assert same(before, [state_of(m) for m in (objective.model, other)])
    # One function all along the line: batch norm divides the scale out.
    np.testing.assert_allclose(anew.details["losses"], anew.details["losses"][0], rtol=1e-9)
    assert anew.details["recomputed"]
    stale = linear_connectivity(objective, other, batch_norm="interpolate")
    assert not stale.details["recomputed"]
    assert np.ptp(stale.details["losses"]) > 1e-3
    assert anew.cost.forwards == pytest.approx(2 * 11 + 3)
    assert linear_connectivity.spec.price(objective).forwards == 24


def test_statistics_of_the_batches_need_nothing_anew():
    objective, other = scaled_before_norm(10.0)
    training = gt.Objective(objective.model, nn.functional.mse_loss, objective.batches[0], training=True)
    result = linear_connectivity(training, other)
    assert not result.details["recomputed"]
    np.testing.assert_allclose(result.details["losses"], result.details["losses"][0], rtol=1e-9)
    assert math.isnan(result.standard_error)


def test_twins_by_permutation_have_a_barrier_all_the_same():
    model, inputs = network("mlp")
    objective = objective_of(inputs, model(inputs).detach(), model)
    twin, _ = planted(model, inputs)
    result = linear_connectivity(objective, twin)
    assert (result.details["losses"][[0, -1]] < 1e-25).all()
    assert float(result) > 0.01


def test_parts_of_the_parameters_make_a_path_of_their_own():
    objective = potential(lambda x: ((x**2 - 1) ** 2).sum(), [-1.0])
    two = nn.ModuleDict({"a": copy.deepcopy(objective.model), "b": copy.deepcopy(objective.model)})
    both = gt.Objective(
        two, batch_loss=lambda m, b: wells(torch.cat([m["a"].x, m["b"].x])), data=[torch.ones(1)]
    )
    other = copy.deepcopy(two)
    with torch.no_grad():
        other["a"].x.fill_(1.0)
        other["b"].x.fill_(50.0)
    result = linear_connectivity(both.restrict("a.*"), other)
    np.testing.assert_allclose(result.details["losses"][[0, -1]], [1.0, 1.0])
    assert float(result) == pytest.approx(1.0)


def test_the_grid_is_walked_coarse_to_fine():
    order = coarse_to_fine(9)
    assert order[:3] == [0.0, 1.0, 0.5]
    assert set(order[3:5]) == {0.25, 0.75}
    assert sorted(order) == [i / 8 for i in range(9)]


def test_cost_and_budget():
    objective = potential(wells, [-1.0, 0.0])
    result = linear_connectivity(objective, at(1.0, 0.0), points=9)
    assert result.cost.forwards == 9
    assert result.cost.gradients == result.cost.products == 0
    cut = linear_connectivity(objective, at(1.0, 0.0), points=33, budget=1)
    assert cut.status.state is State.OUT_OF_BUDGET
    assert float(cut) == pytest.approx(1.0)
    assert "The budget allowed 6 of 33 points" in cut.status.sentence
    assert linear_connectivity(objective, at(1.0, 0.0), budget=0).status.state is State.OUT_OF_BUDGET


def test_where_there_is_no_path():
    first = objective_of(normal(10, 3), normal(10, 1), nn.Linear(3, 1).double())
    result = linear_connectivity(first, nn.Sequential(nn.Linear(3, 1)).double())
    assert result.status.state is State.NOT_APPLICABLE
    assert "different names or shapes" in result.status.sentence
    broken = linear_connectivity(first, torch.full((4,), float("nan")).double())
    assert broken.status.state is State.NON_FINITE
    assert "second network" in broken.status.sentence
    edge = linear_connectivity(potential(lambda x: x.log().sum(), [1.0]), at(-1.0))
    assert edge.status.state is State.NON_FINITE


def test_a_wall_on_the_way_is_an_infinite_barrier():
    result = linear_connectivity(potential(lambda x: (x**2 - 0.3).log().sum() ** 2, [1.0]), at(-1.0))
    assert math.isinf(float(result))
    assert math.isnan(result.standard_error)


def test_refusals():
    objective = potential(wells, [-1.0, 0.0])
    with pytest.raises(InputError, match="points is 2; allowed: 3 or more"):
        linear_connectivity(objective, at(1.0, 0.0), points=2)
    with pytest.raises(InputError, match="batch_norm is 'stale'; allowed: 'recompute'"):
        linear_connectivity(objective, at(1.0, 0.0), batch_norm="stale")
    with pytest.raises(InputError, match="other is a str; pass an Objective"):
        linear_connectivity(objective, "twin")
    with pytest.raises(InputError, match=r"other has shape \(3,\)"):
        linear_connectivity(objective, at(1.0, 0.0, 0.0))

"""Loss on a plane: closed forms, agreement with slices, convexity, budget and sentences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.bowls import bowl
from tests.instruments.landscape.systems import potential, ring, wells
from tests.made import normal, objective_of, same, seeded, state_of
from torch import nn

from geartrain.errors import InputError
from geartrain.instruments import loss_plane, loss_slice
from geartrain.records import State


def network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    return objective_of(normal(30, 3, seed=1), normal(30, 2, seed=2), model)


def test_a_quadratic_is_cut_exactly():
    first, second = torch.tensor([1.0, 0.0, 1.0]).double(), torch.tensor([0.0, 2.0, 1.0]).double()
    result = loss_plane(bowl([4.0, 1.0, 2.0]), (first, second), points=5)
    grid = np.linspace(-1, 1, 5)
    s, t = np.meshgrid(grid, grid, indexing="ij")
    truth = 0.5 * (4 * (1 + s) ** 2 + (1 + 2 * t) ** 2 + 2 * (1 + s + t) ** 2)
    np.testing.assert_allclose(result.value, truth, rtol=1e-14)
    assert result.dims == ("point", "point_2")
    assert result.details["lengths"] == pytest.approx((2**0.5, 5**0.5))
    assert result.details["cosine"] == pytest.approx(1 / 10**0.5)
    np.testing.assert_allclose(result.details["rise"], truth - truth[2, 2], rtol=1e-12, atol=1e-14)


def test_the_ring_is_cut_exactly():
    axes = tuple(torch.eye(2).double())
    result = loss_plane(potential(ring, [0.0, 0.0]), axes, points=9, span=1.5)
    s, t = np.meshgrid(*[np.linspace(-1.5, 1.5, 9)] * 2, indexing="ij")
    np.testing.assert_allclose(result.value, (s**2 + t**2 - 1) ** 2, atol=1e-13)


def test_rows_and_columns_through_the_middle_are_slices():
    objective = network()
    first, second = normal(objective.num_params, seed=7), normal(objective.num_params, seed=8)
    plane = loss_plane(objective, (first, second), points=5)
    for axis, direction in ((0, first), (1, second)):
        line = loss_slice(objective, direction, points=5)
        np.testing.assert_allclose(plane.value.take(2, axis=1 - axis), line.value, rtol=1e-12)
        error = plane.details["rise_error"].take(2, axis=1 - axis)
        np.testing.assert_allclose(error, line.details["rise_error"], rtol=1e-9, atol=1e-15)


def test_the_hessian_plane_holds_the_two_sharpest_directions():
    result = loss_plane(bowl([1.0, 9.0, 0.1, 4.0], [1.0, 0.0, 0.0, 0.0]), "hessian", points=3)
    # The parabola doubles the loss of 1/2 at the end of either axis, and triples it at the corners.
    expected = [[1.5, 1.0, 1.5], [1.0, 0.5, 1.0], [1.5, 1.0, 1.5]]
    np.testing.assert_allclose(result.value, expected, rtol=1e-9)
    assert result.details["lengths"] == pytest.approx((1 / 3, 1 / 2))


def test_convex_losses_bulge_nowhere_and_wells_do():
    assert loss_plane(bowl([4.0, 1.0, 2.0])).details["nonconvex_share"] == 0
    axes = tuple(torch.eye(2).double())
    between = loss_plane(potential(wells, [0.0, 0.0]), axes, points=5)
    # Along x₁ at -1, -1/2, 0, 1/2, 1 the losses are 0, 9/16, 1, 9/16, 0: all three triples bulge; along x₂ none does.
    assert between.details["nonconvex_share"] == pytest.approx(0.5)


def test_cost_budget_and_no_traces():
    objective = network()
    before = state_of(objective.model)
    result = loss_plane(objective, points=5, generator=seeded(1))
    assert same(before, state_of(objective.model))
    assert same(result.value, loss_plane(objective, points=5, generator=seeded(1)).value)
    assert result.cost.forwards == 25 + 3
    assert loss_plane.spec.price(objective, points=5).forwards == 27
    cut = loss_plane(objective, points=5, budget=2)
    assert cut.status.state is State.OUT_OF_BUDGET
    assert np.isfinite(cut.value[2, 2])
    assert np.isnan(cut.value[0, 0])
    assert "points" in cut.status.sentence
    assert loss_plane(objective, budget=0).status.state is State.OUT_OF_BUDGET
    assert loss_plane(objective, "hessian", budget=1).status.state is State.OUT_OF_BUDGET


def test_not_finite():
    axes = tuple(torch.eye(2).double())
    edge = loss_plane(potential(lambda x: -(1 - (x**2).sum()).log(), [0.0, 0.0]), axes, points=3)
    assert np.isposinf(edge.value[0, 0])
    assert "not finite at 8 of 9 points" in edge.status.sentence
    objective = network()
    with torch.no_grad():
        objective.model[0].weight.fill_(float("nan"))
    assert loss_plane(objective).status.state is State.NON_FINITE


def test_refusals():
    objective = potential(ring, [1.0, 0.0])
    with pytest.raises(InputError, match="points is 2; allowed: odd numbers from 3"):
        loss_plane(objective, points=2)
    with pytest.raises(InputError, match="span is -1; allowed: positive"):
        loss_plane(objective, span=-1)
    with pytest.raises(InputError, match="plane is 'up'; allowed: 'random', 'hessian'"):
        loss_plane(objective, "up")
    with pytest.raises(InputError, match="plane holds 1 vectors; allowed: two"):
        loss_plane(objective, (torch.ones(2),))

"""Barrier on a trained curve: a way round a hill, convexity, the line as a bound, determinism, budget, sentences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.bowls import bowl
from tests.instruments.landscape.systems import network, planted, potential, ring
from tests.instruments.landscape.test_linear_connectivity import at, scaled_before_norm
from tests.made import objective_of, same, seeded, state_of

from geartrain.errors import InputError
from geartrain.instruments import curved_connectivity, linear_connectivity
from geartrain.records import State


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_bezier_goes_round_the_hill(seed):
    """With the bend at (0, 2√k) the curve has r² = u + k(1-u)², u = (2t-1)², so r² - 1 = (1-u)(k(1-u) - 1).

    The mean of its square is least at k = E[(1-u)³]/E[(1-u)⁴] = (16/35)/(128/315) = 9/8; the highest point then lies
    where r² is least, at 1 - 1/(4k), with loss 1/(16k²) = 0.0494. The bend may be off by some per cent.
    """
    result = curved_connectivity(
        potential(ring, [-1.0, 0.0]), at(1.0, 0.0), steps=300, points=21, generator=seeded(seed)
    )
    assert result.details["linear"] == pytest.approx(1.0)
    assert float(result) == pytest.approx(0.0494, abs=0.01)
    assert result.details["length_ratio"] > 1.3


def test_a_polygon_goes_round_too():
    result = curved_connectivity(
        potential(ring, [-1.0, 0.0]), at(1.0, 0.0), curve="polygon", steps=300, points=21
    )
    # Two chords through (0, c): at their feet r² = c²/(1+c²), at the bend c². The best worst case is c² = 1.28, 0.19.
    assert 0.05 < float(result) < 0.4
    assert result.details["linear"] == pytest.approx(1.0)


def test_convex_losses_need_no_curve():
    result = curved_connectivity(bowl([4.0, 1.0], [1.0, 2.0]), at(-3.0, 0.0), steps=30)
    assert float(result) == 0.0


def test_never_above_the_line_and_the_line_is_the_line():
    objective = potential(ring, [-1.0, 0.0])
    result = curved_connectivity(objective, at(1.0, 0.0), steps=1)
    line = linear_connectivity(objective, at(1.0, 0.0))
    assert result.details["linear"] == pytest.approx(float(line))
    assert float(result) <= float(line)
    assert float(result) == min(result.details["linear"], result.details["curve_barrier"])


def test_turning_the_plane_changes_nothing_that_counts():
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]]).double()
    start, end = turn @ at(-1.0, 0.0), turn @ at(1.0, 0.0)
    result = curved_connectivity(potential(ring, start.tolist()), end, steps=300, points=21)
    assert float(result) == pytest.approx(0.0494, abs=0.02)


def test_permuted_twins_are_joined_by_a_valley():
    model, inputs = network("mlp")
    objective = objective_of(inputs, model(inputs).detach(), model)
    twin, _ = planted(model, inputs)
    result = curved_connectivity(objective, twin, steps=200)
    assert result.details["linear"] > 0.01
    assert float(result) < 0.3 * result.details["linear"]


def test_one_point_twice_is_no_path_at_all():
    result = curved_connectivity(potential(ring, [1.0, 0.0]), at(1.0, 0.0))
    assert float(result) == 0.0
    assert result.status.state is State.ESTIMATE
    assert result.details["length_ratio"] == 1.0


def test_batch_norm_is_trained_through_and_taken_anew():
    objective, other = scaled_before_norm(10.0)
    before = [state_of(m) for m in (objective.model, other)]
    result = curved_connectivity(objective, other, steps=10, points=5)
    assert same(before, [state_of(m) for m in (objective.model, other)])
    assert result.details["recomputed"]
    assert result.details["linear"] < 1e-8
    assert result.cost.gradients == 10
    assert result.cost.forwards == pytest.approx(2 * 2 * 5 + 3)


def test_determinism_cost_and_budget():
    objective = potential(ring, [-1.0, 0.0])
    first, second = (
        curved_connectivity(objective, at(1.0, 0.0), steps=20, generator=seeded(5)) for _ in range(2)
    )
    assert same(first.details["losses"], second.details["losses"])
    assert first.cost.gradients == 20
    assert first.cost.forwards == 22
    price = curved_connectivity.spec.price(objective, steps=20)
    assert (price.gradients, price.forwards) == (20, 24)
    cut = curved_connectivity(objective, at(1.0, 0.0), budget=10)
    assert cut.status.state is State.OUT_OF_BUDGET
    assert 0 < cut.details["steps"] < 100
    assert f"allowed {cut.details['steps']} of 100 steps" in cut.status.sentence
    assert curved_connectivity(objective, at(1.0, 0.0), budget=0).status.state is State.OUT_OF_BUDGET


def test_where_there_is_no_curve():
    objective = potential(ring, [-1.0, 0.0])
    three = potential(ring, [0.0, 0.0, 1.0])
    assert curved_connectivity(objective, three).status.state is State.NOT_APPLICABLE
    assert curved_connectivity(objective, at(1.0, math.nan)).status.state is State.NON_FINITE
    edge = curved_connectivity(potential(lambda x: x.log().sum(), [1.0]), at(-1.0))
    assert edge.status.state is State.NON_FINITE


def test_points_without_a_loss_teach_nothing():
    result = curved_connectivity(
        potential(lambda x: -(2 - (x**2).sum()).log(), [1.0, 0.0]), at(0.0, 1.0), steps=50
    )
    assert np.isfinite(float(result))


def test_refusals():
    objective = potential(ring, [-1.0, 0.0])
    with pytest.raises(InputError, match="points is 1; allowed: 3 or more"):
        curved_connectivity(objective, at(1.0, 0.0), points=1)
    with pytest.raises(InputError, match="curve is 'spline'; allowed: 'bezier' or 'polygon'"):
        curved_connectivity(objective, at(1.0, 0.0), curve="spline")
    with pytest.raises(InputError, match=r"steps is 0 and rate 0\.1; allowed"):
        curved_connectivity(objective, at(1.0, 0.0), steps=0)

"""Leap: the functions of the literature, all functions of few bits, sampling in thirty dimensions, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.cubes import points, polynomial, random_points
from tests.made import normal, objective_of
from torch import nn

from geartrain.errors import InputError
from geartrain.instruments import leap
from geartrain.linalg import walsh
from geartrain.objective import Objective
from geartrain.records import State

KNOWN = {
    1: {(0,): 1.0, (0, 1): 1.0, (0, 1, 2): 1.0},
    2: {(0,): 1.0, (0, 1, 2): 1.0},
    3: {(0, 1, 2): 1.0},
}
A, B, C = (0, 1), (2, 3), (4, 5)


def on_targets(x: torch.Tensor, y: torch.Tensor) -> Objective:
    return Objective(nn.Linear(x.shape[1], 1).double(), nn.functional.mse_loss, (x, y))


@pytest.mark.parametrize("truth", KNOWN)
def test_functions_of_the_literature(truth):
    objective = polynomial(KNOWN[truth], points(4))
    result = leap(objective)
    assert float(result) == truth
    assert result.status.state is State.EXACT
    assert result.details["unexplained"] == pytest.approx(0, abs=1e-12)
    assert max(result.details["new"]) == truth
    assert float(leap(objective, of="model")) == truth


@pytest.mark.parametrize(
    ("sets", "truth"), [([A, B, A + B], 2), ([A, A + B], 2), ([C, A + B], 4), ([A + B], 4)], ids=str
)
def test_parity_composition_in_thirty_dimensions(sets, truth):
    x = random_points(6000, 30)
    result = leap(polynomial(dict.fromkeys(sets, 1.0), x))
    assert float(result) == truth
    assert set(result.details["terms"]) == set(sets)
    assert result.details["unexplained"] < 0.05
    assert np.isnan(result.standard_error)
    assert result.status.state is State.ESTIMATE


def test_all_functions_of_three_bits():
    signs = walsh.cube(3)
    for number in range(1, 255):
        f = np.array([1.0 if number >> i & 1 else -1.0 for i in range(8)])
        coefficients = walsh.walsh_hadamard(f) / 8
        truth = walsh.leap_order(walsh.members(s) for s in np.flatnonzero(np.abs(coefficients) > 1e-9))[0]
        if number % 5 == 0:  # the instrument on a fifth of them; the combinatorics on all in test_walsh
            x, y = torch.tensor(signs).double(), torch.tensor(f)[:, None]
            assert float(leap(on_targets(x, y))) == truth


def test_renaming_scaling_and_duplicating_change_nothing():
    x = points(5)
    y = x[:, :1] + (x[:, 1] * x[:, 2] * x[:, 0])[:, None]
    order = torch.tensor([3, 0, 4, 1, 2])
    for a, b in ((x, y), (x[:, order], y), (-x, 9 * y), (x.repeat(3, 1), y.repeat(3, 1)), ((x + 1) / 2, y)):
        assert float(leap(on_targets(a, b))) == 2


def test_class_targets():
    x = points(4).float()
    y = (x[:, 0] * x[:, 1] > 0).long()
    assert float(leap(Objective(nn.Linear(4, 2), nn.functional.cross_entropy, (x, y)))) == 2


def test_noise_is_no_term():
    x = random_points(2000, 12)
    y = (x[:, 0] * x[:, 1] * x[:, 2])[:, None] + 0.5 * normal(2000, 1, seed=3)
    result = leap(on_targets(x, y))
    assert result.details["terms"] == ((0, 1, 2),)
    assert result.details["unexplained"] == pytest.approx(0.2, abs=0.05)


def test_false_terms_are_as_rare_as_stated():
    """Pure noise: a term (of 256) may appear in one data set of a hundred."""
    x = random_points(300, 8)
    found = sum(leap(on_targets(x, normal(300, 1, seed=s))).status.usable for s in range(60))
    assert found <= 4  # P(more than 4 of 60 at 1 %) = 3e-4


def test_a_threshold_leaves_out_weak_terms():
    objective = polynomial({(0, 1): 1.0, (2,): 0.05}, points(4))
    assert leap(objective).details["num_terms"] == 2
    assert leap(objective, threshold=0.01).details["terms"] == ((0, 1),)
    assert leap(objective, of="model").details["terms"] == ((0, 1),)


def test_constants_and_what_cannot_be_seen():
    assert float(leap(on_targets(points(3), torch.ones(8, 1).double()))) == 0
    deep = polynomial({(0, 1, 2, 3, 4): 1.0}, random_points(500, 20))
    assert "No term of degree up to 4" in leap(deep).status.sentence
    assert "hypercube" in leap(objective_of(normal(9, 2), normal(9, 1))).status.sentence


def test_cost_budget_refusals():
    objective = polynomial(KNOWN[1], points(6))
    assert leap(objective).cost.forwards == 0
    assert leap(objective, of="model").cost.forwards == pytest.approx(
        leap.spec.price(objective, of="model").forwards
    )
    assert leap(objective, of="model", budget=0).status.state is State.OUT_OF_BUDGET
    with pytest.raises(InputError, match="of is 'data'; allowed: 'targets', 'model'"):
        leap(objective, of="data")
    with pytest.raises(InputError, match="max_degree is 0; it must be at least 1"):
        leap(objective, max_degree=0)

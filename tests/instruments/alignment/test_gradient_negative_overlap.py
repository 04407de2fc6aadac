"""Share of the gradient in negative curvature: saddles, brackets that hold, endings."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tests.bowls import bowl, digits, generator

from geartrain.errors import InputError
from geartrain.instruments import gradient_negative_overlap
from geartrain.records import State

INDEFINITE = np.concatenate([np.linspace(-0.3, 0, 100), np.linspace(0.001, 1, 150)])


def test_saddles():
    result = gradient_negative_overlap(bowl([3.0, 1.0, -0.5, -2.0], [1.0, 2.0, 3.0, 0.5]))
    gradient = np.array([3.0, 2.0, -1.5, -1.0])
    assert float(result) == pytest.approx((gradient[2:] ** 2).sum() / (gradient**2).sum())
    assert result.status.state is State.EXACT
    assert result.details["most_negative"] == pytest.approx(-2)
    assert float(gradient_negative_overlap(bowl([3.0, 1.0]))) == 0.0
    assert float(gradient_negative_overlap(bowl([-3.0, -1.0]))) == pytest.approx(1.0)


@pytest.mark.parametrize("products", [5, 15, 40])
@pytest.mark.parametrize("seed", range(5))
def test_the_bracket_holds(products, seed):
    import torch

    point = torch.randn(250, generator=generator(seed)).double().numpy()
    gradient = INDEFINITE * point
    result = gradient_negative_overlap(bowl(INDEFINITE, point), num_products=products)
    truth = (gradient[result.details["threshold"] > INDEFINITE] ** 2).sum() / (gradient**2).sum()
    low, high = result.details["bracket"]
    assert low - 1e-9 <= truth <= high + 1e-9
    assert abs(float(result) - truth) <= 2 * result.standard_error + 1e-9
    assert high - low < {5: 0.6, 15: 0.2, 40: 0.08}[products]


def test_the_dense_twin():
    objective, hessian = digits()
    values, vectors = np.linalg.eigh(hessian)
    shares = (vectors.T @ objective.gradient().numpy()) ** 2
    result = gradient_negative_overlap(objective)
    below = values < result.details["threshold"]
    low, high = result.details["bracket"]
    assert low - 1e-6 <= shares[below].sum() / shares.sum() <= high + 1e-6


def test_scale_and_tolerance():
    point = np.ones(250)
    one, nine = (float(gradient_negative_overlap(bowl(INDEFINITE, point, factor=f))) for f in (1.0, 9.0))
    assert nine == pytest.approx(one)
    wide = gradient_negative_overlap(bowl(INDEFINITE, point), negative_tol=0.25)
    assert float(wide) < one
    assert wide.details["threshold"] == pytest.approx(-0.25, rel=1e-3)


def test_endings_cost_and_refusals():
    objective = bowl(INDEFINITE)
    result = gradient_negative_overlap(objective)
    assert result.cost.products == gradient_negative_overlap.spec.price(objective).products == 60
    assert result.status.state is State.ESTIMATE
    cut = gradient_negative_overlap(objective, budget=7)
    assert cut.cost.products == 7
    assert cut.status.state is State.OUT_OF_BUDGET
    assert gradient_negative_overlap(objective, budget=0).status.state is State.OUT_OF_BUDGET
    assert "gradient is zero" in gradient_negative_overlap(bowl([1.0], [0.0])).status.sentence
    assert gradient_negative_overlap(bowl([1.0], [math.nan])).status.state is State.NON_FINITE
    with pytest.raises(InputError, match="num_products is 0"):
        gradient_negative_overlap(objective, num_products=0)
    with pytest.raises(InputError, match="negative_tol 1; allowed"):
        gradient_negative_overlap(objective, negative_tol=1)

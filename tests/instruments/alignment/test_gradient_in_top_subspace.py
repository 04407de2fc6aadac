"""Share of the gradient in the sharp directions: parabolas, the dense twin, chance, endings."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.bowls import bowl, digits, generator

from geartrain.errors import InputError
from geartrain.instruments import gradient_in_top_subspace
from geartrain.records import State

VALUES = np.array([5.0, 3.0, 1.0, 0.5, 0.2, 0.1])


def test_on_a_parabola():
    point = np.array([1.0, -1.0, 2.0, 0.5, 3.0, 1.0])
    gradient = VALUES * point
    for k in (1, 2, 3):
        result = gradient_in_top_subspace(bowl(VALUES, point), k)
        assert float(result) == pytest.approx((gradient[:k] ** 2).sum() / (gradient**2).sum())
        assert result.details["chance"] == pytest.approx(k / 6)
        assert result.details["shares"].sum() == pytest.approx(float(result))


def test_wholly_inside_and_wholly_outside():
    assert float(gradient_in_top_subspace(bowl(VALUES, [1, 1, 0, 0, 0, 0]), 2)) == pytest.approx(1)
    assert float(gradient_in_top_subspace(bowl(VALUES, [0, 0, 1, 0, 0, 1]), 2)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_copies_of_an_eigenvalue_are_looked_for(seed):
    values, point = np.array([5.0] * 4 + [1.0] * 8), np.arange(1.0, 13.0)
    result = gradient_in_top_subspace(bowl(values, point), 4, confirm=True, generator=generator(seed))
    truth = ((values * point)[:4] ** 2).sum() / ((values * point) ** 2).sum()
    assert float(result) == pytest.approx(truth, rel=1e-6)
    assert result.status.state is State.CONVERGED


def test_the_dense_twin():
    objective, hessian = digits()
    g = objective.gradient().numpy()
    truth = ((np.linalg.eigh(hessian)[1][:, -10:].T @ g) ** 2).sum() / (g @ g)
    result = gradient_in_top_subspace(objective, tol=1e-6)
    assert abs(float(result) - truth) <= result.standard_error
    assert float(result) == pytest.approx(truth, rel=1e-3, abs=1e-9)


def test_random_gradients_are_at_chance():
    values = np.linspace(5.0, 0.1, 40)
    results = [
        gradient_in_top_subspace(
            bowl(values, torch.randn(40, generator=generator(s)).double().numpy() / values), 4
        )
        for s in range(50)
    ]
    shares = np.array([float(r) for r in results])
    spread = results[0].details["chance_spread"]
    assert abs(shares.mean() - 0.1) <= 4 * spread / 50**0.5
    assert np.mean([r.details["z"] for r in results]) == pytest.approx(0, abs=4 / 50**0.5)


def test_scale_precision_and_bits():
    point = [1.0, -1.0, 2.0, 0.5, 3.0, 1.0]
    one = float(gradient_in_top_subspace(bowl(VALUES, point), 2))
    assert float(gradient_in_top_subspace(bowl(VALUES, point, factor=9.0), 2)) == pytest.approx(one)
    single = gradient_in_top_subspace(bowl(VALUES, np.multiply(1e-25, point), dtype=torch.float32), 2)
    assert float(single) == pytest.approx(one, rel=1e-4)
    again = [
        float(gradient_in_top_subspace(bowl(VALUES, point), 2, generator=generator(3))) for _ in range(2)
    ]
    assert again[0] == again[1]


def test_endings_cost_and_refusals():
    objective, _ = digits()
    result = gradient_in_top_subspace(objective)
    assert 0.5 <= gradient_in_top_subspace.spec.price(objective).products / result.cost.products <= 2
    cut = gradient_in_top_subspace(objective, budget=5)
    assert cut.cost.products <= 5
    assert cut.status.state is State.OUT_OF_BUDGET
    assert gradient_in_top_subspace(objective, budget=0).status.state is State.OUT_OF_BUDGET
    assert "gradient is zero" in gradient_in_top_subspace(bowl(VALUES, np.zeros(6))).status.sentence
    assert "only one parameter" in gradient_in_top_subspace(bowl([1.0])).status.sentence
    hill = gradient_in_top_subspace(bowl([-1.0, -2.0, -3.0, -4.0]), 1)
    assert "'hessian' has no positive eigenvalue" in hill.status.sentence
    equal = gradient_in_top_subspace(bowl([1.0, 1.0, 1.0, 0.5]), 2)
    assert "not determined" in equal.status.sentence
    assert math.isnan(float(equal.standard_error))
    assert gradient_in_top_subspace(bowl(VALUES, [math.nan] * 6)).status.state is State.NON_FINITE
    with pytest.raises(InputError, match="k is 0; allowed"):
        gradient_in_top_subspace(objective, 0)

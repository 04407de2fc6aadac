"""Negative curvature: known saddles, a bound that holds as often as it says, and honest endings."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binom
from tests.bowls import bowl, digits, generator

from geartrain.errors import InputError
from geartrain.instruments import hessian_spectrum, negative_curvature
from geartrain.records import State

# A smooth spectrum of 300 with its lowest end crowded, where Lanczos is slowest to see it.
CROWDED = np.concatenate([np.linspace(0.0, 1e-2, 100), np.linspace(0.01, 1.0, 200)])


def test_a_saddle():
    result = negative_curvature(bowl([3.0, 1.0, -0.5, -2.0]), 2)
    np.testing.assert_allclose(result.value, [-2.0, -0.5], atol=1e-12)
    assert result.details["certificate"] == "negative"
    assert result.details["num_negative_at_least"] == 2
    assert result.details["ratio"] == pytest.approx(-2 / 3)
    assert result.status.state is State.EXACT
    assert "for certain" in result.status.sentence


def test_a_valley_has_none_for_certain_where_all_is_seen():
    result = negative_curvature(bowl([3.0, 1.0, 0.5]), 2)
    np.testing.assert_allclose(result.value, [0.5, 1.0])
    assert result.details["certificate"] == "none"
    assert result.details["lower_bound"] == pytest.approx(0.5)
    assert result.status.state is State.EXACT


def test_few_distinct_eigenvalues_are_all_seen():
    result = negative_curvature(bowl(np.repeat([2.0, 0.5], 100)), 1, max_products=4)
    assert result.details["certificate"] == "none"
    assert float(result.value[0]) == pytest.approx(0.5)


@pytest.mark.parametrize("products", [20, 50])
def test_the_bound_holds_as_often_as_it_says(products):
    objective = bowl(CROWDED)
    bounds = [
        negative_curvature(
            objective, 1, max_products=products, confidence=0.9, generator=generator(s)
        ).details["lower_bound"]
        for s in range(100)
    ]
    assert sum(b <= CROWDED.min() for b in bounds) >= binom.ppf(0.001, 100, 0.9)
    assert min(bounds) > -0.05  # and it says something: a twentieth of the spread


def test_more_products_tighten_the_bound():
    objective = bowl(CROWDED)
    few, many = (negative_curvature(objective, 1, max_products=m).details["lower_bound"] for m in (60, 240))
    # 1/m² up to the logarithm: four times the products, about a sixteenth of the slack.
    assert few < many < 0
    assert many == pytest.approx(few / 16, rel=0.3)


def test_without_negative_curvature_it_says_how_sure_it_is():
    result = negative_curvature(bowl(CROWDED + 0.1), max_products=80)
    assert result.status.state is State.ESTIMATE
    assert "with probability 0.99 no eigenvalue lies below" in result.status.sentence
    assert result.details["certificate"] == "bounded"
    assert result.cost.products == 80
    few = negative_curvature(bowl(CROWDED + 0.1), max_products=5)
    assert few.status.state is State.OUT_OF_BUDGET
    assert "too few to bound it" in few.status.sentence


def test_digits_has_the_dense_values():
    objective, hessian = digits()
    truth = np.linalg.eigvalsh(hessian)
    result = negative_curvature(objective, 3, tol=1e-5, max_products=200, eigenvectors=True)
    np.testing.assert_allclose(result.value, truth[:3], rtol=1e-3)
    assert result.details["num_negative_at_least"] <= (truth < 0).sum()
    vector = result.details["eigenvectors"][0]
    assert vector @ hessian @ vector == pytest.approx(truth[0], rel=1e-3)
    assert result.details["lower_bound"] <= truth[0]
    other = hessian_spectrum(objective, 1, num_smallest=3, tol=1e-5).details["smallest"]
    np.testing.assert_allclose(result.value, other, rtol=1e-3)


def test_scaling_the_loss_scales_everything():
    one, seven = (negative_curvature(bowl(CROWDED - 0.1, factor=f), 2) for f in (1.0, 7.0))
    np.testing.assert_allclose(seven.value, 7 * one.value, rtol=1e-9)
    assert seven.details["lower_bound"] == pytest.approx(7 * one.details["lower_bound"])
    assert seven.details["ratio"] == pytest.approx(one.details["ratio"])


def test_single_precision_zero_is_not_negative():
    result = negative_curvature(bowl(np.concatenate([np.zeros(50), np.ones(50)]), dtype=torch.float32))
    assert result.details["certificate"] != "negative"


def test_budget_and_price():
    objective = bowl(CROWDED + 0.1)
    assert negative_curvature(objective, budget=7).cost.products == 7
    nothing = negative_curvature(objective, budget=0)
    assert nothing.status.state is State.OUT_OF_BUDGET
    assert nothing.value.shape == (3,)
    price = negative_curvature.spec.price(objective).products
    assert 0.5 <= price / negative_curvature(objective).cost.products <= 2


def test_not_finite_and_refusals():
    class Broken:
        num_params, dtype, device = 5, torch.float64, torch.device("cpu")

        def hvp(self, v):
            return v * float("nan")

    assert negative_curvature(Broken()).status.state is State.NON_FINITE
    with pytest.raises(InputError, match="k is 0; allowed: 1 or more"):
        negative_curvature(bowl([1.0]), 0)
    with pytest.raises(InputError, match=r"confidence 1\.0; allowed: between 0 and 1"):
        negative_curvature(bowl([1.0]), confidence=1.0)

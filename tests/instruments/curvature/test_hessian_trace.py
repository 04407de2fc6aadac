"""Trace of the Hessian: known curvature, relations, coverage, cost and sentences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binom
from tests.bowls import bowl, generator

from geartrain.errors import InputError
from geartrain.instruments import hessian_spectrum, hessian_trace
from geartrain.records import State

SPECTRUM = 1 / np.arange(1, 401) ** 1.2


def test_exact_where_affordable():
    result = hessian_trace(bowl([1.0, -2.0, 4.0]))
    assert float(result) == pytest.approx(3)
    assert result.status.state is State.EXACT
    assert result.cost.products == 3
    assert result.details["mean_eigenvalue"] == pytest.approx(1)


@pytest.mark.parametrize("estimator", ["xtrace", "hutchpp"])
def test_within_its_error(estimator):
    result = hessian_trace(bowl(SPECTRUM), 60, estimator=estimator, generator=generator(3))
    assert result.status.state is State.ESTIMATE
    assert result.details["estimator"] == estimator
    assert abs(float(result) - SPECTRUM.sum()) <= 4 * result.standard_error
    assert result.standard_error < 0.05 * SPECTRUM.sum()


def test_a_diagonal_matrix_is_exact_for_signs():
    result = hessian_trace(bowl(SPECTRUM), 10, estimator="hutchinson")
    assert float(result) == pytest.approx(SPECTRUM.sum())


def test_coverage_over_seeds():
    objective = bowl(SPECTRUM)
    results = [hessian_trace(objective, 40, generator=generator(s)) for s in range(200)]
    values = np.array([float(r) for r in results])
    assert abs(values.mean() - SPECTRUM.sum()) <= 4 * values.std(ddof=1) / np.sqrt(200)
    covered = sum(abs(float(r) - SPECTRUM.sum()) <= 2 * r.standard_error for r in results)
    assert covered >= binom.ppf(0.001, 200, 0.95)


def test_the_sum_of_all_eigenvalues():
    objective = bowl(np.linspace(-1, 3, 30))
    assert float(hessian_trace(objective)) == pytest.approx(hessian_spectrum(objective, 30).value.sum())


def test_scaling_the_loss_scales_the_trace():
    one, seven = (hessian_trace(bowl(SPECTRUM, factor=f), 40, generator=generator()) for f in (1.0, 7.0))
    assert float(seven) == pytest.approx(7 * float(one), rel=1e-9)


def test_piecewise_linear_networks_have_the_trace_of_their_gauss_newton_matrix():
    import geartrain as gt

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2)).double()
        data = torch.randn(30, 3).double(), torch.randint(0, 2, (30,))
    objective = gt.Objective(model, torch.nn.functional.cross_entropy, data)
    assert float(hessian_trace(objective)) == pytest.approx(float(hessian_trace(objective, operator="ggn")))


def test_cost_and_budget():
    objective = bowl(SPECTRUM)
    assert hessian_trace(objective, 30).cost.products == 30
    assert hessian_trace.spec.price(objective, 30).products == 30
    cut = hessian_trace(objective, 30, budget=10)
    assert cut.cost.products == 10
    assert cut.status.state is State.OUT_OF_BUDGET
    assert "10 products of 30" in cut.status.sentence
    few = hessian_trace(objective, 30, budget=2)
    assert few.details["estimator"] == "hutchinson"
    assert few.cost.products == 2
    none = hessian_trace(objective, budget=0)
    assert np.isnan(none.value)
    assert none.status.state is State.OUT_OF_BUDGET


def test_out_of_time():
    result = hessian_trace(bowl(SPECTRUM), 399, budget="1ms")
    assert result.status.state is State.OUT_OF_BUDGET


def test_not_finite():
    class Broken:
        num_params, dtype, device = 5, torch.float64, torch.device("cpu")

        def hvp(self, v):
            return v * float("nan")

    assert hessian_trace(Broken()).status.state is State.NON_FINITE


def test_refusals():
    with pytest.raises(InputError, match="estimator is 'diag'; allowed"):
        hessian_trace(bowl(SPECTRUM), estimator="diag")
    with pytest.raises(InputError, match="num_products is 4; xtrace needs at least 6"):
        hessian_trace(bowl(SPECTRUM), 4)

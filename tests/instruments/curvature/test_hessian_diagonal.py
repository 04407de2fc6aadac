"""Diagonal of the Hessian: known curvature, relations, the digits network, cost and sentences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binom
from tests.bowls import bowl, digits, generator
from torch.nn import functional

import geartrain as gt
from geartrain.errors import InputError
from geartrain.instruments import hessian_diagonal
from geartrain.records import State

X = torch.randn(40, 30, generator=generator(1)).double()


def regression(factor: float = 1.0, rows: torch.Tensor = X) -> gt.Objective:
    """Mean squares: H = 2 factor XᵀX/n, full and not diagonal."""
    model = torch.nn.Linear(30, 1, bias=False).double()
    loss = lambda out, y: factor * functional.mse_loss(out, y)  # noqa: E731
    return gt.Objective(model, loss, (rows, torch.ones(len(rows), 1).double()))


TRUTH = 2 * (X**2).mean(0).numpy()


def test_exact_where_affordable():
    result = hessian_diagonal(bowl([1.0, -2.0, 4.0]))
    np.testing.assert_allclose(result.value, [1, -2, 4])
    assert result.status.state is State.EXACT
    assert result.cost.products == 3
    assert result.details["trace"] == pytest.approx(3)
    assert result.details["num_negative"] == 1
    np.testing.assert_allclose(hessian_diagonal(regression()).value, TRUTH)


@pytest.mark.parametrize("seed", range(3))
def test_digits_at_a_hundred_products(seed):
    """Published tools: Hutchinson 55 %, XDiag 7.9 %."""
    objective, hessian = digits()
    truth = np.diag(hessian)
    result = hessian_diagonal(objective, 100, generator=generator(seed))
    assert np.linalg.norm(result.value - truth) <= 0.05 * np.linalg.norm(truth)
    assert ((np.abs(result.value - truth) <= 2 * result.standard_error).mean()) > 0.9
    assert abs(result.details["trace"] - truth.sum()) <= 4 * result.details["trace_error"]
    halves = {"0": truth[:1040].mean(), "2": truth[1040:].mean()}
    assert result.details["layers"] == pytest.approx(halves, rel=0.05)


@pytest.mark.parametrize("estimator", ["xdiag", "hutchinson"])
def test_coverage_over_seeds(estimator):
    objective = regression()
    results = [
        hessian_diagonal(objective, 20, estimator=estimator, generator=generator(s)) for s in range(200)
    ]
    values = np.array([r.value for r in results])
    assert (np.abs(values.mean(0) - TRUTH) <= 5 * values.std(0, ddof=1) / 200**0.5).all()
    hits = sum(abs(r.value[3] - TRUTH[3]) <= 2 * r.standard_error[3] for r in results)
    # Errors from 10 or 20 samples: Student's t covers 0.93 and 0.94 within two of them.
    assert hits >= binom.ppf(0.001, 200, 0.92)


def test_scaling_the_loss_and_doubling_the_data():
    one = hessian_diagonal(regression(), 20, generator=generator())
    seven = hessian_diagonal(regression(7.0), 20, generator=generator())
    twice = hessian_diagonal(regression(rows=torch.cat([X, X])), 20, generator=generator())
    np.testing.assert_allclose(seven.value, 7 * one.value, rtol=1e-9)
    np.testing.assert_allclose(seven.standard_error, 7 * one.standard_error, rtol=1e-8)
    np.testing.assert_allclose(twice.value, one.value, rtol=1e-9)


def test_permuting_the_inputs_permutes_the_entries():
    order = torch.randperm(30, generator=generator())
    moved = hessian_diagonal(regression(rows=X[:, order]))
    np.testing.assert_allclose(moved.value, TRUTH[order.numpy()])


def test_cost_and_budget():
    objective = regression()
    assert hessian_diagonal(objective, 20).cost.products == 20
    assert hessian_diagonal.spec.price(objective, 20).products == 20
    cut = hessian_diagonal(objective, 20, budget=5)
    assert cut.details["estimator"] == "hutchinson"
    assert cut.cost.products == 5
    assert cut.status.state is State.OUT_OF_BUDGET
    assert "5 products of 20" in cut.status.sentence
    none = hessian_diagonal(objective, budget=0)
    assert none.status.state is State.OUT_OF_BUDGET
    assert none.value.shape == (30,)
    assert np.isnan(none.value).all()


def test_not_finite_and_refusals():
    class Broken:
        num_params, dtype, device = 50, torch.float64, torch.device("cpu")

        def hvp(self, v):
            return v * float("nan")

    assert hessian_diagonal(Broken(), 20).status.state is State.NON_FINITE
    with pytest.raises(InputError, match="num_products is 4; xdiag needs at least 8"):
        hessian_diagonal(regression(), 4)
    with pytest.raises(InputError, match="estimator is 'exact'"):
        hessian_diagonal(regression(), estimator="exact")

"""Effective condition number: the ledger's accuracies on quadratics, the dense definition, exclusions, cost."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.bowls import bowl

import geartrain as gt
from geartrain.errors import InputError
from geartrain.instruments import effective_condition_number
from geartrain.instruments.curvature.effective_condition_number import effective_condition
from geartrain.records import State


def start(n, seed=0):
    return np.random.default_rng(seed).standard_normal(n)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kappa", [1e1, 1e2, 1e3])
def test_plain_kappa_within_two_percent(kappa, seed):
    objective = bowl(np.geomspace(1 / kappa, 1, 200), start(200, seed))
    result = effective_condition_number(objective, fraction=0.0)
    assert result.status.usable
    assert float(result) == pytest.approx(kappa, rel=0.02)
    assert abs(float(result) - kappa) <= 2 * result.standard_error


def test_plain_kappa_of_a_million_within_twenty_percent():
    result = effective_condition_number(bowl(np.geomspace(1e-6, 1, 200), start(200)), fraction=0.0)
    assert float(result) == pytest.approx(1e6, rel=0.2)


@pytest.mark.parametrize("fraction", [0.0, 0.01])
def test_products_do_not_grow_with_the_number_of_parameters(fraction):
    counts = []
    for n in (2_000, 20_000):
        objective = bowl(np.geomspace(1e-2, 1, n), start(n))
        counts.append(effective_condition_number(objective, fraction=fraction).cost.products)
    # Denser spectra sharpen the edge a little; √κ·log is the law, not n.
    assert counts[1] <= 1.35 * counts[0]
    assert counts[1] < 300


@pytest.mark.parametrize("fraction", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("kappa", [1e2, 1e4, 1e6])
def test_effective_kappa_is_the_dense_one(kappa, fraction):
    values, x = np.geomspace(1 / kappa, 1, 2000), start(2000, 1)
    truth, _ = effective_condition(values, values * x, fraction)
    result = effective_condition_number(bowl(values, x), fraction=fraction)
    assert result.status.state is State.CONVERGED
    assert abs(float(result) - truth) <= 2 * result.standard_error
    assert float(result) == pytest.approx(truth, rel=0.15)


def test_small_spectra_are_never_called_converged_far_from_the_truth():
    """Between two unresolved Ritz values the quantile is interpolated; the error has to say so."""
    misses = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        eigenvalues = np.sort(np.exp(rng.uniform(np.log(0.3), np.log(8.0), 11)))
        objective = bowl(eigenvalues, rng.standard_normal(11) / eigenvalues)
        result = effective_condition_number(objective)
        truth, _ = effective_condition(eigenvalues, objective.gradient().numpy())
        assert result.status.usable
        misses += abs(float(result) - truth) > 2 * float(result.standard_error) + 1e-9 * truth
    assert misses <= 13  # one in twenty-two beyond two errors, with binomial room: P < 0.1 %


def test_predicted_gain_is_the_loss_gap():
    objective = bowl(np.geomspace(1e-2, 1, 300), start(300))
    details = effective_condition_number(objective).details
    assert details["predicted_gain"] == pytest.approx(float(objective.value()), rel=1e-3)
    assert details["missing_gain"] <= 0.0025 * details["predicted_gain"]


def test_flat_directions_without_loss_do_not_count():
    values = np.concatenate([np.full(5, 1e-8), np.linspace(1, 10, 50)])
    x = np.concatenate([np.full(5, 1e-3), np.ones(50)])
    assert float(effective_condition_number(bowl(values, x))) < 11


def test_a_flat_direction_is_found_behind_a_tiny_gradient():
    """Nearly all loss lies along curvature 1e-7, where the gradient is 5e-4 of the whole."""
    values = np.concatenate([np.full(5, 1e-7), np.linspace(1, 10, 50)])
    x = np.concatenate([np.full(5, 1e5), np.ones(50)])
    assert float(effective_condition_number(bowl(values, x))) == pytest.approx(1e8, rel=1e-3)


def test_zero_modes_are_left_out():
    values = np.concatenate([np.zeros(100), np.geomspace(0.01, 1, 20)])
    result = effective_condition_number(bowl(values, start(120)), fraction=0.0, tol=1e-9)
    assert result.status.state in {State.EXACT, State.CONVERGED}
    assert float(result) == pytest.approx(100, rel=1e-6)


def test_negative_curvature_sets_a_floor():
    values = np.concatenate([[-0.05], np.geomspace(1e-4, 1, 300)])
    x = start(301, 2)
    truth, smallest = effective_condition(values, values * x)
    result = effective_condition_number(bowl(values, x))
    assert smallest > 0.05
    assert abs(float(result) - truth) <= 2 * result.standard_error
    assert result.details["floor"] == pytest.approx(0.05, rel=0.05)
    assert result.details["num_negative"] == 1
    assert result.details["num_below_floor"] > 0
    assert "1 negative" in result.status.sentence
    assert float(result) <= 20


def test_only_negative_curvature():
    result = effective_condition_number(bowl([-1.0, -2.0]))
    assert result.status.state is State.NOT_APPLICABLE
    assert np.isnan(result.value)


def test_one_direction_and_identity():
    for objective in (bowl([3.0]), bowl([3.0] * 40)):
        result = effective_condition_number(objective)
        assert float(result) == pytest.approx(1)
        assert result.details["gd_rate"] == pytest.approx(0, abs=1e-9)
        assert result.details["gd_steps_per_decade"] == pytest.approx(0, abs=0.2)


@pytest.mark.parametrize("kappa", [10.0, 1000.0])
def test_rates_are_those_of_the_methods(kappa):
    """Steepest descent at the best fixed step contracts by the stated rate, on the worst start."""
    values = np.array([1.0, kappa])
    x = np.array([kappa, 1.0])
    details = effective_condition_number(bowl(values, x), fraction=0.0).details
    step = 2 / (1 + kappa)
    after = (1 - step * values) * x
    assert details["gd_rate"] == pytest.approx(np.abs(after / x).max(), rel=1e-9)
    assert details["cg_rate"] == pytest.approx((np.sqrt(kappa) - 1) / (np.sqrt(kappa) + 1), rel=1e-9)
    assert details["gd_rate"] ** details["gd_steps_per_decade"] == pytest.approx(0.1)
    assert details["cg_steps_per_decade"] < details["gd_steps_per_decade"]


def test_scaling_the_loss_changes_nothing():
    values, x = np.geomspace(0.01, 1, 50), start(50)
    one, seven = (effective_condition_number(bowl(values, x, factor=f)) for f in (1.0, 7.0))
    assert float(one) == pytest.approx(float(seven), rel=1e-8)


def test_linear_regression_is_conditioned_like_its_inputs():
    inputs = torch.randn(200, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    inputs = inputs * torch.logspace(0, -2, 10, dtype=torch.float64)
    targets = inputs @ torch.linspace(1, 500, 10).double()[:, None]
    model = torch.nn.Linear(10, 1, bias=False).double()
    objective = gt.Objective(model, lambda out, y: ((out - y) ** 2).mean(), (inputs, targets))
    result = effective_condition_number(objective, fraction=0.0, operator="ggn")
    assert float(result) == pytest.approx(float(torch.linalg.cond(inputs)) ** 2, rel=1e-6)


def test_float32():
    values, x = np.geomspace(1e-3, 1, 500), start(500)
    truth, _ = effective_condition(values, values * x)
    result = effective_condition_number(bowl(values, x, dtype=torch.float32))
    assert abs(float(result) - truth) <= 2 * result.standard_error


def test_budget_and_price():
    objective = bowl(np.geomspace(1e-6, 1, 1000), start(1000))
    result = effective_condition_number(objective, fraction=0.0, budget=20)
    assert result.cost.products == 20
    assert result.status.state is State.OUT_OF_BUDGET
    assert "lower bound" in result.status.sentence
    assert float(result) < 1e6
    assert np.isnan(effective_condition_number(objective, budget=0).value)
    assert effective_condition_number.spec.price(objective, budget=20).products == 20
    assert effective_condition_number(objective, fraction=0.0, max_products=30).cost.products == 30


def test_no_gradient():
    result = effective_condition_number(bowl([1.0, 2.0], [0.0, 0.0]))
    assert result.status.state is State.NOT_APPLICABLE
    assert "The gradient is zero" in result.status.sentence


def test_not_finite():
    class Broken:
        num_params, dtype, device = 5, torch.float64, torch.device("cpu")

        def gradient(self):
            return torch.ones(5).double()

        def hvp(self, v):
            return v * float("nan")

    assert effective_condition_number(Broken()).status.state is State.NON_FINITE


def test_products_that_are_not_symmetric():
    class Skew:
        num_params, dtype, device = 30, torch.float64, torch.device("cpu")
        matrix = torch.randn(30, 30, generator=torch.Generator().manual_seed(0)).double()

        def gradient(self):
            return torch.ones(30).double()

        def hvp(self, v):
            return self.matrix @ v

    assert effective_condition_number(Skew()).status.state is State.NOT_CONVERGED


def test_refusals():
    objective = bowl([1.0])
    with pytest.raises(InputError, match="fraction is 1; allowed: 0 or more and below 1"):
        effective_condition_number(objective, fraction=1)
    with pytest.raises(InputError, match=r"tol is 0 and zero_tol 1e-09; allowed"):
        effective_condition_number(objective, tol=0)
    with pytest.raises(InputError, match="operator is 'covariance'; allowed: 'hessian', 'ggn'"):
        effective_condition_number(objective, operator="covariance")


def test_says_which_fraction_was_given_up():
    result = effective_condition_number(bowl(np.geomspace(0.1, 1, 20), start(20)), fraction=0.05)
    assert result.details["fraction"] == 0.05

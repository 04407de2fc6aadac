"""Per-example gradient norms: quantiles and tails of known laws, honest errors, relations, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom, norm
from tests.made import linear, normal, objective_of
from tests.noisy import coverage, pulled_by
from torch import nn

from geartrain.errors import InputError, NonFiniteError
from geartrain.instruments import per_example_gradients
from geartrain.instruments.noise.per_example_gradients import quantile_errors, tail_index
from geartrain.objective import Objective
from geartrain.records import State


def pareto(count: int, alpha: float, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 1, generator=torch.Generator().manual_seed(seed)).double() ** (-1 / alpha)


def test_equals_the_norms_of_the_rows():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    objective = objective_of(normal(40, 3), normal(40, 1, seed=1), model)
    norms = objective.per_example_gradients().norm(dim=1).numpy()
    result = per_example_gradients(objective, quantiles=[0.0, 0.3, 1.0])
    np.testing.assert_allclose(result.value, np.quantile(norms, [0.0, 0.3, 1.0]), rtol=1e-12)
    assert result.details["largest_example"] == norms.argmax()
    assert result.details["rms"] == pytest.approx(np.sqrt((norms**2).mean()))
    assert result.coords["quantile"] == [0.0, 0.3, 1.0]


def test_quantiles_and_tail_of_a_power_law():
    result = per_example_gradients(pulled_by(pareto(4000, 3.0)))
    truth = (1 - np.array(result.coords["quantile"])) ** (-1 / 3)
    assert np.all(np.abs(result.value - truth) <= 4 * result.standard_error)
    assert result.details["tail_count"] == 400
    assert abs(result.details["tail_index"] - 3) <= 4 * result.details["tail_index_error"]
    assert abs(result.details["extreme_value_index"] - 1 / 3) <= 4 * result.details["extreme_value_error"]


@pytest.mark.parametrize(("law", "index"), [("exponential", 0.0), ("uniform", -1.0)])
def test_tails_that_are_no_power_laws(law, index):
    u = pareto(20_000, 1.0, seed=1)  # 1/u is uniform
    rows = u.log() if law == "exponential" else 1 - 1 / u
    result = per_example_gradients(pulled_by(rows), tail=0.05)
    assert abs(result.details["extreme_value_index"] - index) <= 4 * result.details["extreme_value_error"]


def test_coverage_of_the_quantiles_over_seeds():
    # Normal quantiles from 80 values: within binomial bounds of 95 % (the middle ones).
    values = np.sort(np.random.default_rng(0).normal(size=(200, 80)), axis=1)
    levels = np.array([0.25, 0.5, 0.75])
    errors = quantile_errors(values, levels)
    for i, level in enumerate(levels):
        covered = coverage(np.quantile(values, level, axis=1), errors[:, i], norm.ppf(level))
        assert binom.ppf(0.001, 200, 0.93) <= covered <= 200


def test_coverage_of_the_tail_interval_over_seeds():
    # Exact for a power law: the number of intervals that hold the truth is binomial with 95 %.
    draws = np.random.default_rng(1).uniform(size=(200, 120)) ** (-1 / 2.5)
    found = [tail_index(np.sort(row)[::-1], 30)["tail_interval"] for row in draws]
    covered = sum(low <= 2.5 <= high for low, high in found)
    assert binom.ppf(0.001, 200, 0.95) <= covered <= binom.ppf(0.999, 200, 0.95)


def test_the_median_of_three_has_the_exact_error():
    # m = 2 of n = 3: weights 7/27, 13/27, 7/27 (the beta law with parameters 2 and 2).
    error = quantile_errors(np.array([0.0, 1.0, 2.0]), np.array([0.5]))
    assert error[0] == pytest.approx(math.sqrt(14 / 27))


def test_scaling_the_loss_scales_the_norms_and_not_the_tail():
    rows = pareto(300, 2.0)
    one, seven = per_example_gradients(pulled_by(rows)), per_example_gradients(pulled_by(7 * rows))
    np.testing.assert_allclose(seven.value, 7 * one.value)
    np.testing.assert_allclose(seven.standard_error, 7 * one.standard_error, rtol=1e-9)
    assert seven.details["tail_index"] == pytest.approx(one.details["tail_index"])


def test_one_example_that_pulls_alone():
    rows = torch.ones(99, 1).double() * 1e-3
    result = per_example_gradients(pulled_by(torch.cat([rows, torch.tensor([[50.0]]).double()])))
    assert result.details["largest_example"] == 99
    assert result.details["share_of_largest"] == pytest.approx(1, abs=1e-6)
    assert result.details["effective_examples"] == pytest.approx(1, abs=1e-6)


def test_cost():
    objective = pulled_by(pareto(30, 3.0))
    assert 0.5 <= per_example_gradients(objective).cost.gradients <= 2
    assert per_example_gradients.spec.price(objective).gradients == 1


def test_where_there_is_none():
    still = per_example_gradients(pulled_by(torch.zeros(4, 2).double()))
    assert still.status.state is State.NOT_APPLICABLE
    assert "Every example's gradient is zero" in still.status.sentence
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()
    coupled = per_example_gradients(objective_of(normal(20, 3), normal(20, 4, seed=1), model, training=True))
    assert "training=False" in coupled.status.sentence
    few = per_example_gradients(pulled_by(pareto(1, 3.0)))
    assert np.isnan(few.standard_error).all()
    assert math.isnan(few.details["tail_index"])


def test_refusals():
    objective = pulled_by(pareto(30, 3.0))
    with pytest.raises(InputError, match=r"quantiles are \[2\]; give one or more between 0 and 1"):
        per_example_gradients(objective, quantiles=[2])
    with pytest.raises(InputError, match=r"tail is 0.9; allowed: above 0"):
        per_example_gradients(objective, tail=0.9)
    with pytest.raises(NonFiniteError, match="weight"):
        per_example_gradients(
            Objective(linear([math.nan]), nn.functional.mse_loss, (pareto(3, 1.0), pareto(3, 1.0)))
        )

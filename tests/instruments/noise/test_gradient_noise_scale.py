"""Gradient noise scale: closed form, factor of the batch size, coverage, relations, bounds."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import binom
from tests.made import linear, normal, objective_of, same, seeded
from tests.noisy import pulled_by
from torch import Tensor, nn

from geartrain.errors import InputError, NonFiniteError
from geartrain.instruments import gradient_noise_scale
from geartrain.instruments.noise import _rows
from geartrain.objective import Objective
from geartrain.records import State

SPECTRUM = torch.tensor([4.0, 2.0, 1.0, 0.5, 0.25], dtype=torch.float64)
DELTA = torch.tensor([1.0, -0.5, 0.5, 1.0, -1.0], dtype=torch.float64)
SIGMA = 0.7


def half_square(outputs: Tensor, targets: Tensor) -> Tensor:
    return 0.5 * (outputs - targets).square().mean()


def regression(examples: int, seed: int = 0) -> Objective:
    """Inputs N(0, diag(SPECTRUM)), targets with noise SIGMA, weights off by DELTA."""
    x = normal(examples, 5, seed=seed) * SPECTRUM.sqrt()
    y = SIGMA * normal(examples, 1, seed=seed + 10_000)
    return Objective(linear(DELTA.tolist()), half_square, (x, y))


def truth() -> tuple[float, float]:
    """tr Σ and |G|² with Σ = (δᵀHδ + σ²)H + Hδδᵀ H for Gaussian inputs."""
    pulled = SPECTRUM * DELTA
    signal = float(pulled @ pulled)
    return float((DELTA @ pulled + SIGMA**2) * SPECTRUM.sum()) + signal, signal


def test_noisy_linear_regression():
    noise, signal = truth()
    result = gradient_noise_scale(regression(20_000))
    assert abs(result.value - noise / signal) < 4 * result.standard_error
    assert result.value == pytest.approx(noise / signal, rel=0.05)
    assert result.details["covariance_trace"] == pytest.approx(noise, rel=0.05)
    assert result.details["grad_sq_norm"] == pytest.approx(signal, rel=0.05)
    assert result.status.state is State.ESTIMATE


def test_parts_equal_the_plain_formulas():
    objective = regression(50)
    rows = objective.per_example_gradients().numpy()
    noise = rows.var(axis=0, ddof=1).sum()
    signal = (rows.mean(0) ** 2).sum() - noise / len(rows)
    result = gradient_noise_scale(objective)
    assert result.details["covariance_trace"] == pytest.approx(noise, rel=1e-12)
    assert result.details["grad_sq_norm"] == pytest.approx(signal, rel=1e-12)


def test_groups_know_their_size():
    noise, signal = truth()
    for groups in (200, 1000):
        result = gradient_noise_scale(regression(20_000), groups=groups)
        assert result.details["group_size"] == 20_000 // groups
        assert abs(result.value - noise / signal) < 4 * result.standard_error


def test_unbiased_parts_and_honest_interval():
    # 200 data sets of 40: the mean of each part within four standard errors of the truth, and the
    # 95 % interval covers in at least as many as the 0.1 % quantile of the binomial at 90 % (small samples).
    noise, signal = truth()
    results = [gradient_noise_scale(regression(40, seed=s)) for s in range(200)]
    for key, true in (("covariance_trace", noise), ("grad_sq_norm", signal)):
        values = np.array([r.details[key] for r in results])
        assert abs(values.mean() - true) < 4 * values.std(ddof=1) / math.sqrt(200)
    covered = sum(r.details["interval"][0] <= noise / signal <= r.details["interval"][1] for r in results)
    assert covered >= binom.ppf(0.001, 200, 0.9)


def test_rescaling_the_loss_changes_nothing_but_the_parts():
    objective = regression(100)
    twice = Objective(objective.model, lambda f, y: 2 * half_square(f, y), list(objective.batches))
    one, two = gradient_noise_scale(objective), gradient_noise_scale(twice)
    assert two.value == pytest.approx(one.value, rel=1e-10)
    assert two.details["covariance_trace"] == pytest.approx(4 * one.details["covariance_trace"], rel=1e-10)


def test_order_and_batches_do_not_matter():
    objective = regression(100)
    (x, y) = objective.batches[0]
    parts = Objective(objective.model, half_square, [(x[60:], y[60:]), (x[:60], y[:60])])
    assert gradient_noise_scale(parts).value == pytest.approx(
        gradient_noise_scale(objective).value, rel=1e-10
    )


def test_no_mean_gradient_gives_a_lower_bound():
    objective = Objective(linear([0.0] * 5), half_square, (normal(64, 5), normal(64, 1, seed=1)))
    results = gradient_noise_scale(objective)
    low, high = results.details["interval"]
    assert high == math.inf
    assert 5 < low < math.inf
    assert "at least" in results.status.sentence


def test_per_layer_signal_adds_up():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    result = gradient_noise_scale(objective_of(normal(80, 3), normal(80, 1, seed=1), model))
    assert set(result.details["signal_to_noise"]) == {"0", "2"}
    only = gradient_noise_scale(objective_of(normal(80, 3), normal(80, 1, seed=1), model, parameters="0.*"))
    ratio = only.details["grad_sq_norm"] / only.details["covariance_trace"]
    assert result.details["signal_to_noise"]["0"] == pytest.approx(ratio, rel=1e-9)


def test_batch_normalisation_falls_back_to_groups():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).double()
    objective = objective_of(normal(256, 3), normal(256, 1, seed=1), model, training=True)
    result = gradient_noise_scale(objective)
    assert result.details["group_size"] == 8
    assert result.details["num_groups"] == 32
    assert model[1].num_batches_tracked == 0


def test_a_short_budget_takes_groups():
    assert gradient_noise_scale(regression(640), budget="1s").details["group_size"] == 10


def test_the_second_pass_agrees_with_the_first(monkeypatch):
    kept = gradient_noise_scale(regression(300))
    monkeypatch.setattr(_rows, "KEEP_BYTES", 0)
    assert gradient_noise_scale(regression(300)).value == pytest.approx(kept.value, rel=1e-12)


def test_groups_follow_the_generator():
    values = [gradient_noise_scale(regression(640), groups=32, generator=seeded(s)).value for s in (1, 1, 2)]
    assert same(values[0], values[1])
    assert values[0] != values[2]


def test_zero_gradients_and_too_few_examples():
    still = Objective(linear([1.0]), half_square, (torch.ones(5, 1).double(), torch.ones(5, 1).double()))
    assert gradient_noise_scale(still).status.state is State.NOT_APPLICABLE
    single = Objective(linear([1.0]), half_square, (torch.ones(1, 1).double(), torch.zeros(1, 1).double()))
    assert math.isnan(gradient_noise_scale(single).value)


def test_refusals():
    objective = regression(10)
    with pytest.raises(InputError, match="budget"):
        gradient_noise_scale(objective, budget="soon")
    objective.model.weight.data[0, 0] = math.nan
    with pytest.raises(NonFiniteError, match="weight"):
        gradient_noise_scale(objective)


def test_two_halves_average_to_the_single_examples():
    # trΣ from two halves is b|g_1 - g_2|²/2; over all ways to halve the data its mean is that of the examples,
    # exactly (sampling without replacement), and g_1·g_2 averages to the unbiased |G|².
    rows = normal(6, 3, seed=4) + 0.5
    whole = gradient_noise_scale(pulled_by(rows)).details
    noise, signal = [], []
    for half in itertools.combinations(range(6), 3):
        first = rows[list(half)].mean(0)
        second = rows[[i for i in range(6) if i not in half]].mean(0)
        noise.append(3 * float((first - second).square().sum()) / 2)
        signal.append(float(first @ second))
    assert whole["covariance_trace"] == pytest.approx(np.mean(noise), rel=1e-12)
    assert whole["grad_sq_norm"] == pytest.approx(np.mean(signal), rel=1e-12)
    halves = gradient_noise_scale(pulled_by(rows), groups=2, generator=seeded(3)).details
    assert any(halves["grad_sq_norm"] == pytest.approx(s, rel=1e-12) for s in signal)
    assert any(halves["covariance_trace"] == pytest.approx(n, rel=1e-12) for n in noise)


def test_groups_are_the_comparison_of_a_small_and_a_big_batch():
    # McCandlish et al. 2018, eqs. (A.2) and (A.3), with the small batches that make up the big one.
    rows = normal(60, 3, seed=5) + 0.3
    result = gradient_noise_scale(pulled_by(rows), groups=12, generator=seeded(1)).details
    order = torch.randperm(60, generator=seeded(1))
    small = float(rows[order].reshape(12, 5, 3).mean(1).square().sum(1).mean())
    big = float(rows.mean(0).square().sum())
    assert result["grad_sq_norm"] == pytest.approx((60 * big - 5 * small) / (60 - 5), rel=1e-10)
    assert result["covariance_trace"] == pytest.approx((small - big) / (1 / 5 - 1 / 60), rel=1e-10)


def test_it_says_why_where_the_loss_is_no_mean():
    x = normal(10, 2)
    result = gradient_noise_scale(Objective(linear([1.0, 1.0]), lambda f, y: (f * y).sum(), (x, x[:, :1])))
    assert result.status.state is State.NOT_APPLICABLE
    assert "not the mean over its examples" in result.status.sentence
    with pytest.raises(InputError, match="groups is 1; at least 2"):
        gradient_noise_scale(regression(10), groups=1)


def test_one_pass_is_quoted_and_spent():
    objective = regression(40)
    for groups in (None, 8):
        result = gradient_noise_scale(objective, groups=groups)
        assert 0.5 <= result.cost.gradients <= 2
    assert gradient_noise_scale.spec.price(objective).gradients == 1

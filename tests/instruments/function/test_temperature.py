"""Temperature: known factors, coverage, the overconfident logistic regression, where there is none."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.stats import binom
from tests.instruments.function.echoes import calibrated, clustered, covered, drawn_from, echo
from tests.made import normal

from geartrain.instruments import calibration_error, temperature
from geartrain.instruments.function.temperature import of_answers
from geartrain.records import State

LEAST = binom.ppf(0.001, 200, 0.95)


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_the_factor_comes_back(factor):
    results = [of_answers(calibrated(150, seed, factor=factor)) for seed in range(200)]
    assert covered(results, factor) >= LEAST
    # The model is right, so both errors estimate the same.
    ratio = np.mean([r.standard_error / r.details["fisher_error"] for r in results])
    assert ratio == pytest.approx(1, abs=0.05)
    gains = np.array([r.details["gain"] for r in results])
    assert np.all(gains >= 0)


def test_places_of_one_sequence_are_one_witness():
    results = [of_answers(clustered(100, 3, seed, factor=2.0)) for seed in range(200)]
    assert covered(results, 2.0) >= LEAST
    # Three copies of everything: Fisher's error believes them, and is √3 too small.
    ratio = np.mean([r.standard_error / r.details["fisher_error"] for r in results])
    assert ratio == pytest.approx(math.sqrt(3), rel=0.05)


def test_it_is_the_minimum_of_the_loss():
    scores = 2 * normal(80, 5)
    labels = drawn_from(scores / 1.7, 3)
    loss = lambda t: float(torch.nn.functional.cross_entropy(scores / t, labels))  # noqa: E731
    best = minimize_scalar(loss, bounds=(0.2, 20), method="bounded", options={"xatol": 1e-10})
    result = temperature(echo(scores, labels))
    assert result.value == pytest.approx(best.x, rel=1e-6)
    assert result.details["nll_after"] == pytest.approx(best.fun, rel=1e-10)
    assert result.details["nll_before"] == pytest.approx(loss(1.0), rel=1e-10)


def test_fisher_information_is_the_curvature():
    scores, n = 2 * normal(80, 5), 80
    labels = drawn_from(scores, 4)
    result = temperature(echo(scores, labels))
    beta, h = 1 / result.value, 1e-4
    loss = lambda b: n * float(torch.nn.functional.cross_entropy(b * scores, labels))  # noqa: E731
    curvature = (loss(beta + h) - 2 * loss(beta) + loss(beta - h)) / h**2
    # Differences of second order in h² leave about 1e-6 of the curvature, rounding 1e-16·100/h² = 1e-6.
    assert result.details["fisher_error"] == pytest.approx(result.value**2 / math.sqrt(curvature), rel=1e-4)


def test_an_unpenalised_logistic_regression_is_overconfident_by_the_known_factor():
    # logistic-calibration, κ = 0.2, γ² = 5: the fitted score is α z + √κ σ · noise of unit variance, α = 1.4994 and
    # σ = 4.7436 (Sur and Candès 2018). The best temperature follows by quadrature from that.
    kappa, gamma2, alpha, sigma = 0.2, 5.0, 1.4994, 4.7436
    rng = np.random.default_rng(0)
    n, p = 2000, 400
    beta = rng.normal(size=p) * math.sqrt(gamma2 * n / p)
    x = rng.normal(size=(n, p)) / math.sqrt(n)
    y = rng.random(n) < 1 / (1 + np.exp(-x @ beta))
    fitted = np.zeros(p)
    for _ in range(12):
        mean = 1 / (1 + np.exp(-x @ fitted))
        weights = np.maximum(mean * (1 - mean), 1e-9)
        fitted += np.linalg.solve((x.T * weights) @ x, x.T @ (y - mean))
    new = rng.normal(size=(8000, p)) / math.sqrt(n)
    labels = torch.from_numpy((rng.random(8000) < 1 / (1 + np.exp(-new @ beta))).astype(int))
    scores = torch.from_numpy(new @ fitted)
    result = temperature(echo(torch.stack([torch.zeros_like(scores), scores], 1), labels))
    nodes, w = np.polynomial.hermite_e.hermegauss(60)
    z, e = np.meshgrid(nodes * math.sqrt(gamma2), nodes * math.sqrt(kappa) * sigma, indexing="ij")
    mass = np.outer(w, w) / w.sum() ** 2
    logit = alpha * z + e

    def expected(t):
        return float((mass * (np.logaddexp(0, logit / t) - logit / t / (1 + np.exp(-z)))).sum())

    truth = minimize_scalar(expected, bounds=(0.5, 10), method="bounded").x
    assert truth > 1.5
    # Besides its own error the one fit differs from its limit by about 1/√p of itself.
    assert abs(result.value - truth) <= 4 * math.hypot(result.standard_error, truth / math.sqrt(p))


def test_after_dividing_the_scores_fit():
    g = torch.Generator().manual_seed(0)
    scores = 4 * torch.randn(2000, 4, generator=g, dtype=torch.float64)
    labels = drawn_from(scores / 4, 1)
    before = calibration_error(echo(scores, labels))
    after = calibration_error(echo(scores / temperature(echo(scores, labels)).value, labels))
    assert before.value > 10 * before.standard_error
    assert abs(after.value) <= 3 * after.standard_error


def test_where_there_is_none():
    scores = normal(30, 3)
    all_right = temperature(echo(scores, scores.argmax(1)))
    assert all_right.status.state is State.NOT_CONVERGED
    assert "colder is always better" in all_right.status.sentence
    assert "point away" in temperature(echo(scores, scores.argmin(1))).status.sentence
    assert math.isnan(all_right.value)
    assert temperature.spec.price(calibrated(5, 0, say=echo)).forwards == 1
    assert temperature(calibrated(50, 0, say=echo)).cost.forwards == 1

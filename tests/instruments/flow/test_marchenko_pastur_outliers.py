"""Outliers of weight matrices: the laws behind it, spiked matrices, false alarms, relations, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate
from scipy.stats import binom
from tests.made import normal, objective_of
from torch import nn

from geartrain.errors import InputError
from geartrain.instruments import marchenko_pastur_outliers
from geartrain.instruments.flow import _spectra
from geartrain.instruments.flow.marchenko_pastur_outliers import _compared
from geartrain.objective import Objective
from geartrain.records import State


def layer(matrix: torch.Tensor) -> Objective:
    model = nn.Linear(matrix.shape[1], matrix.shape[0], bias=False).double()
    model.weight.data = matrix.double()
    return objective_of(normal(3, matrix.shape[1]), normal(3, matrix.shape[0], seed=1), model)


def spiked(seeds: int, samples: int, features: int, strength: float) -> np.ndarray:
    """Singular values of samples of N(0, I + c e₁e₁ᵀ), shape (seeds, features)."""
    rows = np.random.default_rng(0).normal(size=(seeds, samples, features))
    rows[:, :, 0] *= math.sqrt(1 + strength)
    return np.linalg.svd(rows, compute_uv=False)


@pytest.mark.parametrize("beta", [0.05, 0.25, 1.0])
def test_the_law_of_the_bulk(beta):
    low, high = (1 - math.sqrt(beta)) ** 2, _spectra.edge(beta)

    def density(x: float) -> float:
        return math.sqrt(max((high - x) * (x - low), 0.0)) / (2 * math.pi * beta * x)

    for share in (0.2, 0.5, 0.9):
        x = low + share * (high - low)
        mass = 1 - integrate.quad(density, x, high)[0]
        assert _spectra.bulk_cdf(np.array(x), beta) == pytest.approx(mass, abs=1e-7)
    assert _spectra.bulk_cdf(np.array([low, high]), beta).tolist() == [0.0, 1.0]
    places = _spectra.bulk_quantiles(beta, 7)
    np.testing.assert_allclose(_spectra.bulk_cdf(places, beta), (np.arange(7) + 0.5) / 7, atol=1e-4)


def test_the_law_of_the_edge():
    # Published quantiles of the Tracy-Widom law of order 1, and its mean and variance.
    for level, quantile in ((0.05, -3.1804), (0.5, -1.2685), (0.9, 0.4501), (0.95, 0.9793), (0.99, 2.0234)):
        assert _spectra.tracy_widom_quantile(level) == pytest.approx(quantile, abs=2e-4)
    grid = np.linspace(-8, 6, 57)
    cdf = np.array([_spectra.tracy_widom_cdf(s) for s in grid])
    mean = 6 - integrate.simpson(cdf, x=grid)
    second = 36 - integrate.simpson(2 * grid * cdf, x=grid)
    assert mean == pytest.approx(-1.2065335745820, abs=1e-3)
    assert second - mean**2 == pytest.approx(1.6077810345810, abs=5e-3)


@pytest.mark.parametrize("shape", [(16, 16), (8, 64), (30, 60)])
def test_false_alarms_over_seeds(shape):
    # 200 matrices of noise at a level of 5 %; the fitted variance may double it.
    values = np.linalg.svd(np.random.default_rng(1).normal(size=(200, *shape)), compute_uv=False)
    alarms = sum(_compared(row, shape, 0.05)["count"] > 0 for row in values)
    assert alarms <= binom.ppf(0.999, 200, 0.1)


def test_a_strong_spike_is_found_where_it_must_be():
    # γ = 1/4, c = 2: outlier at (1 + c)(1 + γ/c) = 3.375 with a standard deviation of (1 + c)√(2(1 - γ/c²)/n).
    rows = [_compared(v, (400, 100), 0.01) for v in spiked(20, 400, 100, 2.0)]
    assert all(row["count"] == 1 for row in rows)
    top = np.array([row["largest"] ** 2 / 400 for row in rows])
    sd = 3 * math.sqrt(2 * (1 - 0.25 / 4) / 400)
    assert abs(top.mean() - 3.375) <= 3 * sd / math.sqrt(20)
    strengths = np.array([row["strength"][0] for row in rows])
    assert abs(strengths.mean() - 2) <= 3 * strengths.std(ddof=1) / math.sqrt(20) + 2 / 100


def test_below_the_threshold_it_cannot_be_seen():
    # c = 0.3 < √γ = 0.5 (Baik, Ben Arous, Péché): the largest value stays at the edge 2.25.
    rows = [_compared(v, (400, 100), 0.01) for v in spiked(20, 400, 100, 0.3)]
    assert sum(row["count"] for row in rows) <= binom.ppf(0.999, 20, 0.02)
    top = np.mean([row["largest"] ** 2 / 400 for row in rows])
    assert top == pytest.approx(2.25, abs=0.06)  # the law's mean lies -1.2 widths of n^(-2/3) below the edge


def test_overlaps_with_the_planted_vectors():
    rng = np.random.default_rng(2)
    u, v = (x / np.linalg.norm(x) for x in (rng.normal(size=100), rng.normal(size=400)))
    short, long, found = [], [], []
    for _ in range(12):
        matrix = rng.normal(size=(100, 400)) + 2.0 * math.sqrt(400) * np.outer(u, v)
        left, values, right = np.linalg.svd(matrix, full_matrices=False)
        found.append(_compared(values, (100, 400), 0.01))
        short.append((left[:, 0] @ u) ** 2)
        long.append((right[0] @ v) ** 2)
    # Strength c = 4 for a planted singular value 2√n.
    assert np.mean([f["strength"][0] for f in found]) == pytest.approx(4, rel=0.05)
    for seen, key in ((short, "overlap_short"), (long, "overlap_long")):
        told = np.mean([f[key][0] for f in found])
        assert abs(np.mean(seen) - told) <= 4 * np.std(seen, ddof=1) / math.sqrt(12) + 0.01


def test_scale_and_transposition_do_not_matter():
    matrix = normal(30, 60, seed=2)
    matrix[0] += 3
    one, two = (marchenko_pastur_outliers(layer(a)) for a in (matrix, 5 * matrix.T))
    assert one.value.tolist() == two.value.tolist() == [1.0]
    np.testing.assert_allclose(two.details["noise_std"], 5 * one.details["noise_std"], rtol=1e-9)
    np.testing.assert_allclose(
        two.details["strength"][""] if "" in two.details["strength"] else two.details["strength"]["weight"],
        one.details["strength"]["weight"],
        rtol=1e-9,
    )


def test_usual_initialisations_have_none():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 40))
    result = marchenko_pastur_outliers(objective_of(normal(5, 64).float(), normal(5, 40).float(), model))
    assert result.value.tolist() == [0.0, 0.0]
    assert result.details["noise_std"][0] == pytest.approx(1 / math.sqrt(3 * 64), rel=0.05)
    assert "doubtful" not in result.status.sentence


def test_a_bent_bulk_is_said():
    # Singular values that fall like a power law: no bulk of independent entries.
    u, _, v = torch.linalg.svd(normal(60, 60, seed=4))
    heavy = u @ torch.diag(torch.arange(1.0, 61.0).double() ** -1.0) @ v
    result = marchenko_pastur_outliers(layer(heavy))
    assert "is not that of independent entries" in result.status.sentence
    orthogonal = marchenko_pastur_outliers(layer(u))
    assert orthogonal.value.tolist() == [0.0]
    assert "doubtful" in orthogonal.status.sentence


def test_low_rank_without_noise():
    result = marchenko_pastur_outliers(layer(normal(40, 1) @ normal(1, 40, seed=1)))
    assert result.value[0] == 1


def test_no_cost():
    objective = layer(normal(20, 20))
    result = marchenko_pastur_outliers(objective)
    assert result.cost.gradients == result.cost.forwards == 0
    assert marchenko_pastur_outliers.spec.price(objective).peak_bytes == 3 * 8 * 400


def test_where_there_is_none():
    small = marchenko_pastur_outliers(layer(normal(3, 40)))
    assert small.status.state is State.NOT_APPLICABLE
    assert "both sides of 8 or more" in small.status.sentence
    zero = marchenko_pastur_outliers(layer(torch.zeros(9, 9)))
    assert np.isnan(zero.value[0])
    assert "Every large matrix is zero" in zero.status.sentence
    late = marchenko_pastur_outliers(layer(normal(9, 9)), budget="1e-9s")
    assert "reached 0 of 1" in late.status.sentence
    assert marchenko_pastur_outliers(layer(normal(9, 9) * math.nan)).status.state is State.NON_FINITE
    with pytest.raises(InputError, match=r"level is 0.5; allowed: above 0 and at most 0.1"):
        marchenko_pastur_outliers(layer(normal(9, 9)), level=0.5)

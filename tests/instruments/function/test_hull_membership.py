"""Hull membership: the counts of stochastic geometry, a dense twin in the plane, dimension, budgets."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial import Delaunay
from scipy.stats import binom
from tests.made import linear, normal, objective_of, run_of, words
from torch import nn

from geartrain.errors import InputError
from geartrain.instruments import hull_membership
from geartrain.instruments.function._errors import share_of
from geartrain.instruments.function.hull_membership import _Hull, examples_needed
from geartrain.records import State


def asked(hull: _Hull, point: np.ndarray) -> bool:
    return not hull.outside_at_once(point, None) and hull.holds(point, None)


def test_the_plane():
    rng = np.random.default_rng(0)
    known, new = rng.normal(size=(25, 2)), rng.normal(size=(60, 2))
    hull = _Hull(known)
    expected = Delaunay(known).find_simplex(new) >= 0
    assert [asked(hull, p) for p in new] == expected.tolist()
    assert 0 < expected.sum() < 60


def test_the_quick_answers_agree_with_the_program():
    rng = np.random.default_rng(1)
    hull = _Hull(rng.normal(size=(40, 4)))
    for point in rng.normal(size=(40, 4)):
        if hull.outside_at_once(point, None):
            assert not hull.holds(point, None)
    # The mean, every training point and every midpoint of two are inside.
    assert asked(hull, hull.known.mean(0))
    assert asked(hull, hull.known[3])
    assert asked(hull, (hull.known[0] + hull.known[7]) / 2)


def test_a_line_has_two_vertices():
    result = hull_membership(objective_of(normal(50, 1), torch.arange(50) % 2))
    assert result.value == pytest.approx(48 / 50)
    assert result.details["training_points"] == 49
    assert result.details["dimension"] == 1


def test_a_triangle():
    # Uniform points in a triangle: E[vertices of n] = 2 (1 + 1/2 + ... + 1/(n-1)) (Rényi and Sulanke); n = 12.
    n, counts = 12, []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        x = rng.random((n, 2))
        x = np.where(x.sum(1, keepdims=True) > 1, 1 - x, x)
        objective = objective_of(torch.from_numpy(x), torch.arange(n) % 2)
        counts.append(n * (1 - hull_membership(objective).value))
    truth = 2 * sum(1 / k for k in range(1, n))
    assert abs(np.mean(counts) - truth) <= 4 * np.std(counts, ddof=1) / math.sqrt(40)


def test_the_centre_of_symmetric_points():
    # Wendel: the origin is outside the hull of n symmetric points in d dimensions with 2^(1-n) Σ_{k<d} C(n-1, k).
    n, d = 8, 3
    truth = 1 - 2.0 ** (1 - n) * sum(math.comb(n - 1, k) for k in range(d))
    rng = np.random.default_rng(2)
    hits = [asked(_Hull(rng.normal(size=(n, d))), np.zeros(d)) for _ in range(300)]
    assert abs(np.mean(hits) - truth) <= 4 * math.sqrt(truth * (1 - truth) / 300)


@pytest.mark.parametrize("share", [0.02, 0.5])
def test_coverage_of_shares(share):
    held = 0
    for seed in range(200):
        hits = (np.random.default_rng(seed).random(80) < share).astype(float)
        value, error = share_of(hits, np.arange(80))
        held += abs(value - share) <= 2 * error
    assert held >= binom.ppf(0.001, 200, 0.95)


def test_high_dimensions_hold_nothing():
    x = normal(200, 30)
    result = hull_membership(objective_of(x, torch.arange(200) % 2))
    assert result.value == 0
    assert result.standard_error > 0
    # A Gaussian point at distance √d has depth Φ(-√d): 2 to the 22 at d = 30 has no even chance yet.
    assert examples_needed(30) > 22
    # n points are a simplex in n - 1 dimensions: all corners, no program.
    simplex = hull_membership(objective_of(normal(20, 40), torch.arange(20) % 2))
    assert simplex.value == 0
    assert simplex.details["ruled_out_early"] == 20


def test_flat_data_and_maps_that_keep_hulls():
    x = normal(60, 2)
    lifted = torch.cat([x, x.sum(1, keepdim=True), torch.ones(60, 1)], 1) * torch.tensor(
        [1e3, 1e-3, 1.0, 5.0]
    )
    plain = hull_membership(objective_of(x, torch.arange(60) % 2))
    moved = hull_membership(objective_of(lifted, torch.arange(60) % 2))
    assert moved.value == plain.value
    assert moved.details["dimension"] == 2


def test_a_run_tests_validation_points_and_layers():
    x, y = normal(80, 2), torch.arange(80) % 2
    model = nn.Sequential(linear([1.0, 1.0], [1.0, 1.0]), nn.Identity())
    run = run_of((x[:60], y[:60]), (x[60:] / 100, y[60:]), model)
    result = hull_membership(run)
    assert result.value == 1
    assert result.details["split"] == "validation"
    assert result.cost.forwards == 0
    layer = hull_membership(run, "0")
    assert layer.details["dimension"] == 1
    assert layer.cost.forwards == hull_membership.spec.price(run, "0").forwards == 2
    with pytest.raises(InputError, match="space is '7'; allowed: 'input' or a layer of the model: '0'"):
        hull_membership(run, "7")
    with pytest.raises(InputError, match="points is 0, train 5; allowed"):
        hull_membership(run, points=0, train=5)


def test_budgets_and_tokens():
    objective = objective_of(normal(200, 2), torch.arange(200) % 2)
    cut = hull_membership(objective, budget=10)
    assert cut.status.state is State.OUT_OF_BUDGET
    assert cut.details["tested"] - cut.details["ruled_out_early"] == 10
    assert "of 128 points" in cut.status.sentence
    text = objective_of(*words(), nn.Embedding(7, 7), lambda f, y: nn.functional.cross_entropy(f.mT, y))
    assert "name of a layer" in hull_membership(text).status.sentence
    assert "Two points" in hull_membership(objective_of(normal(2, 2), torch.arange(2))).status.sentence

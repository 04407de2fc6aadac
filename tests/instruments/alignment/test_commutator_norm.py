"""Commutators: known pairs, the dense twin, coverage over seeds, chance, endings."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom
from tests.bowls import bowl, digits, generator
from tests.instruments.alignment.test_eigenbasis_overlap import NOISE, VALUES, two_matrices
from torch import nn
from torch.nn import functional

import geartrain as gt
from geartrain.errors import InputError
from geartrain.instruments import commutator_norm
from geartrain.instruments.alignment.commutator_norm import _chance
from geartrain.records import State


def ratio(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a @ b - b @ a) / (2 * np.linalg.norm(a) * np.linalg.norm(b)))


@pytest.mark.parametrize("angle", [0.0, 0.3, math.pi / 4, math.pi / 2])
def test_turned_matrices(angle):
    # In the plane of two axes [A, RBRᵀ] = (a₁ - a₂)(b₁ - b₂) sin(2φ)/2 · [[0, -1], [1, 0]].
    expected = abs((5 - 3) * (4 - 1) * math.sin(2 * angle) / 2) * math.sqrt(2)
    expected /= 2 * np.linalg.norm(VALUES) * np.linalg.norm(NOISE)
    result = commutator_norm(two_matrices(VALUES, angle, NOISE))
    assert float(result) == pytest.approx(expected, abs=1e-12)
    assert result.status.state is State.EXACT
    assert result.details["first_norm"] == pytest.approx(np.linalg.norm(VALUES))
    assert result.details["second_trace"] == pytest.approx(sum(NOISE))
    assert result.details["chance"] < 1 / math.sqrt(12)
    assert result.cost.products == 12


def test_equal_matrices_commute():
    big = bowl(np.linspace(3, 1, 200))
    result = commutator_norm(big, second="ggn")
    assert float(result) == pytest.approx(0, abs=1e-12)


def classifier(factor: float = 1.0, copies: int = 1) -> gt.Objective:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    inputs = torch.randn(40, 6, generator=generator(1)).double().repeat(copies, 1)
    targets = torch.randint(0, 3, (40,), generator=generator(2)).repeat(copies)
    return gt.Objective(model, lambda o, y: factor * functional.cross_entropy(o, y), (inputs, targets))


def dense(objective: gt.Objective) -> tuple[np.ndarray, np.ndarray]:
    eye = torch.eye(objective.num_params).double()
    return objective.hvp(eye).numpy(), objective.covariance_vp(eye).numpy()


def test_exact_and_estimated_agree_with_the_dense_twin():
    objective = classifier()
    truth = ratio(*dense(objective))
    exact = commutator_norm(objective, num_probes=60)
    assert exact.status.state is State.EXACT
    assert float(exact) == pytest.approx(truth, rel=1e-9)
    big, hessian = digits()
    result = commutator_norm(big, generator=generator(1))
    eye = torch.eye(1210).double()
    assert abs(float(result) - ratio(hessian, big.covariance_vp(eye).numpy())) <= 4 * result.standard_error
    assert result.standard_error < 0.1 * float(result)


def test_coverage_over_seeds():
    objective = classifier()
    truth = ratio(*dense(objective))
    results = [commutator_norm(objective, rank=2, num_probes=8, generator=generator(s)) for s in range(200)]
    values, errors = np.array([float(r) for r in results]), np.array([r.standard_error for r in results])
    assert all(r.status.state is State.ESTIMATE for r in results)
    # Eight probes: Student's t covers 0.91 within two errors; the square root biases by less than half an error.
    assert (np.abs(values - truth) <= 2 * errors).sum() >= binom.ppf(0.001, 200, 0.89)
    assert abs(values.mean() - truth) <= 0.5 * values.std(ddof=1)


def test_chance_is_that_of_random_turns():
    n = 30
    a, b = np.diag(np.linspace(0, 2, n)), np.diag(1 / np.arange(1, n + 1.0))
    squares = []
    for seed in range(300):
        turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))[0]
        squares.append(ratio(a, turn @ b @ turn.T) ** 2)
    totals = np.array([(a**2).sum(), (b**2).sum(), 0.0, np.trace(a), np.trace(b)])
    # To leading order in 1/n.
    assert _chance(totals, n) == pytest.approx(np.mean(squares) ** 0.5, rel=3 / n)


def test_scale_and_copies_do_not_matter():
    one = float(commutator_norm(classifier(), num_probes=60))
    assert float(commutator_norm(classifier(7.0), num_probes=60)) == pytest.approx(one)
    assert float(commutator_norm(classifier(copies=2), num_probes=60)) == pytest.approx(one)
    swapped = commutator_norm(classifier(), first="covariance", second="hessian", num_probes=60)
    assert float(swapped) == pytest.approx(one)


def test_same_seed_same_bits():
    one, two = (
        float(commutator_norm(classifier(), rank=2, num_probes=4, generator=generator(5))) for _ in range(2)
    )
    assert one == two


def test_endings_cost_and_refusals():
    big, _ = digits()
    result = commutator_norm(big)
    assert result.cost.products == commutator_norm.spec.price(big).products == 80
    cut = commutator_norm(big, budget=30)
    assert cut.cost.products <= 30
    assert cut.status.state is State.OUT_OF_BUDGET
    assert np.isfinite(float(cut))
    none = commutator_norm(big, budget=5)
    assert none.status.state is State.OUT_OF_BUDGET
    assert "at least 22 products" in none.status.sentence
    zero = commutator_norm(bowl([1.0, 2.0]))
    assert "One of the matrices is zero" in zero.status.sentence
    coupled = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).train()
    objective = gt.Objective(coupled, functional.cross_entropy, (torch.randn(8, 3), torch.arange(8) % 2))
    assert "batch normalisation" in commutator_norm(objective).status.sentence
    assert commutator_norm(bowl([1.0], [math.nan]), second="ggn").status.state is State.NON_FINITE
    with pytest.raises(InputError, match="rank is 0 and num_probes 10; allowed"):
        commutator_norm(big, rank=0)
    with pytest.raises(InputError, match="operator is 'kfac'"):
        commutator_norm(big, first="kfac")

"""Overlap of eigenspaces: known angles, chance, the Davis-Kahan bound, endings."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.bowls import bowl, digits, generator
from tests.made import state_of
from torch import nn
from torch.nn import functional

import geartrain as gt
from geartrain.errors import InputError
from geartrain.instruments import eigenbasis_overlap
from geartrain.instruments.alignment._subspace import error_of_share, overlap_spread, share_spread
from geartrain.records import State


def two_matrices(values: list[float], angle: float, noise: list[float]) -> gt.Objective:
    """Hessian diag(values) and per-example gradients whose second moment is diag(noise) turned in the plane (0, 1)."""
    n = len(values)
    turn = torch.eye(n).double()
    plane = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    turn[:2, :2] = torch.tensor(plane, dtype=torch.float64)
    slopes = turn @ torch.diag(torch.tensor(noise, dtype=torch.float64).mul(n).sqrt())
    rows = torch.cat([slopes.T, -slopes.T])  # their mean is zero
    weights = torch.tensor(values, dtype=torch.float64)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(n).double())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.w + 0.5 * (weights * self.w**2).sum()

    return gt.Objective(Model(), lambda out, y: (out + 0 * y).mean(), (rows, torch.zeros(len(rows)).double()))


VALUES, NOISE = [5.0, 3.0, 1.0, 0.5, 0.2, 0.1], [4.0, 1.0, 0.3, 0.1, 0.05, 0.02]


@pytest.mark.parametrize("angle", [0.0, 0.3, 1.0, math.pi / 2])
def test_known_angles(angle):
    objective = two_matrices(VALUES, angle, NOISE)
    one = eigenbasis_overlap(objective, 1)
    assert float(one) == pytest.approx(math.cos(angle) ** 2, abs=1e-9)
    assert one.details["chance"] == pytest.approx(1 / 6)
    two = eigenbasis_overlap(objective, 2)  # the plane is turned into itself
    assert float(two) == pytest.approx(1.0)
    assert two.details["cosines"] == pytest.approx([1, 1])
    assert two.status.state is State.CONVERGED


def test_a_matrix_overlaps_with_itself():
    assert float(eigenbasis_overlap(bowl(VALUES), 2, second="ggn")) == pytest.approx(1)


def test_the_dense_twin():
    objective, hessian = digits()
    rows = objective.per_example_gradients().numpy()
    covariance = np.cov(rows.T, bias=True)
    u, v = (np.linalg.eigh(m)[1][:, -10:] for m in (hessian, covariance))
    truth = np.linalg.norm(u.T @ v) ** 2 / 10
    result = eigenbasis_overlap(objective, 10)
    assert abs(float(result) - truth) <= result.standard_error
    assert float(result) == pytest.approx(truth, rel=1e-3)
    assert result.details["z"] > 100


def test_the_bound_covers_what_a_loose_search_gets_wrong():
    objective, _ = digits()
    truth = float(eigenbasis_overlap(objective, 5, second="ggn", tol=1e-9))
    for seed in range(5):
        for tol in (1e-2, 1e-3):
            result = eigenbasis_overlap(objective, 5, second="ggn", tol=tol, generator=generator(seed))
            if result.status.state is State.CONVERGED:
                assert abs(float(result) - truth) <= result.standard_error
    assert result.status.state is State.CONVERGED  # the last one was tight enough to count


def test_chance_and_its_spread():
    n, k, m = 12, 3, 4
    overlaps, shares = [], []
    for seed in range(2000):
        source = torch.randn(n, k + m, generator=generator(seed)).double()
        p, q = torch.linalg.qr(source[:, :k])[0], torch.linalg.qr(source[:, k:])[0]
        overlaps.append(float((p.T @ q).norm() ** 2) / k)
        shares.append(float((p.T @ source[:, -1]).norm() ** 2 / source[:, -1].norm() ** 2))
    # The standard deviation of 2,000 draws is known to about 1/√4000, 1.6 %: four of these.
    assert np.std(overlaps) == pytest.approx(overlap_spread(k, m, n), rel=0.07)
    assert np.mean(overlaps) == pytest.approx(m / n, abs=4 * overlap_spread(k, m, n) / 2000**0.5)
    assert np.std(shares) == pytest.approx(share_spread(k, n), rel=0.07)
    assert overlap_spread(k, 1, n) == pytest.approx(share_spread(k, n))


def test_the_error_of_a_share():
    for share in (0.0, 0.01, 0.5, 0.99, 1.0):
        for tilt in (1e-3, 0.1, 1.0):
            turned = math.sin(min(math.asin(math.sqrt(share)) + math.asin(tilt), math.pi / 2)) ** 2
            assert turned - share <= error_of_share(share, tilt) + 1e-12


def test_undetermined_spaces_are_said():
    result = eigenbasis_overlap(bowl([1.0] * 4 + [0.1] * 4), 2, second="ggn")
    assert result.status.state is State.NOT_CONVERGED
    assert "not determined" in result.status.sentence
    assert math.isnan(float(result.standard_error))


def test_it_does_not_depend_on_the_scale_or_the_number_of_copies():
    def of(factor: float, copies: int) -> float:
        inputs = torch.randn(20, 6, generator=generator(1)).double().repeat(copies, 1)
        targets = torch.randint(0, 3, (20,), generator=generator(2)).repeat(copies)
        torch.manual_seed(0)
        model = nn.Linear(6, 3).double()
        loss = lambda o, y: factor * functional.cross_entropy(o, y)  # noqa: E731
        return float(eigenbasis_overlap(gt.Objective(model, loss, (inputs, targets)), 3))

    assert of(7.0, 1) == pytest.approx(of(1.0, 1), abs=1e-6)
    assert of(1.0, 2) == pytest.approx(of(1.0, 1), abs=1e-6)


def test_small_and_degenerate_subjects():
    assert "only one parameter" in eigenbasis_overlap(bowl([1.0])).status.sentence
    one_example = eigenbasis_overlap(bowl([1.0, 2.0, 3.0, 4.0]))
    assert one_example.status.state is State.NOT_APPLICABLE
    assert "'covariance' has no positive eigenvalue" in one_example.status.sentence
    coupled = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).train()
    objective = gt.Objective(coupled, functional.cross_entropy, (torch.randn(8, 3), torch.arange(8) % 2))
    before = state_of(coupled)
    result = eigenbasis_overlap(objective)
    assert result.status.state is State.NOT_APPLICABLE
    assert "batch normalisation" in result.status.sentence
    assert state_of(coupled)[2:4] == before[2:4]


def test_cost_budget_and_refusals():
    objective, _ = digits()
    result = eigenbasis_overlap(objective)
    price = eigenbasis_overlap.spec.price(objective)
    assert result.cost.products == result.details["products"]
    assert 0.5 <= price.products / result.cost.products <= 2
    cut = eigenbasis_overlap(objective, budget=10)
    assert cut.cost.products <= 10
    assert cut.status.state is State.OUT_OF_BUDGET
    assert eigenbasis_overlap(objective, budget=0).status.state is State.OUT_OF_BUDGET
    with pytest.raises(InputError, match="k is 0; allowed"):
        eigenbasis_overlap(objective, 0)
    with pytest.raises(InputError, match="tol is 2; allowed"):
        eigenbasis_overlap(objective, tol=2)
    with pytest.raises(InputError, match="operator is 'kfac'"):
        eigenbasis_overlap(objective, second="kfac")
    broken = bowl([1.0, 2.0, 3.0, 4.0], [math.nan] * 4)
    assert eigenbasis_overlap(broken, second="ggn").status.state is State.NON_FINITE

"""Influence functions and susceptibilities against the exact covariances of quadratics."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import geartrain as gt
from geartrain.errors import InputError
from geartrain.records import State
from geartrain.sampling import FunctionPotential, truths
from geartrain.sampling.susceptibilities import bayesian_influence, covariances, ranked, susceptibilities

N, N_BETA, PULL = 30, 15.0, 1.0
FAST = {"chains": 32, "draws": 120, "burn_in": 80, "steps": 6}


def half(outputs, targets):
    return 0.5 * (outputs - targets).square().mean()


def regression():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(N, 2, generator=g, dtype=torch.float64)
    y = x.sum(1, keepdim=True) + 0.5 + 0.5 * torch.randn(N, 1, generator=g, dtype=torch.float64)
    wide = torch.cat([x, torch.ones(N, 1).double()], 1)
    model = nn.Linear(2, 1, dtype=torch.float64)
    found = torch.linalg.lstsq(wide, y).solution[:, 0]
    with torch.no_grad():
        model.weight.copy_(found[None, :2])
        model.bias.copy_(found[2:])
    return gt.Objective(model, half, (x, y)), wide, (wide @ found - y[:, 0])


def quadratics(wide, residual):
    """(A, g) of each example's loss around the minimum: (x.w + r)²/2."""
    return [(torch.outer(x, x), r * x) for x, r in zip(wide, residual, strict=True)]


def spread(wide):
    eye = torch.eye(wide.shape[1]).double()
    return torch.linalg.inv(N_BETA * wide.T @ wide / N + PULL * eye)


def test_influence_is_the_exact_covariance():
    objective, wide, residual = regression()
    found = bayesian_influence(objective, [0, 1, 2], [2, 3, 4, 5], n_beta=N_BETA, localisation=PULL, **FAST)
    parts, covariance = quadratics(wide, residual), spread(wide)
    truth = -np.array(
        [[truths.quadratic_covariance(covariance, parts[i], parts[j]) for j in range(2, 6)] for i in range(3)]
    )
    z = (found.value - truth) / found.standard_error
    assert np.abs(z).max() < 4.5
    assert np.abs(found.value).max() > 10 * found.standard_error.min()
    assert found.dims == ("example", "source")
    assert found.coords["source"] == [2, 3, 4, 5]
    best = ranked(found, 2, 1)[0]
    assert best[1] == found.value[2].min()


def test_correlations_have_a_diagonal_of_minus_one():
    objective, *_ = regression()
    found = bayesian_influence(objective, [0, 1], correlation=True, n_beta=N_BETA, **FAST)
    np.testing.assert_allclose(np.diag(found.value), -1.0, rtol=1e-3)
    assert np.abs(found.value).max() <= 1.001
    assert found.unit == "1"


def test_influence_of_a_block_and_of_a_potential():
    objective, wide, residual = regression()
    found = bayesian_influence(
        objective, [0], [1], n_beta=N_BETA, localisation=PULL, parameters="bias", **FAST
    )
    ones, variance = torch.ones(1, 1).double(), torch.full((1, 1), 1 / (N_BETA + PULL)).double()
    parts = [(ones, residual[i : i + 1]) for i in (0, 1)]
    truth = -truths.quadratic_covariance(variance, *parts)
    assert abs(found.value[0, 0] - truth) < 4 * found.standard_error[0, 0]

    def loss(w, rows):
        return 0.5 * (w @ wide[rows].T + residual[rows]).square()

    potential = FunctionPotential(loss, 3, N_BETA, PULL, num_examples=N)
    other = bayesian_influence(potential, [0], [1], **FAST)
    truth = -truths.quadratic_covariance(spread(wide), *quadratics(wide[:2], residual[:2]))
    assert abs(other.value[0, 0] - truth) < 4 * other.standard_error[0, 0]


def exact_susceptibility(wide, residual, block, example):
    """By the covariances and means of quadratics: the block alone, and all parameters."""
    whole = spread(wide)
    columns = wide[:, block]
    part = torch.linalg.inv(N_BETA * columns.T @ columns / N + PULL * torch.eye(len(block)).double())
    a, g = columns.T @ columns / N, columns.T @ residual / N
    ax, gx = torch.outer(columns[example], columns[example]), residual[example] * columns[example]
    offset = 0.5 * (residual[example] ** 2 - residual.square().mean())
    phi = 0.5 * torch.trace(a @ part)
    together = truths.quadratic_covariance(part, (a, g), (ax - a, gx - g))
    in_block = offset + 0.5 * torch.trace((ax - a) @ part)
    full = wide.T @ wide / N
    in_all = offset + 0.5 * torch.trace((torch.outer(wide[example], wide[example]) - full) @ whole)
    return -float(together + phi * (in_block - in_all))


def test_susceptibilities_are_exact():
    objective, wide, residual = regression()
    blocks = {"weight": "weight", "bias": "bias", "all": "*"}
    found = susceptibilities(objective, blocks, [0, 1, 5], n_beta=N_BETA, localisation=PULL, **FAST)
    columns = {"weight": [0, 1], "bias": [2], "all": [0, 1, 2]}
    truth = np.array(
        [[exact_susceptibility(wide, residual, columns[b], x) for x in (0, 1, 5)] for b in blocks]
    )
    z = (found.value - truth) / found.standard_error
    assert np.abs(z).max() < 4.5
    assert found.dims == ("block", "example")
    assert found.coords["block"] == list(blocks)


def test_errors_are_the_spread():
    """Sixty estimates of a covariance of two correlated normal numbers."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(60, 8, 50, 2, generator=g, dtype=torch.float64)
    one, other = x[..., :1], 0.5 * x[..., :1] + x[..., 1:]
    found = [covariances(a, b) for a, b in zip(one, other, strict=True)]
    values = torch.stack([v for v, _ in found])
    errors = torch.stack([e for _, e in found])
    assert abs(float(values.mean()) - 0.5) < 4 * float(values.std()) / math.sqrt(60)
    assert float(errors.square().mean().sqrt()) == pytest.approx(float(values.std()), rel=0.3)
    assert torch.isnan(covariances(one[0, :1], other[0, :1])[1]).all()


def test_budget_and_bad_options():
    objective, *_ = regression()
    none = bayesian_influence(objective, [0], budget=0, **FAST)
    assert none.status.state is State.OUT_OF_BUDGET
    assert math.isnan(float(none.value))
    assert susceptibilities(objective, {"all": "*"}, budget=0, **FAST).status.state is State.OUT_OF_BUDGET
    with pytest.raises(InputError, match="blocks is empty"):
        susceptibilities(objective, {})
    with pytest.raises(InputError, match="numbers of examples from 0 to 29"):
        bayesian_influence(objective, [30])
    with pytest.raises(InputError, match="objective is a int"):
        bayesian_influence(3)
    with pytest.raises(InputError, match="a potential is finished"):
        bayesian_influence(FunctionPotential(lambda w: w[:, 0] ** 2, 1), parameters="bias")

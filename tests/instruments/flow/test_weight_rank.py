"""Rank of weight matrices: closed forms, the law of random matrices, invariances, labels, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.made import normal, objective_of, same, state_of
from torch import nn

from geartrain.errors import InputError
from geartrain.instruments import weight_rank
from geartrain.instruments.flow import _spectra
from geartrain.objective import Objective
from geartrain.records import State


def layer(matrix: torch.Tensor) -> Objective:
    model = nn.Linear(matrix.shape[1], matrix.shape[0], bias=False).double()
    model.weight.data = matrix.double()
    return objective_of(normal(3, matrix.shape[1]), normal(3, matrix.shape[0], seed=1), model)


def turned(values: list[float], rows: int = 6, columns: int = 5) -> torch.Tensor:
    u = torch.linalg.qr(normal(rows, rows, seed=1))[0][:, : len(values)]
    v = torch.linalg.qr(normal(columns, columns, seed=2))[0][:, : len(values)]
    return u @ torch.diag(torch.tensor(values).double()) @ v.T


@pytest.mark.parametrize(
    ("values", "effective", "stable", "rank"),
    [
        ([2.0, 2.0, 2.0], 3.0, 3.0, 3),
        ([5.0], 1.0, 1.0, 1),
        ([2.0, 1.0], math.exp(math.log(3) - 2 / 3 * math.log(2)), 1.25, 2),
        ([1.0, 1e-20], 1.0, 1.0, 1),
    ],
)
def test_known_singular_values(values, effective, stable, rank):
    result = weight_rank(layer(turned(values)))
    assert result.value[0] == pytest.approx(effective, rel=1e-9)
    assert result.details["stable_rank"][0] == pytest.approx(stable, rel=1e-9)
    assert result.details["numerical_rank"][0] == rank
    assert result.details["largest"][0] == pytest.approx(values[0])
    assert result.status.state is State.EXACT
    assert result.standard_error[0] == 0


@pytest.mark.parametrize("shape", [(120, 120), (40, 160)])
def test_random_matrices_have_the_rank_of_their_law(shape):
    # The effective rank of a large random matrix hardly fluctuates; corrections are of the order of one direction.
    result = weight_rank(layer(normal(*shape, seed=3)))
    assert result.value[0] == pytest.approx(_spectra.gaussian_effective_rank(*shape), abs=1.0)
    assert result.details["of_random"][0] == pytest.approx(1, abs=0.02)
    m, n = shape
    # |A|_F² = mn and |A|² = (√m + √n)²; the latter moves by m^(1/3) or so.
    assert result.details["stable_rank"][0] == pytest.approx(
        m * n / (math.sqrt(m) + math.sqrt(n)) ** 2, rel=0.1
    )


def test_scale_rotation_and_transposition_do_not_matter():
    matrix = turned([3.0, 2.0, 0.5])
    turn = torch.linalg.qr(normal(6, 6, seed=5))[0]
    values = [float(weight_rank(layer(a)).value[0]) for a in (matrix, 9 * matrix, turn @ matrix, matrix.T)]
    np.testing.assert_allclose(values, values[0], rtol=1e-9)


def test_a_rectifier_may_be_rescaled_and_its_ranks_move():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6, bias=False), nn.ReLU(), nn.Linear(6, 2, bias=False)).double()
    objective = objective_of(normal(8, 4), normal(8, 2, seed=1), model)
    before, loss = weight_rank(objective).value, float(objective.value())
    with torch.no_grad():
        model[0].weight[0] *= 50
        model[2].weight[:, 0] /= 50
    assert float(objective.value()) == pytest.approx(loss)
    assert weight_rank(objective).value[0] < before[0] - 0.5


def test_labels_convolutions_and_vectors():
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2))
    x = torch.randn(4, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    result = weight_rank(Objective(model, nn.functional.cross_entropy, (x, torch.arange(4) % 2)))
    assert result.coords["layer"] == ["0", "3"]
    assert result.details["shape"] == {"0": (3, 18), "3": (2, 12)}
    recurrent = nn.LSTM(3, 4, batch_first=True)
    objective = Objective(
        recurrent, lambda f, y: (f[0] - y).square().mean(), (x[:, 0, :, :3], torch.zeros(4, 4, 4))
    )
    assert weight_rank(objective).coords["layer"] == ["weight_ih_l0", "weight_hh_l0"]


def test_a_restriction_measures_its_own_parameters():
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)).double()
    objective = objective_of(normal(5, 4), normal(5, 2, seed=1), model)
    assert weight_rank(objective.restrict("1.*")).coords["layer"] == ["1"]


def test_no_cost_and_no_trace():
    objective = layer(turned([1.0, 2.0]))
    before = state_of(objective.model)
    result = weight_rank(objective)
    assert same(state_of(objective.model), before)
    assert (result.cost.forwards, result.cost.gradients, result.cost.products) == (0, 0, 0)
    assert weight_rank.spec.price(objective).peak_bytes == 3 * 8 * 30


def test_where_there_is_none():
    zero = weight_rank(layer(torch.zeros(3, 2)))
    assert np.isnan(zero.value[0])
    assert "Every matrix is zero" in zero.status.sentence
    late = weight_rank(layer(turned([1.0])), budget="1e-9s")
    assert late.status.state is State.OUT_OF_BUDGET
    assert "reached 0 of 1" in late.status.sentence
    assert weight_rank(layer(turned([math.nan]))).status.state is State.NON_FINITE
    scale = nn.LayerNorm(3).double()
    none = weight_rank(objective_of(normal(4, 3), normal(4, 3, seed=1), scale))
    assert none.status.state is State.NOT_APPLICABLE
    assert "No parameter is a matrix" in none.status.sentence
    with pytest.raises(InputError, match="budget is 'soon'"):
        weight_rank(layer(turned([1.0])), budget="soon")

"""Spectrum of the tangent kernel: closed forms, and the gear that joins it to the Gauss-Newton matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.made import normal, objective_of, seeded
from torch import nn
from torch.nn import functional

import geartrain as gt
from geartrain.errors import InputError
from geartrain.instruments import ntk, ntk_spectrum
from geartrain.records import State


def network(inputs=4, outputs=3):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(inputs, 5), nn.Tanh(), nn.Linear(5, outputs)).double()


def test_a_linear_model_has_the_squared_singular_values_of_its_inputs():
    x = normal(9, 4)
    model = nn.Linear(4, 2, bias=False).double()
    found = ntk_spectrum(objective_of(x, normal(9, 2, seed=1), model))
    truth = torch.linalg.svdvals(x).numpy() ** 2 / 9
    assert np.allclose(found.value[:8], np.repeat(truth, 2), rtol=1e-12)
    assert found.details["numerical_rank"] == 8
    assert found.details["condition_number"] == np.inf
    assert found.details["condition_number_above_rounding"] == pytest.approx(truth[0] / truth[-1])


@pytest.mark.parametrize(
    ("loss", "factor"),
    [(functional.mse_loss, 2 / 3), (lambda f, y: 0.5 * ((f - y) ** 2).sum(1).mean(), 1.0)],
)
def test_its_eigenvalues_are_those_of_the_gauss_newton_matrix_of_the_squared_loss(loss, factor):
    """Three outputs: mse_loss = (1/3n) Σ|f - y|², so that its matrix is 2/3 of JᵀJ/n."""
    objective = gt.Objective(network(), loss, (normal(6, 4), normal(6, 3, seed=1)))
    matrix = objective.ggnvp(torch.eye(objective.num_params, dtype=torch.float64))
    truth = torch.linalg.eigvalsh(matrix).flip(0).numpy()[:18]
    assert np.allclose(factor * ntk_spectrum(objective).value, truth, atol=1e-12 * truth[0])


def test_effective_ranks_of_a_flat_spectrum():
    x = torch.linalg.qr(normal(8, 8))[0][:, :5] * 3
    found = ntk_spectrum(objective_of(x, normal(8, 1, seed=1), nn.Linear(5, 1, bias=False).double()))
    assert found.details["effective_rank"] == pytest.approx(5)
    assert found.details["participation_ratio"] == pytest.approx(5)
    assert found.details["trace"] == pytest.approx(9 * 5 / 8)


def test_relations():
    x, y = normal(10, 4), torch.arange(10) % 3
    one = ntk_spectrum(objective_of(x, y, network()))
    twice = ntk_spectrum(objective_of(torch.cat([x, x]), torch.cat([y, y]), network()))
    assert np.allclose(twice.value[:30], one.value, atol=1e-13)  # duplicated data: the same, and zeros
    assert np.allclose(twice.value[30:], 0, atol=1e-13)
    mean = ntk_spectrum(objective_of(x, y, network()), kind="mean")
    assert mean.value.sum() == pytest.approx(np.trace(ntk(objective_of(x, y, network())).value) / 10)


def test_rows_are_limited_and_outputs_drawn():
    objective = objective_of(normal(400, 4), torch.arange(400) % 3, network())
    assert ntk_spectrum(objective, 400).details["num_examples"] == 333
    assert len(ntk_spectrum(objective, 400, kind="mean").value) == 400
    wide = objective_of(normal(5, 4), torch.arange(5), network(outputs=70))
    found = ntk_spectrum(wide)
    assert found.status.state is State.ESTIMATE
    assert "64 of 70 outputs drawn" in found.status.sentence
    assert np.isnan(found.standard_error).all()


def test_price_and_budget():
    objective = objective_of(normal(400, 4), torch.arange(400) % 3, network())
    price, cost = ntk_spectrum.spec.price(objective), ntk_spectrum(objective, generator=seeded()).cost
    assert (price.forwards, price.gradients) == pytest.approx((cost.forwards, cost.gradients))
    assert ntk_spectrum(objective, budget=0).status.state is State.OUT_OF_BUDGET


def test_refusal():
    with pytest.raises(InputError, match="kind is 'sum'; allowed"):
        ntk_spectrum(objective_of(normal(7, 4), torch.arange(7) % 3), kind="sum")

"""Input-output Jacobian: deep linear and orthogonal networks, dense twin, the iterative path, budget, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import digamma, polygamma
from tests.made import Next, normal, objective_of, same, seeded, sequence_loss, state_of, words
from torch import nn

from geartrain.errors import InputError
from geartrain.instruments import jacobian_singular_values
from geartrain.instruments.flow._golub_kahan import bidiagonalise
from geartrain.objective import Objective
from geartrain.records import State


def deep_linear(matrices: list[torch.Tensor], examples: int = 5) -> Objective:
    layers = []
    for matrix in matrices:
        layer = nn.Linear(matrix.shape[1], matrix.shape[0], bias=False).double()
        layer.weight.data = matrix
        layers.append(layer)
    x, y = normal(examples, matrices[0].shape[1]), normal(examples, matrices[-1].shape[0], seed=1)
    return objective_of(x, y, nn.Sequential(*layers))


def network(inputs: int = 6, outputs: int = 4) -> Objective:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(inputs, 9), nn.Tanh(), nn.Linear(9, outputs)).double()
    return objective_of(normal(7, inputs), normal(7, outputs, seed=1), model)


@pytest.mark.parametrize("dense", [64, 0])
def test_a_deep_linear_network_has_those_of_its_product(dense):
    matrices = [normal(5, 4, seed=1), normal(6, 5, seed=2), normal(3, 6, seed=3)]
    result = jacobian_singular_values(deep_linear(matrices), dense=dense)
    truth = np.linalg.svd((matrices[2] @ matrices[1] @ matrices[0]).numpy(), compute_uv=False)
    np.testing.assert_allclose(result.value, truth, rtol=1e-8)
    np.testing.assert_allclose(result.standard_error, 0, atol=1e-9)
    assert result.details["condition"] == pytest.approx(truth[0] / truth[-1])
    assert result.details["rms"] == pytest.approx(np.sqrt((truth**2).mean()), rel=1e-8 if dense else 1)


@pytest.mark.parametrize("dense", [64, 0])
def test_orthogonal_layers_are_isometries(dense):
    # Gain g in each of L layers: all singular values g^L. In the iteration every step closes the Krylov space.
    turns = [1.3 * torch.linalg.qr(normal(8, 8, seed=s))[0] for s in range(4)]
    result = jacobian_singular_values(deep_linear(turns), dense=dense)
    np.testing.assert_allclose(result.value, 1.3**4, rtol=1e-10)
    assert len(result.value) == 8
    assert result.details["mean_log"] == pytest.approx(4 * math.log(1.3), rel=1e-9)
    assert result.details["isometry_defect"] == pytest.approx(0, abs=1e-9)


def test_gaussian_layers_in_closed_form():
    # ln|det| of an n x n Gaussian matrix of variance s²/n has the mean n ln s + (n/2) ln(2/n) + ½ Σ ψ(i/2) and the
    # variance ¼ Σ ψ'(i/2), i = 1 .. n.
    n, depth, scale = 6, 3, 1.5
    half = np.arange(1, n + 1) / 2
    truth = depth * (math.log(scale) + 0.5 * math.log(2 / n) + digamma(half).mean() / 2)
    sd = math.sqrt(depth * polygamma(1, half).sum() / 4) / n
    found = []
    for seed in range(40):
        layers = [scale / math.sqrt(n) * normal(n, n, seed=100 * seed + i) for i in range(depth)]
        found.append(jacobian_singular_values(deep_linear(layers, 1), examples=1).details["mean_log"])
    assert abs(np.mean(found) - truth) <= 4 * sd / math.sqrt(40)


def test_equals_the_jacobian_of_autograd():
    objective = network()
    x = objective.batches[0][0]
    dense = torch.func.vmap(torch.func.jacrev(objective.model))(x)
    truth = torch.linalg.svdvals(dense).detach().numpy()
    result = jacobian_singular_values(objective)
    np.testing.assert_allclose(result.details["per_example"], truth, rtol=1e-10)
    np.testing.assert_allclose(result.value, truth.mean(0), rtol=1e-10)
    np.testing.assert_allclose(result.standard_error, truth.std(0, ddof=1) / math.sqrt(7), rtol=1e-9)
    logs = np.log(truth).mean(1)
    assert result.details["mean_log"] == pytest.approx(logs.mean())
    assert result.details["mean_log_error"] == pytest.approx(logs.std(ddof=1) / math.sqrt(7))


@pytest.mark.parametrize("shape", [(3, 8), (8, 3)])
def test_wide_and_tall(shape):
    objective = network(*shape)
    dense = torch.func.vmap(torch.func.jacrev(objective.model))(objective.batches[0][0])
    truth = torch.linalg.svdvals(dense).detach().numpy()
    for limit in (64, 0):
        result = jacobian_singular_values(objective, dense=limit)
        np.testing.assert_allclose(result.details["per_example"], truth, rtol=1e-7)
        assert result.details["method"] == ("dense" if limit else "golub-kahan")


def test_the_iteration_on_a_larger_map():
    # 20 of 60 dimensions: the largest value by its residual, the mean logarithm by quadrature over the examples.
    spectrum = torch.linspace(0.5, 3.0, 60).double()
    u, v = (torch.linalg.qr(normal(60, 60, seed=s))[0] for s in (1, 2))
    objective = deep_linear([u @ torch.diag(spectrum) @ v.T], examples=64)
    result = jacobian_singular_values(objective, dense=0)
    assert len(result.value) == 20
    top = result.details["per_example"][:, 0]
    assert np.all(top <= 3.0 + 1e-9)
    # |σ - σ̂| is at most the residual of the pair.
    assert np.all(3.0 - top <= 3.0 * 0.2)
    assert result.details["residuals"][0] < 0.05
    error = result.details["mean_log_error"]
    assert abs(result.details["mean_log"] - float(spectrum.log().mean())) <= 4 * error
    assert result.details["rms"] == pytest.approx(float(spectrum.square().mean().sqrt()), rel=0.05)


def test_residuals_are_what_they_say():
    matrix = normal(1, 12, 9, seed=3)[0]
    found = bidiagonalise(lambda v: v @ matrix.T, lambda u: u @ matrix, normal(2, 9, seed=4), 5, seeded())
    truth = np.linalg.svd(matrix.numpy(), compute_uv=False)
    for values, residuals in zip(found.values, found.residuals, strict=True):
        gap = np.abs(values[:, None] - truth).min(1)
        assert np.all(gap <= residuals + 1e-10)
    np.testing.assert_allclose(found.weights.sum(1), 1)


def test_quadrature_is_unbiased_over_start_vectors():
    # 200 maps at once: the mean of vᵀ ln(AᵀA)^½ v over random v is the mean logarithm, and its error covers it.
    spectrum = torch.linspace(0.2, 2.0, 6).double()
    found = bidiagonalise(lambda v: v * spectrum, lambda u: u * spectrum, normal(200, 6, seed=5), 6, seeded())
    each = (found.weights * np.log(found.values)).sum(1)
    truth = float(spectrum.log().mean())
    assert abs(each.mean() - truth) <= 4 * each.std(ddof=1) / math.sqrt(200)


def test_rectifiers_that_are_off():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU(inplace=True)).double()
    model[0].weight.data = torch.eye(4).double()
    x = torch.tensor([[1.0, 1.0, -1.0, -1.0], [1.0, -1.0, -1.0, -1.0]]).double()
    result = jacobian_singular_values(Objective(model, nn.functional.mse_loss, (x, x)))
    np.testing.assert_allclose(result.value, [1, 0.5, 0, 0])
    assert result.details["zero_share"] == pytest.approx(5 / 8)
    assert result.details["mean_log"] == pytest.approx(0)
    assert result.details["rms"] == pytest.approx(math.sqrt(3 / 8))


def test_input_units_and_output_rotations():
    objective = network()
    (x, y), model = objective.batches[0], objective.model
    scaled = nn.Sequential(nn.Linear(6, 6, bias=False).double(), model)
    scaled[0].weight.data = 0.1 * torch.eye(6).double()
    other = Objective(scaled, nn.functional.mse_loss, (10 * x, y))
    np.testing.assert_allclose(
        jacobian_singular_values(other).value, 0.1 * jacobian_singular_values(objective).value, rtol=1e-9
    )
    turned = nn.Sequential(model, nn.Linear(4, 4, bias=False).double())
    turned[1].weight.data = torch.linalg.qr(normal(4, 4, seed=8))[0]
    np.testing.assert_allclose(
        jacobian_singular_values(Objective(turned, nn.functional.mse_loss, (x, y))).value,
        jacobian_singular_values(objective).value,
        rtol=1e-9,
    )


def test_images_cost_and_trace():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(32, 3)).double()
    objective = Objective(
        model, nn.functional.cross_entropy, (normal(10, 1, 6, 6), torch.arange(10) % 3), training=False
    )
    before = state_of(model)
    result = jacobian_singular_values(objective, examples=5)
    assert result.details["examples"] == 5
    assert same(state_of(model), before)
    assert (result.details["outputs"], result.details["inputs"]) == (3, 36)
    assert result.cost.gradients == pytest.approx(1.5)
    price = jacobian_singular_values.spec.price(objective, examples=5)
    assert price.gradients == pytest.approx(1.5)
    assert result.cost.forwards == price.forwards == pytest.approx(0.5)
    same_draw = [
        jacobian_singular_values(objective, examples=5, generator=seeded(s)).value for s in (1, 1, 2)
    ]
    assert same(same_draw[0], same_draw[1])
    assert not same(same_draw[0], same_draw[2])


def test_budget():
    objective = network()
    assert jacobian_singular_values(objective, budget=0).status.state is State.OUT_OF_BUDGET
    assert jacobian_singular_values(objective, budget=1).status.state is State.OUT_OF_BUDGET
    cut = jacobian_singular_values(objective, budget=3)  # four products would build it
    assert cut.status.state is State.OUT_OF_BUDGET
    assert len(cut.value) == 1
    assert cut.cost.gradients <= 3
    late = jacobian_singular_values(objective, budget="1e-9s")
    assert "allows no product" in late.status.sentence


def test_where_there_is_none():
    tokens = jacobian_singular_values(Objective(Next(), sequence_loss, words()))
    assert tokens.status.state is State.NOT_APPLICABLE
    assert "tokens have no derivative" in tokens.status.sentence
    hidden = jacobian_singular_values(
        Objective(nn.Linear(2, 1), batch_loss=lambda m, b: m(b).mean(), data=[torch.ones(3, 2)])
    )
    assert "batch_loss(model, batch) hides" in hidden.status.sentence
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()
    coupled = jacobian_singular_values(objective_of(normal(9, 3), normal(9, 4), model, training=True))
    assert "training=False" in coupled.status.sentence
    broken = network()
    broken.model[0].weight.data[0, 0] = math.nan
    assert jacobian_singular_values(broken).status.state is State.NON_FINITE
    with pytest.raises(InputError, match="examples is 0 and dense 64"):
        jacobian_singular_values(network(), examples=0)

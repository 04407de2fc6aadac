"""Eigenvalues of the Hessian: known curvature, relations, cost, budgets and sentences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.bowls import bowl, generator

import geartrain as gt
from geartrain.errors import InputError
from geartrain.instruments import hessian_spectrum
from geartrain.records import State


def network(seed=0, dtype=torch.float64):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).to(dtype)
        data = torch.randn(20, 3).to(dtype), torch.randint(0, 2, (20,))
    return gt.Objective(model, torch.nn.functional.cross_entropy, data)


def dense(objective, product="hvp"):
    eye = torch.eye(objective.num_params, dtype=objective.dtype)
    return getattr(objective, product)(eye).numpy()


def test_bowl_with_known_curvature():
    values = np.concatenate([[-3.0, -1.0], np.linspace(-0.1, 1, 100), [4.0, 5.0, 50.0]])
    result = hessian_spectrum(bowl(values), 3, num_smallest=2, tol=1e-6, generator=generator())
    np.testing.assert_allclose(result.value, [50, 5, 4], rtol=1e-9)
    np.testing.assert_allclose(result.details["smallest"], [-3, -1], rtol=1e-9)
    assert result.details["num_negative_at_least"] >= 2
    assert result.status.state is State.CONVERGED
    assert (result.dims, result.unit) == (("eig",), "ℓ/θ²")
    assert (result.standard_error <= 1e-6 * 50).all()
    assert "an eigenvalue lies that close" in result.status.sentence


@pytest.mark.parametrize(
    ("operator", "product"), [("hessian", "hvp"), ("ggn", "ggnvp"), ("covariance", "covariance_vp")]
)
def test_dense_twin(operator, product):
    objective = network()
    truth = np.linalg.eigvalsh(dense(objective, product))
    result = hessian_spectrum(objective, 4, num_smallest=2, tol=1e-9, operator=operator, eigenvectors=True)
    np.testing.assert_allclose(result.value, truth[::-1][:4], rtol=1e-9)
    # Singular matrices: a cluster of zeros, each known to its residual.
    np.testing.assert_allclose(result.details["smallest"], truth[:2], atol=1e-9 * truth[-1] * 100)
    assert result.unit == ("ℓ²/θ²" if operator == "covariance" else "ℓ/θ²")
    vectors = result.details["eigenvectors"]
    matrix = dense(objective, product)
    assert np.abs(vectors @ matrix - result.value[:, None] * vectors).max() < 1e-8


def test_scaling_the_loss_scales_the_values():
    one = hessian_spectrum(bowl([1.0, 2.0, 3.0]), 2).value
    np.testing.assert_allclose(
        hessian_spectrum(bowl([1.0, 2.0, 3.0], factor=7.0), 2).value, 7 * one, rtol=1e-12
    )


def test_a_negative_value_needs_no_convergence_to_prove_a_saddle():
    result = hessian_spectrum(bowl(np.linspace(-1, 1, 400)), 5, budget=8)
    assert result.status.state is State.OUT_OF_BUDGET
    assert 0 < result.details["num_negative_at_least"] <= 200


def test_everything_is_exact():
    result = hessian_spectrum(bowl([1.0, 2.0, 3.0]), 10)
    np.testing.assert_allclose(result.value, [3, 2, 1], rtol=1e-12)
    assert result.status.state is State.EXACT
    assert hessian_spectrum(bowl([2.0]), 1).value == pytest.approx([2])


def test_copies_are_found():
    values = np.concatenate([[10.0, 10.0, 10.0, 5.0], np.linspace(0, 1, 200)])
    result = hessian_spectrum(bowl(values), 4, num_smallest=0, confirm=True)
    np.testing.assert_allclose(result.value, [10, 10, 10, 5], atol=1e-2)


def test_cost_is_the_products_taken():
    objective = bowl(np.concatenate([np.geomspace(1e-3, 1, 500), [5, 10, 20]]))
    result = hessian_spectrum(objective, 3, num_smallest=0)
    assert result.cost.products == result.details["products"] < 25
    assert result.cost.gradients == 1
    assert result.cost.peak_bytes >= result.details["products"] * 503 * 8
    price = hessian_spectrum.spec.price(objective, 3, num_smallest=0)
    assert 0.3 < price.products / result.cost.products < 3
    assert hessian_spectrum.spec.price(objective, budget=5).products == 5


def test_budgets():
    objective = bowl(np.geomspace(1e-3, 1, 300))
    result = hessian_spectrum(objective, 10, budget=4)
    assert result.cost.products == 4
    assert result.status.state is State.OUT_OF_BUDGET
    assert np.isnan(result.value[4:]).all()
    assert not np.isnan(result.value[:4]).any()
    assert "after 4 products" in result.status.sentence
    assert np.isnan(hessian_spectrum(objective, 2, budget=0).value).all()
    assert hessian_spectrum(objective, 10, tol=1e-12, budget="1ms").status.state is State.OUT_OF_BUDGET


def test_same_generator_same_bits():
    objective = network()
    first, second = (hessian_spectrum(objective, 3, generator=generator(4)).value for _ in range(2))
    assert np.array_equal(first, second)


def test_a_loss_that_changes_is_called_out():
    class Noisy:
        num_params, dtype, device = 60, torch.float64, torch.device("cpu")
        source = generator(1)

        def hvp(self, v):
            return (
                torch.linspace(0, 1, 60).double() * v + 0.05 * torch.randn(60, generator=self.source).double()
            )

    result = hessian_spectrum(Noisy(), 3)
    assert result.status.state is State.NOT_CONVERGED
    assert "not those of one symmetric matrix" in result.status.sentence


def test_not_finite():
    class Broken:
        num_params, dtype, device = 5, torch.float64, torch.device("cpu")

        def hvp(self, v):
            return v * float("nan")

    result = hessian_spectrum(Broken(), 3)
    assert result.status.state is State.NON_FINITE
    assert "NaN or infinity" in result.status.sentence
    assert result.value.shape == (3,)


def test_float32_network():
    value = hessian_spectrum(network(dtype=torch.float32), 3).value
    np.testing.assert_allclose(value, hessian_spectrum(network(), 3).value, rtol=1e-2)


def test_refusals():
    with pytest.raises(InputError, match=r"operator is 'kfac'; allowed: 'hessian', 'ggn', 'fisher'"):
        hessian_spectrum(bowl([1.0]), operator="kfac")
    with pytest.raises(InputError, match="tol is 2; allowed"):
        hessian_spectrum(bowl([1.0]), tol=2)

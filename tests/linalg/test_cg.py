"""Conjugate gradients: solutions, the theory's bound at every step, negative curvature, budgets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.bowls import generator

from geartrain.errors import InputError, NonFiniteError
from geartrain.linalg import Stop, conjugate_gradient


def diag(values):
    values = torch.as_tensor(np.asarray(values, dtype=float))
    return lambda v: values.to(v.dtype) * v


@pytest.mark.parametrize("kappa", [1.0, 10.0, 1e4])
def test_energy_error_stays_under_the_bound_at_every_step(kappa):
    values = np.geomspace(1 / kappa, 1, 300)
    truth = torch.randn(300, generator=generator()).double().numpy()
    result = conjugate_gradient(diag(values), torch.as_tensor(values * truth), tol=1e-8)
    assert result.stop is Stop.CONVERGED
    whole = 0.5 * (values * truth**2).sum()
    # ½‖x - x*‖_A² is what of the decrease is still missing.
    energy = np.sqrt(np.maximum(whole - result.decreases, 0) / whole)
    rate = (np.sqrt(kappa) - 1) / (np.sqrt(kappa) + 1)
    bound = 2 * rate ** np.arange(len(energy), dtype=float)
    assert (energy <= bound + 1e-7).all()
    np.testing.assert_allclose(result.solution.numpy(), truth, atol=1e-6 * kappa)


def test_as_many_steps_as_distinct_eigenvalues():
    result = conjugate_gradient(
        diag([1.0] * 50 + [7.0] * 50 + [30.0] * 50), torch.ones(150).double(), tol=1e-12
    )
    assert result.num_steps == result.num_products == 3


def test_history_is_the_true_history():
    values = np.linspace(1, 20, 40)
    b = torch.randn(40, generator=generator(1)).double()
    result = conjugate_gradient(diag(values), b, tol=0.0, max_iterations=12)
    x, matvec = result.solution, diag(values)
    assert result.stop is Stop.STEPS_DONE
    assert result.residual_norms[-1] == pytest.approx(float((b - matvec(x)).norm()), rel=1e-9)
    assert result.decreases[-1] == pytest.approx(float(b @ x - 0.5 * x @ matvec(x)), rel=1e-12)
    assert (np.diff(result.decreases) >= 0).all()
    assert len(result.curvatures) == result.num_steps
    assert ((result.curvatures >= 1) & (result.curvatures <= 20)).all()


def test_negative_curvature_is_handed_back():
    matvec = diag([3.0, 2.0, -1.0])
    result = conjugate_gradient(matvec, torch.ones(3).double())
    assert result.stop is Stop.NEGATIVE_CURVATURE
    p = result.negative_direction
    assert float(p.norm()) == pytest.approx(1)
    assert float(p @ matvec(p)) == pytest.approx(result.curvatures[-1])
    assert result.curvatures[-1] <= 0


def test_damping_makes_it_positive():
    result = conjugate_gradient(diag([3.0, 2.0, -1.0]), torch.ones(3).double(), damping=2.0, tol=1e-12)
    np.testing.assert_allclose(result.solution.numpy(), [1 / 5, 1 / 4, 1], rtol=1e-10)


def test_zero_curvature_counts_as_not_positive():
    assert conjugate_gradient(torch.zeros_like, torch.ones(3).double()).stop is Stop.NEGATIVE_CURVATURE


def test_start_elsewhere_and_zero_right_hand_side():
    result = conjugate_gradient(diag([2.0, 4.0]), torch.tensor([2.0, 4.0]).double(), x0=torch.ones(2))
    assert (result.num_products, result.num_steps, result.stop) == (1, 0, Stop.CONVERGED)
    assert not conjugate_gradient(diag([2.0, 4.0]), torch.zeros(2).double()).solution.any()


def test_scaling():
    values, b = np.geomspace(0.1, 1, 30), torch.randn(30, generator=generator(2)).double()
    one = conjugate_gradient(diag(values), b, tol=1e-8)
    other = conjugate_gradient(diag(5 * values), b, tol=1e-8)
    np.testing.assert_allclose(one.solution, 5 * other.solution, atol=1e-6)
    assert one.num_steps == other.num_steps


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"max_products": 4}, Stop.OUT_OF_PRODUCTS), ({"should_stop": lambda: True}, Stop.INTERRUPTED)],
)
def test_budget(options, reason):
    result = conjugate_gradient(diag(np.geomspace(1e-3, 1, 50)), torch.ones(50).double(), **options)
    assert result.stop is reason
    assert result.num_products == options.get("max_products", 0)
    assert len(result.residual_norms) == result.num_steps + 1


def test_refusals():
    one = torch.ones(2).double()
    with pytest.raises(InputError, match=r"b has shape \(2, 2\); allowed: one finite vector"):
        conjugate_gradient(lambda v: v, torch.ones(2, 2))
    with pytest.raises(InputError, match=r"tol is 1 and damping 0.0; allowed"):
        conjugate_gradient(lambda v: v, one, tol=1)
    with pytest.raises(InputError, match=r"max_iterations is -1; allowed: 0 or more"):
        conjugate_gradient(lambda v: v, one, max_iterations=-1)
    with pytest.raises(NonFiniteError, match="NaN or infinity"):
        conjugate_gradient(lambda v: v * float("inf"), one)

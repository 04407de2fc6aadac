"""The network on which published tools were found wrong: 1,210 parameters, dense Hessian as truth."""

from __future__ import annotations

import numpy as np
import pytest
from tests.bowls import digits, generator

from geartrain.instruments import effective_condition_number, hessian_density, hessian_spectrum, hessian_trace
from geartrain.instruments.curvature.effective_condition_number import effective_condition
from geartrain.linalg import lanczos, lanczos_ritz
from geartrain.records import State


@pytest.fixture(scope="module")
def truth():
    objective, hessian = digits()
    assert objective.num_params == 1210
    return objective, np.linalg.eigvalsh(hessian)


def test_forty_eigenvalues_to_a_millionth(truth):
    objective, eigenvalues = truth
    result = hessian_spectrum(objective, 40, num_smallest=5, tol=1e-6, generator=generator())
    assert result.status.state is State.CONVERGED
    np.testing.assert_allclose(result.value, eigenvalues[::-1][:40], rtol=1e-6)
    np.testing.assert_allclose(result.details["smallest"], eigenvalues[:5], rtol=1e-5)
    assert result.cost.products < 130


def test_ten_eigenvalues_cheaply(truth):
    objective, eigenvalues = truth
    result = hessian_spectrum(objective, 10, num_smallest=0, generator=generator())
    np.testing.assert_allclose(result.value, eigenvalues[::-1][:10], rtol=1e-3)
    assert result.cost.products <= 30


def test_no_ghosts_at_three_hundred_steps(truth):
    objective, eigenvalues = truth
    state, _ = lanczos(objective.hvp, 1210, 300, generator=generator())
    ritz = lanczos_ritz(state)
    settled = ritz.values[ritz.residuals < 1e-9][::-1]
    assert len(settled) > 60
    np.testing.assert_allclose(settled[:60], eigenvalues[::-1][:60], rtol=1e-8)


def test_every_residual_bound_holds(truth):
    objective, eigenvalues = truth
    result = hessian_spectrum(objective, 20, tol=1e-2, generator=generator(1))
    distance = np.abs(result.value[:, None] - eigenvalues[None]).min(axis=1)
    assert (distance <= result.standard_error).all()


@pytest.mark.parametrize("seed", range(3))
def test_trace_within_its_error_and_half_a_percent(truth, seed):
    objective, eigenvalues = truth
    result = hessian_trace(objective, 100, generator=generator(seed))
    assert abs(float(result) - eigenvalues.sum()) <= 3 * result.standard_error
    assert float(result) == pytest.approx(eigenvalues.sum(), rel=0.01)


@pytest.mark.parametrize("seed", range(3))
def test_negative_share_is_not_underestimated(truth, seed):
    """Plain quadratures see 40 to 60 % of it: one node near zero stands for hundreds of eigenvalues."""
    objective, eigenvalues = truth
    details = hessian_density(objective, generator=generator(seed)).details
    share = (eigenvalues < details["negative_threshold"]).mean()
    assert abs(details["negative_mass"] - share) <= 0.015
    assert abs(details["negative_mass"] - share) <= 2 * details["negative_mass_error"]
    lower, upper = details["negative_mass_bracket"]
    assert lower - 0.012 <= share <= upper + 0.012


def test_effective_condition_number(truth):
    objective, _ = truth
    values, vectors = np.linalg.eigh(digits()[1])
    expected, _ = effective_condition(values, vectors.T @ objective.gradient().numpy())
    result = effective_condition_number(objective)
    assert abs(float(result) - expected) <= 2 * result.standard_error
    assert float(result) == pytest.approx(expected, rel=0.1)

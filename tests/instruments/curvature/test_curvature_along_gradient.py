"""Curvature along the gradient: parabolas, the Cauchy step, an eigenvector, cost and sentences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.bowls import bowl, digits

from geartrain.errors import InputError
from geartrain.instruments import curvature_along_gradient
from geartrain.records import State

VALUES, POINT = np.array([4.0, 1.0, -0.5]), np.array([1.0, 2.0, 3.0])


def test_on_a_parabola():
    gradient = VALUES * POINT
    result = curvature_along_gradient(bowl(VALUES, POINT))
    assert float(result) == pytest.approx((VALUES * gradient**2).sum() / (gradient**2).sum())
    assert result.status.state is State.EXACT
    assert result.cost.gradients == 2
    assert result.cost.products == 1
    assert result.details["gradient_norm"] == pytest.approx(np.linalg.norm(gradient))


def test_the_best_step_is_the_best():
    objective = bowl([4.0, 1.0], [1.0, 2.0])
    result = curvature_along_gradient(objective)
    here, gradient = objective.parameters(), objective.gradient()
    gains = [
        float(objective.value(here) - objective.value(here - t * result.details["best_step"] * gradient))
        for t in (0.9, 1.0, 1.1, 2.0)
    ]
    assert gains[1] == max(gains)
    assert gains[1] == pytest.approx(result.details["best_gain"])
    assert gains[3] == pytest.approx(0, abs=1e-12)  # twice the step gains nothing


def test_an_eigenvector_has_no_residual():
    result = curvature_along_gradient(bowl([4.0, 1.0], [0.0, 2.0]))
    assert float(result) == pytest.approx(1.0)
    assert result.details["residual"] == pytest.approx(0, abs=1e-12)
    assert result.details["alignment"] == pytest.approx(1)


def test_the_dense_twin_and_the_residual_bound():
    objective, hessian = digits()
    g = objective.gradient().numpy()
    result = curvature_along_gradient(objective)
    assert float(result) == pytest.approx(g @ hessian @ g / (g @ g), rel=1e-9)
    eigenvalues = np.linalg.eigvalsh(hessian)
    assert np.abs(eigenvalues - float(result)).min() <= result.details["residual"]


def test_scaling_and_reparametrising():
    one, seven = (float(curvature_along_gradient(bowl(VALUES, POINT, factor=f))) for f in (1.0, 7.0))
    assert seven == pytest.approx(7 * one)
    tiny = bowl(VALUES, 1e-25 * POINT, dtype=torch.float32)
    assert float(curvature_along_gradient(tiny)) == pytest.approx(one, rel=1e-4)


def test_downhill_curvature_has_no_best_step():
    result = curvature_along_gradient(bowl([-1.0, 1.0], [3.0, 0.1]))
    assert float(result) < 0
    assert math.isinf(result.details["best_step"])
    assert "downwards" in result.status.sentence


def test_endings():
    still = curvature_along_gradient(bowl([1.0], [0.0]))
    assert still.status.state is State.NOT_APPLICABLE
    assert "gradient is zero" in still.status.sentence
    assert curvature_along_gradient(bowl([1.0]), budget=0).status.state is State.OUT_OF_BUDGET
    assert curvature_along_gradient(bowl([1.0], [math.nan])).status.state is State.NON_FINITE
    with pytest.raises(InputError, match="operator is 'kfac'"):
        curvature_along_gradient(bowl([1.0]), operator="kfac")

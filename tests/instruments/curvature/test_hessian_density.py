"""Spectral density and negative share: known spectra, honest brackets, budgets and sentences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binom
from tests.bowls import bowl, generator

from geartrain.errors import InputError
from geartrain.instruments import hessian_density, hessian_spectrum, hessian_trace
from geartrain.records import State

SPECTRUM = np.concatenate([np.linspace(-0.5, -0.02, 150), np.linspace(0.01, 1, 840), np.linspace(3, 10, 10)])


def smooth(grid, values, width):
    standard = (grid[:, None] - values[None]) / width
    return np.exp(-0.5 * standard**2).mean(axis=1) / (width * np.sqrt(2 * np.pi))


def test_small_spectra_are_exact():
    result = hessian_density(bowl([-1.0, 0.5, 2.0, 2.0]), grid=np.linspace(-2, 3, 30), kernel_width=0.2)
    assert result.status.state is State.EXACT
    truth = smooth(np.linspace(-2, 3, 30), np.array([-1, 0.5, 2, 2]), 0.2)
    np.testing.assert_allclose(result.value, truth, atol=1e-12)
    assert result.details["negative_mass"] == 0.25
    assert result.details["positive_mass"] == 0.75


def test_density_of_a_thousand_eigenvalues():
    grid = np.linspace(-1, 11, 200)
    result = hessian_density(bowl(SPECTRUM), num_steps=60, grid=grid, kernel_width=0.1, generator=generator())
    truth = smooth(grid, SPECTRUM, 0.1)
    assert result.status.state is State.ESTIMATE
    assert (np.abs(result.value - truth) <= 4 * result.standard_error + 1e-3 * truth.max()).all()
    assert np.array_equal(result.coords["eigenvalue"], grid)
    assert result.unit == "θ²/ℓ"
    np.testing.assert_allclose(result.details["eigenvalues"][:3], [10, 10 - 7 / 9, 10 - 14 / 9], rtol=1e-6)


def test_negative_share_and_its_bracket():
    details = hessian_density(bowl(SPECTRUM), generator=generator()).details
    lower, upper = details["negative_mass_bracket"]
    assert details["negative_threshold"] == pytest.approx(-1e-3)
    assert abs(details["negative_mass"] - 0.15) <= 2 * details["negative_mass_error"]
    assert details["negative_mass_error"] < 0.02
    assert lower <= details["negative_mass"] <= upper
    total = details["negative_mass"] + details["near_zero_mass"] + details["positive_mass"]
    assert total == pytest.approx(1)


def test_the_share_covers_over_seeds():
    objective = bowl(SPECTRUM)
    covered = 0
    for seed in range(40):
        details = hessian_density(objective, num_probes=2, num_steps=30, generator=generator(seed)).details
        covered += abs(details["negative_mass"] - 0.15) <= 2 * details["negative_mass_error"]
    assert covered >= binom.ppf(0.001, 40, 0.95)


def test_gears_that_must_agree():
    """The same nodes give the trace and the extremes: three instruments, one spectrum."""
    objective = bowl(SPECTRUM)
    details = hessian_density(objective, generator=generator()).details
    moment = objective.num_params * float(details["nodes"] @ details["weights"])
    trace = hessian_trace(objective, generator=generator())
    assert details["weights"].sum() == pytest.approx(1)
    assert abs(moment - float(trace)) < 6 * float(trace.standard_error) + 0.02 * abs(float(trace))
    top = hessian_spectrum(objective, 3, tol=1e-6)
    np.testing.assert_allclose(details["eigenvalues"][:3], top.value, rtol=1e-5)


def test_scaling_the_loss_scales_the_axis():
    small, large = (hessian_density(bowl([-1.0, 1.0, 3.0], factor=f)) for f in (1.0, 5.0))
    np.testing.assert_allclose(large.coords["eigenvalue"], 5 * small.coords["eigenvalue"], rtol=1e-9)
    np.testing.assert_allclose(5 * large.value, small.value, rtol=1e-9)


def test_one_point_spectrum_still_has_a_picture():
    result = hessian_density(bowl([2.0, 2.0]))
    assert np.isfinite(result.value).all()
    assert np.trapezoid(result.value, result.coords["eigenvalue"]) == pytest.approx(1, abs=1e-3)
    assert np.isfinite(hessian_density(bowl([0.0, 0.0])).value).all()


def test_cost_and_budget():
    objective = bowl(SPECTRUM)
    result = hessian_density(objective, num_probes=2, num_steps=20)
    assert result.cost.products == result.details["products"] == 60
    assert hessian_density.spec.price(objective, num_probes=2, num_steps=20).products == 60
    cut = hessian_density(objective, num_probes=2, num_steps=20, budget=45)
    assert cut.cost.products <= 45
    assert cut.status.state is State.OUT_OF_BUDGET
    assert "1 probe in" in cut.status.sentence
    nothing = hessian_density(objective, budget=0)
    assert nothing.status.state is State.OUT_OF_BUDGET
    assert np.isnan(nothing.value).all()


def test_operators():
    assert hessian_density(bowl([1.0, 2.0]), operator="ggn").details["negative_mass"] == 0
    assert hessian_density(bowl([1.0, 2.0]), operator="covariance").unit == "θ²/ℓ²"


def test_not_finite():
    class Broken:
        num_params, dtype, device = 5, torch.float64, torch.device("cpu")

        def hvp(self, v):
            return v * float("inf")

    result = hessian_density(Broken(), grid=7)
    assert result.status.state is State.NON_FINITE
    assert result.value.shape == (7,)


def test_refusals():
    with pytest.raises(InputError, match="grid is 1; allowed: at least 2 points"):
        hessian_density(bowl([1.0]), grid=1)
    with pytest.raises(InputError, match="kernel_width is 0; allowed: a positive number"):
        hessian_density(bowl([1.0]), kernel_width=0)
    with pytest.raises(InputError, match="negative_tol is 1; allowed: 0 or more and below 1"):
        hessian_density(bowl([1.0]), negative_tol=1)

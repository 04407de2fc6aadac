"""Gears that must turn together: identities between instruments that were computed by different routes."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from tests.bowls import generator
from torch import nn
from torch.nn import functional

import geartrain as gt
from geartrain import instruments as I
from geartrain.instruments._curvature import UNITS


@functools.cache
def network(activation: str = "Tanh", kind: str = "classes") -> gt.Objective:
    """A small trained-ish network with every layer away from symmetry, 113 to 122 parameters."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        outputs = 3 if kind == "classes" else 2
        layers = [nn.Linear(5, 8), getattr(nn, activation)(), nn.Linear(8, 5), getattr(nn, activation)()]
        model = nn.Sequential(*layers, nn.Linear(5, outputs)).double()
        inputs = torch.randn(50, 5).double()
        labels = torch.randint(0, 3, (50,)) if kind == "classes" else torch.randn(50, 2).double()
    loss = functional.cross_entropy if kind == "classes" else functional.mse_loss
    return gt.Objective(model, loss, (inputs, labels))


SUBJECTS = [("Tanh", "classes"), ("ReLU", "classes"), ("Tanh", "values")]
subjects = pytest.mark.parametrize(
    "subject", [network(*s) for s in SUBJECTS], ids=["-".join(s) for s in SUBJECTS]
)
operators = pytest.mark.parametrize("operator", list(UNITS))


def all_eigenvalues(objective: gt.Objective, operator: str = "hessian") -> np.ndarray:
    return I.hessian_spectrum(objective, objective.num_params, num_smallest=0, operator=operator).value  # type: ignore[arg-type]


@subjects
@operators
def test_the_trace_is_the_sum_of_the_eigenvalues_and_of_the_diagonal(subject, operator):
    values = all_eigenvalues(subject, operator)
    diagonal = I.hessian_diagonal(subject, 10**4, operator=operator, generator=generator(1))
    # What is drawn at random is drawn anew by each instrument, but for fisher_mc the draw is part of the matrix.
    if operator == "fisher_mc":
        values = I.hessian_spectrum(
            subject, subject.num_params, num_smallest=0, operator=operator, generator=generator(1)
        ).value
    assert diagonal.value.sum() == pytest.approx(values.sum(), rel=1e-9)
    assert diagonal.details["trace"] == pytest.approx(values.sum(), rel=1e-9)
    assert subject.num_params * diagonal.value.mean() == pytest.approx(values.sum(), rel=1e-9)
    # The largest diagonal entry is a Rayleigh quotient.
    assert values[-1] - 1e-12 <= diagonal.value.min() <= diagonal.value.max() <= values[0] * (1 + 1e-9)


@subjects
@operators
def test_the_trace_instrument_agrees_within_its_error(subject, operator):
    result = I.hessian_trace(subject, 40, operator=operator, generator=generator(2))
    if operator == "fisher_mc":
        # Its matrix is one draw; over draws the trace has the exact one as its mean.
        draws = [
            I.hessian_trace(subject, 10**4, operator=operator, generator=generator(s)) for s in range(12)
        ]
        values = np.array([float(d) for d in draws])
        exact, error = all_eigenvalues(subject, "fisher").sum(), values.std(ddof=1)
        assert abs(values.mean() - exact) <= 4 * error / 12**0.5
        assert abs(float(result) - exact) <= 5 * error
    else:
        exact = all_eigenvalues(subject, operator).sum()
        assert abs(float(result) - exact) <= 5 * result.standard_error + 1e-9 * abs(exact)


@subjects
def test_the_mean_of_the_density_is_the_mean_eigenvalue(subject):
    density = I.hessian_density(subject)
    grid = density.coords["eigenvalue"]
    mean = np.trapezoid(density.value * grid, grid)
    spectrum = all_eigenvalues(subject)
    # The kernel is symmetric; the grid ends four widths beyond the spectrum and has 256 points.
    assert mean == pytest.approx(spectrum.mean(), abs=1e-3 * np.abs(spectrum).max())
    nodes, weights = density.details["nodes"], density.details["weights"]
    assert nodes @ weights == pytest.approx(spectrum.mean(), rel=1e-9)
    assert density.details["negative_mass"] == pytest.approx(
        (spectrum < density.details["negative_threshold"]).mean()
    )


@subjects
def test_curvature_that_is_a_mean_of_squares_is_never_negative(subject):
    for operator in ("ggn", "fisher", "fisher_mc", "empirical_fisher", "covariance"):
        values = all_eigenvalues(subject, operator)
        assert values[-1] >= -1e-12 * values[0]


@subjects
def test_the_fisher_matrix_is_the_gauss_newton_matrix_of_these_losses(subject):
    np.testing.assert_allclose(
        all_eigenvalues(subject, "fisher"), all_eigenvalues(subject, "ggn"), atol=1e-12
    )


def test_piecewise_linear_networks_bend_by_gauss_newton_in_every_diagonal_entry():
    """Their own second derivatives couple different layers only: no diagonal entry, no trace of a layer."""
    subject = network("ReLU")
    hessian, ggn = (I.hessian_diagonal(subject, 10**4, operator=o).value for o in ("hessian", "ggn"))
    np.testing.assert_allclose(hessian, ggn, atol=1e-12)
    smooth = network("Tanh")
    hessian, ggn = (I.hessian_diagonal(smooth, 10**4, operator=o).value for o in ("hessian", "ggn"))
    assert np.abs(hessian - ggn).max() > 1e-3


@subjects
def test_second_moments_of_the_gradients(subject):
    norms, mean = subject.per_example_gradient_norms(), subject.gradient()
    second = float((norms**2).mean())
    uncentred, centred = (all_eigenvalues(subject, o).sum() for o in ("empirical_fisher", "covariance"))
    assert uncentred == pytest.approx(second, rel=1e-9)
    assert centred == pytest.approx(second - float(mean @ mean), rel=1e-9)
    # Taking out g gᵀ moves every eigenvalue down, and none past the next (Weyl, Cauchy).
    with_mean, without = all_eigenvalues(subject, "empirical_fisher"), all_eigenvalues(subject, "covariance")
    assert (with_mean >= without - 1e-12).all()
    assert (without[:-1] >= with_mean[1:] - 1e-12).all()


@subjects
@pytest.mark.parametrize("operator", ["hessian", "ggn", "covariance"])
def test_layers_are_blocks_of_the_whole(subject, operator):
    layers = I.layer_curvature(subject, 10**4, operator=operator)
    values = all_eigenvalues(subject, operator)
    diagonal = I.hessian_diagonal(subject, 10**4, operator=operator)
    assert layers.details["trace"].sum() == pytest.approx(values.sum(), rel=1e-9)
    assert layers.value.max() <= values[0] * (1 + 1e-9)  # Cauchy interlacing
    means = np.array(list(diagonal.details["layers"].values()))
    np.testing.assert_allclose(layers.details["mean_eigenvalue"], means, rtol=1e-9)
    if (
        operator != "hessian"
    ):  # the largest eigenvalue of a positive matrix is at most the sum over its blocks
        assert values[0] <= layers.value.sum()


@subjects
def test_curvature_along_an_eigenvector_is_its_eigenvalue(subject):
    spectrum = I.hessian_spectrum(subject, 3, num_smallest=1, tol=1e-9, eigenvectors=True)
    for value, vector in zip(spectrum.value, spectrum.details["eigenvectors"], strict=True):
        v = torch.as_tensor(vector)
        assert float(v @ subject.hvp(v)) == pytest.approx(value, rel=1e-9)
        # By finite differences of the gradient, which knows nothing of second derivatives.
        here, step = subject.parameters(), 1e-5
        bent = (subject.gradient(here + step * v) - subject.gradient(here - step * v)) / (2 * step)
        assert float(v @ bent) == pytest.approx(value, rel=1e-5)


@subjects
def test_curvature_along_the_gradient_is_the_mean_over_its_shares(subject):
    values, vectors = np.linalg.eigh(subject.hvp(torch.eye(subject.num_params).double()).numpy())
    along = float(I.curvature_along_gradient(subject))
    shares = (vectors.T @ subject.gradient().numpy()) ** 2
    shares /= shares.sum()
    assert along == pytest.approx(shares @ values, rel=1e-8)
    assert values[0] <= along <= values[-1]
    top = I.gradient_in_top_subspace(subject, 4, tol=1e-9)
    assert float(top) == pytest.approx(shares[-4:].sum(), abs=1e-7)
    negative = I.gradient_negative_overlap(subject, num_products=10**4)
    assert float(negative) == pytest.approx(shares[values < negative.details["threshold"]].sum(), abs=1e-7)
    assert float(negative) + negative.details["positive_share"] <= 1 + 1e-9


@subjects
def test_both_ends_of_the_spectrum_agree_between_instruments(subject):
    spectrum = I.hessian_spectrum(subject, 2, num_smallest=2, tol=1e-8)
    negative = I.negative_curvature(subject, 2, tol=1e-8, max_products=10**4)
    np.testing.assert_allclose(negative.value, spectrum.details["smallest"], rtol=1e-6, atol=1e-10)
    assert negative.details["largest"] == pytest.approx(spectrum.value[0], rel=1e-6)
    assert negative.details["lower_bound"] <= all_eigenvalues(subject)[-1] + 1e-12


@subjects
def test_norms_of_the_commutator_are_those_of_the_spectra(subject):
    result = I.commutator_norm(subject, num_probes=100)
    first, second = all_eigenvalues(subject), all_eigenvalues(subject, "covariance")
    assert result.details["first_norm"] == pytest.approx(np.linalg.norm(first), rel=1e-9)
    assert result.details["second_norm"] == pytest.approx(np.linalg.norm(second), rel=1e-9)
    assert result.details["first_trace"] == pytest.approx(first.sum(), rel=1e-8)
    assert 0 < float(result) <= 1 / np.sqrt(2)


def test_the_best_step_along_the_gradient_is_twice_within_the_stable_one():
    """2/sharpness <= 2 x the best step: the gradient never bends more than the sharpest direction."""
    for kind in SUBJECTS:
        subject = network(*kind)
        along = I.curvature_along_gradient(subject)
        assert along.details["best_step"] >= 1 / float(I.hessian_spectrum(subject, 1).value[0])

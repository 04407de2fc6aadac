"""The quadratic: spectra, thresholds, and every instrument that must be right on it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.zoo.agreement import assert_agrees_in_part, assert_draws

from geartrain import instruments, zoo
from geartrain.errors import InputError
from geartrain.zoo.certificate import check_quantity, check_toy
from geartrain.zoo.curvature._quadratic_truths import regression
from geartrain.zoo.curvature.quadratic import Quadratic

RANDOM = [
    {"spectrum": "clustered", "seed": 3},
    {"spectrum": "indefinite", "dimension": 13, "condition": 30.0, "largest": 5.0, "seed": 1},
    {"spectrum": "zeros", "dimension": 40, "examples": 50, "reflections": 0, "step": 0.4},
    {"spectrum": "power-law", "dimension": 30, "condition": 1e6, "step": 1.9, "noise": 0.0},
    {"dimension": 70, "examples": 90, "covariance": "identity", "condition": 1e3, "step": 2.1, "seed": 7},
]


def missed(toy):
    return {c.quantity: (c.value, c.truth, c.explanation) for c in check_toy(toy) if not c.passed}


def test_every_truth_is_met():
    assert not missed(Quadratic())


@pytest.mark.parametrize("parameters", RANDOM, ids=lambda p: p.get("spectrum", "wide"))
def test_truths_hold_for_other_parameters(parameters):
    assert_agrees_in_part(Quadratic(**parameters), count=12)


def test_the_dense_hessian_is_the_one_asked_for():
    toy = Quadratic(spectrum="indefinite", dimension=9)
    dense = toy.objective.hvp(torch.eye(9, dtype=torch.float64)).numpy()
    assert np.allclose(np.linalg.eigvalsh(dense), np.sort(toy.eigenvalues), atol=1e-12)
    same = regression(Quadratic(dimension=9)).hvp(torch.eye(9, dtype=torch.float64)).numpy()
    plain = Quadratic(dimension=9).objective.hvp(torch.eye(9, dtype=torch.float64)).numpy()
    assert np.allclose(same, plain, atol=1e-12)


def test_the_noise_has_exactly_the_covariance_asked_for():
    toy = Quadratic()
    rows = toy.turned(toy.noise_rows, back=True).numpy()
    assert np.allclose(rows.mean(0), 0, atol=1e-13)
    assert np.allclose(rows.T @ rows / len(rows), np.diag(toy.noise_variances), atol=1e-13)


@pytest.mark.parametrize(("condition", "within"), [(10.0, 0.02), (1e3, 0.02), (1e6, 0.2)])
@pytest.mark.parametrize("spectrum", ["log-uniform", "power-law"])
def test_the_condition_number_from_ten_to_a_million(condition, within, spectrum):
    toy = Quadratic(condition=condition, spectrum=spectrum, dimension=50, noise=0.0)
    found = instruments.effective_condition_number(toy.objective, fraction=0.0)
    assert float(found) == pytest.approx(condition, rel=within)


def test_the_trace_by_sampling_is_within_its_error():
    toy = Quadratic(dimension=400, noise=0.0)
    estimates = [
        instruments.hessian_trace(
            toy.objective, 40, estimator="hutchinson", generator=torch.Generator().manual_seed(seed)
        )
        for seed in range(20)
    ]
    z = [(float(m) - toy.eigenvalues.sum()) / m.standard_error for m in estimates]
    assert abs(np.mean(z)) < 4 / math.sqrt(20)
    assert (
        np.mean(np.abs(z) < 2) >= 0.7
    )  # at least 14 of 20: below that with probability 1e-4 if errors are honest


def test_residuals_are_true():
    toy = Quadratic(dimension=300, noise=0.0)
    found = instruments.hessian_spectrum(toy.objective, 4, eigenvectors=True)
    for value, vector, residual in zip(
        found.value, found.details["eigenvectors"], found.details["residuals"], strict=True
    ):
        rest = toy.curved(torch.as_tensor(vector)).numpy() - value * np.asarray(vector)
        assert np.linalg.norm(rest) <= 1.01 * residual + 1e-12


@pytest.mark.parametrize("factor", [0.995, 1.005])
def test_thresholds_are_hit_from_both_sides(factor):
    toy = Quadratic(step=2 * factor, noise=0.0)
    toy.run.advance(400)
    losses = toy.run.history.column("loss")
    shrank = losses[-1] < losses[200]
    assert shrank == (factor < 1)
    assert float(instruments.edge_of_stability(Quadratic(step=2 * factor).run, tol=1e-4)) == pytest.approx(
        factor, rel=1e-3
    )


@pytest.mark.parametrize(("momentum", "edge"), [(0.5, 3.0), (0.9, 3.8)])
def test_momentum_moves_the_threshold_by_the_formula(momentum, edge):
    toy = Quadratic(noise=0.0)
    for factor in (0.995, 1.005):
        model = toy.make_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=factor * edge / toy.largest, momentum=momentum)
        losses = []
        for _ in range(600):
            optimizer.zero_grad()
            loss = toy.loss(model, toy.noise_rows)
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert (max(losses[-50:]) < max(losses[250:300])) == (factor < 1)


def test_conjugate_gradients_keep_their_bound():
    toy = Quadratic(noise=0.0, condition=30.0)
    root = math.sqrt(toy.condition)
    x, r = np.zeros(toy.dimension), toy.eigenvalues * toy.displacement
    p, steps = r.copy(), 12
    for _ in range(steps):
        ap = toy.eigenvalues * p
        alpha = r @ r / (p @ ap)
        x, new = x + alpha * p, r - alpha * ap
        p, r = new + (new @ new) / (r @ r) * p, new
    ratio = math.sqrt((toy.eigenvalues * (toy.displacement - x) ** 2).sum() / (toy.eigenvalues).sum())
    assert ratio <= 2 * ((root - 1) / (root + 1)) ** steps


def test_a_hundred_thousand_dimensions():
    toy = Quadratic(dimension=100_000, noise=0.0, spectrum="power-law")
    assert check_quantity(toy, "curvature_along_gradient").passed
    assert float(instruments.hessian_spectrum(toy.objective, 2).value[0]) == pytest.approx(2.0, rel=1e-3)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"dimension": 2}, "dimension is 2; it must be 4 or more"),
        ({"spectrum": "flat"}, "spectrum is 'flat'; allowed: log-uniform"),
        ({"covariance": "flat"}, "covariance is 'flat'; allowed: identity"),
        ({"step": 0.0}, "they must be above 0"),
        ({"examples": 24}, "needs more examples than dimensions"),
        ({"depth": 2}, "quadratic has no parameter 'depth'"),
    ],
)
def test_nonsense_is_refused(parameters, message):
    with pytest.raises(InputError, match=message):
        zoo.get("quadratic", **parameters)


def test_it_can_be_drawn():
    assert_draws(Quadratic())

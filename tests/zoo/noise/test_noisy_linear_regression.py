"""Noisy linear regression: reference numbers, estimators from many samples, every instrument."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part, assert_draws

from geartrain.errors import InputError
from geartrain.zoo.noise.noisy_linear_regression import NoisyLinearRegression


def test_the_reference_numbers():
    toy = NoisyLinearRegression()
    signal = toy.delta @ toy.gradient
    found = [signal, toy.gradient @ toy.gradient, toy.simple_scale, toy.weighted_scale, toy.largest_step]
    assert found == pytest.approx([3.59774, 1.59616, 11.3633, 7.1112, 1.32917], rel=1e-5)
    assert toy.commutator == pytest.approx(0.086924, rel=1e-5)


def test_every_instrument_meets_its_truth():
    assert_agrees(NoisyLinearRegression())


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    toy = NoisyLinearRegression(
        seed=seed,
        dimension=int(draw.integers(3, 12)),
        noise=draw.uniform(0, 2),
        decay=draw.uniform(0.2, 1.5),
        distance=draw.uniform(0.5, 2),
    )
    assert_agrees_in_part(
        toy, set(toy.truth) - {"loss_plane", "example_losses", "two_batch_estimator", "jacobian_rank"}
    )


def test_the_covariance_is_that_of_400_000_samples():
    toy, generator = NoisyLinearRegression(), torch.Generator().manual_seed(0)
    scatter, total, count = np.zeros((20, 20)), np.zeros(20), 0
    for _ in range(8):
        x = _normal(generator, 20) * np.sqrt(toy.eigenvalues)
        g = x * (x @ toy.delta - _normal(generator, 1)[:, 0])[:, None]
        scatter, total, count = scatter + g.T @ g, total + g.sum(0), count + len(g)
    covariance = scatter / count - np.outer(total, total) / count**2
    assert np.linalg.norm(covariance - toy.covariance) < 0.05 * np.linalg.norm(toy.covariance)
    assert np.trace(covariance) / (total @ total / count**2) == pytest.approx(toy.simple_scale, rel=0.05)


def test_the_commutator_is_what_the_far_point_adds():
    toy = NoisyLinearRegression(distance=0.7)
    h = np.diag(toy.eigenvalues)
    rest = h @ np.outer(toy.delta, toy.delta) @ h
    left = toy.covariance @ h - h @ toy.covariance
    np.testing.assert_allclose(left, rest @ h - h @ rest, atol=1e-14)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dimension": 1}, r"dimension is 1; allowed: 2 to 200"),
        ({"distance": 0.0}, "allowed: a distance above 0"),
        ({"noise": -1.0}, "noise is -1.0"),
        ({"examples": 100}, "at least ten per feature, here 200"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        NoisyLinearRegression(**wrong)


def test_it_can_be_drawn():
    assert_draws(NoisyLinearRegression())


def _normal(generator: torch.Generator, width: int) -> np.ndarray:
    return torch.randn(50_000, width, generator=generator, dtype=torch.float64).numpy()

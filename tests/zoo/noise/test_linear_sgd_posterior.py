"""SGD and the posterior: Lyapunov equation, clouds, gain of an observation, every instrument."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.zoo.agreement import assert_agrees, assert_draws

from geartrain import zoo
from geartrain.errors import InputError
from geartrain.zoo.noise.linear_sgd_posterior import LinearSgdPosterior

OWN = {"sgd_cloud", "minibatch_cloud", "posterior_covariance", "best_step", "kalman_minus_sgd"}
CHEAP = {
    "hessian_trace",
    "hessian_spectrum",
    "commutator_norm",
    "example_losses",
    "gradient_flow",
    "path_length",
}


def test_the_cloud_solves_the_lyapunov_equation():
    toy = LinearSgdPosterior()
    h, c, eta = toy.linear.moments, toy.cloud(minibatch=False), toy.step
    left = h @ c + c @ h - eta * h @ c @ h
    np.testing.assert_allclose(left, eta * toy.covariance / toy.batch, atol=1e-12)


def test_the_minibatch_cloud_is_reproduced_by_a_step_over_all_pairs_of_examples():
    toy = LinearSgdPosterior(batch=1, rate=0.1)
    x, c, eta = toy.linear.inputs, toy.cloud(minibatch=True), toy.step
    shrinks = np.eye(4) - eta * x[:, :, None] * x[:, None, :]
    after = (shrinks @ c @ shrinks).mean(0) + eta**2 * toy.covariance
    np.testing.assert_allclose(after, c, rtol=1e-9, atol=1e-14)


def test_simulated_covariance_is_within_three_per_cent():
    toy = LinearSgdPosterior()
    for minibatch, quantity in ((False, "sgd_cloud"), (True, "minibatch_cloud")):
        trial = toy.truth[quantity].trial
        assert trial is not None
        found = sum(np.asarray(trial(torch.Generator().manual_seed(s)).value) for s in range(3)) / 3
        exact = toy.cloud(minibatch=minibatch)
        assert np.linalg.norm(found - exact) < 0.03 * np.linalg.norm(exact)


def test_the_gain_of_sgd_errs_by_the_square_of_the_step():
    noises = np.array([1e3, 1e4, 1e5])
    errors = [
        np.linalg.norm(LinearSgdPosterior(noise=v, rate=0.01, batch=64).truth["kalman_minus_sgd"].value)
        for v in noises
    ]
    slopes = np.diff(np.log(errors)) / np.diff(np.log(1 / noises))
    np.testing.assert_allclose(slopes, 2, atol=0.02)


def test_small_steps_sample_the_posterior_of_a_true_model_at_some_temperature():
    toy = LinearSgdPosterior(samples=1000, rate=0.01, noise=1.0)
    ratio = toy.cloud(minibatch=False) @ np.linalg.inv(toy.posterior)
    assert np.linalg.norm(ratio / np.trace(ratio) * 4 - np.eye(4)) < 0.25


def test_every_instrument_meets_its_truth():
    assert_agrees(LinearSgdPosterior())


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    toy = LinearSgdPosterior(
        seed=seed,
        dimension=int(draw.integers(2, 5)),
        samples=int(draw.integers(40, 80)),
        noise=draw.uniform(0.2, 2),
        prior=draw.uniform(0.3, 3),
        rate=draw.uniform(0.1, 0.4),
        batch=int(draw.integers(2, 8)),
    )
    assert_agrees(toy, OWN | CHEAP)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dimension": 13}, "allowed: 1 to 12"),
        ({"prior": 0.0}, "allowed: positive numbers"),
        ({"rate": 1.5, "batch": 1}, "smaller rate or a larger batch"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        zoo.get("linear-sgd-posterior", **wrong)


def test_it_can_be_drawn():
    assert_draws(zoo.get("linear-sgd-posterior"))

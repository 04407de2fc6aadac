"""Random features: threshold, kernel limit, the curve of Mei and Montanari, every instrument."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import solve
from tests.zoo.agreement import assert_agrees, assert_draws

from geartrain import zoo
from geartrain.errors import InputError
from geartrain.zoo.risk.random_features import RandomFeatures, bias_and_variance

OWN = {"kernel", "distance_to_kernel", "interpolation", "risk_curve"}
CHEAP = {"hessian_trace", "hessian_spectrum", "example_losses", "weight_norm", "jacobian_rank", "path_length"}


def test_distance_to_the_kernel_falls_as_the_root_of_the_number_of_features():
    toy, generator = RandomFeatures(samples=100), torch.Generator().manual_seed(0)
    x, y = toy.problem(generator)
    fresh, ridge = toy.inputs(generator, 200), 100 * 0.01 * np.eye(100)
    limit = toy.kernel(fresh, x) @ np.linalg.solve(toy.kernel(x, x) + ridge, y)
    sizes, gaps = np.array([500, 1000, 2000, 4000, 8000]), []
    for size in sizes:
        square = 0.0
        for _ in range(4):
            w = toy.weights(generator, int(size))
            phi, asked = toy.lift(x, w), toy.lift(fresh, w)
            said = asked @ (phi.T @ solve(phi @ phi.T + ridge, y, assume_a="pos"))
            square += ((said - limit) ** 2).mean() / 4
        gaps.append(square**0.5)
    assert np.polyfit(np.log(sizes), np.log(gaps), 1)[0] == pytest.approx(-0.5, abs=0.1)


def test_the_theory_peaks_at_the_threshold_when_the_ridge_is_small_and_falls_beyond():
    toy = RandomFeatures(ridge=1e-8 * 100)
    assert toy.risk(200) > 2 * toy.risk(100)
    assert toy.risk(200) > 2 * toy.risk(800)
    assert toy.risk(4000) < toy.risk(100)


def test_no_features_and_an_endless_ridge_learn_nothing():
    assert bias_and_variance(2.0, 5.0, 1e9) == pytest.approx((1, 0), abs=1e-6)


def test_many_features_and_examples_learn_a_linear_teacher():
    bias, variance = bias_and_variance(4000.0, 400.0, 0.1)
    assert bias < 1e-2
    assert variance < 0.1


def test_the_limit_is_reached_as_the_dimension_grows():
    toy = RandomFeatures(dimension=100, samples=500, ridge=1e-3)
    generator = torch.Generator().manual_seed(0)
    found = np.array([toy.excess(generator, 500) for _ in range(6)])
    assert found.mean() == pytest.approx(
        toy.risk(500), abs=4 * found.std(ddof=1) / 6**0.5 + 0.02 * toy.risk(500)
    )


def test_every_instrument_meets_its_truth():
    assert_agrees(RandomFeatures())


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    toy = RandomFeatures(
        seed=seed,
        features=int(draw.integers(20, 60)),
        samples=int(draw.integers(50, 100)),
        dimension=int(draw.integers(20, 40)),
        noise=draw.uniform(0, 1),
        ridge=float(np.exp(draw.uniform(np.log(3e-3), np.log(0.3)))),
    )
    assert_agrees(toy, OWN | CHEAP)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dimension": 5}, "allowed: 10 to 100"),
        ({"ridge": 0.0}, "ridge 0.0; allowed: 0 or more, and 1e-6 to 100"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        zoo.get("random-features", **wrong)


def test_it_can_be_drawn():
    assert_draws(zoo.get("random-features"))

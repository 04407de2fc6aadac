"""Nearest neighbours on a sheet: the law of their error, its second order, the dimension, every instrument."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part, assert_draws

from geartrain.errors import InputError
from geartrain.instruments.function.neighbour_agreement import neighbour_agreement
from geartrain.zoo.representations.manifold_knn import ManifoldKnn

SLOW = {"volume_scaling", "loss_plane"}
"""Met at the defaults."""


def test_the_reference_numbers():
    toy = ManifoldKnn()
    assert [toy.error(k) for k in (1, 3, 10)] == pytest.approx([3.979e-5, 2.653e-5, 2.188e-5], rel=2e-4)
    found = toy._average(torch.Generator().manual_seed(1))
    scores = (np.asarray(found.value) - [toy.error(k) for k in (1, 3, 10)]) / np.asarray(found.standard_error)
    assert np.abs(scores).max() < 3


def test_the_error_of_the_trial_is_honest():
    toy = ManifoldKnn(density=1000)
    runs = [toy._average(torch.Generator().manual_seed(s)) for s in range(100)]
    scores = np.array(
        [(r.value - np.array([toy.error(k) for k in (1, 3, 10)])) / r.standard_error for r in runs]
    )
    # The mean square of 100 scores has a spread of 0.14; an error off by a third would give 0.56 or 1.8.
    assert np.all(np.abs((scores**2).mean(0) - 1) < 0.5)
    # No bias: the mean of 100 scores has a spread of 0.1.
    assert np.all(np.abs(scores.mean(0)) < 0.4)


def test_the_second_order_is_seen():
    """With 200 points and 20 neighbours the first order is 14 % too low."""
    scores = []
    for seed in range(40):
        toy = ManifoldKnn(points=200, seed=seed, direction=(1.0, 0.3, 0.3, 1.0))
        scores.append(1 - neighbour_agreement(toy.objective, k=20).value)
    mean, spread = np.mean(scores), np.std(scores, ddof=1) / np.sqrt(len(scores))
    # Third order: (k/n)² · a few per cent of the leading term.
    assert abs(mean - ManifoldKnn.unexplained(200, 20)) < 3 * spread + 0.03 * mean
    assert mean > np.pi / 200 + 5 * spread


def test_every_instrument_meets_its_truth():
    assert_agrees(ManifoldKnn())


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    a, b, c, d, g, h = (float(v) for v in draw.uniform(0.3, 1.5, 6))
    toy = ManifoldKnn(
        seed=seed, points=int(draw.integers(300, 600)), direction=(a, -b, c, d), slope=(g, -h), density=5000
    )
    assert_agrees_in_part(toy, set(toy.truth) - SLOW)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"points": 100}, "points is 100, density 20000; allowed: 200 to 1000"),
        ({"density": 10}, "density 10; allowed"),
        ({"slope": (0.0, 0.0)}, "two that are not both 0"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        ManifoldKnn.make(**wrong)


def test_it_can_be_drawn():
    assert_draws(ManifoldKnn())

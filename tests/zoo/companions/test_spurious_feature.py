"""A spurious feature: accuracies by the normal distribution, Bayes' rule, every instrument."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import norm
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part, assert_draws

from geartrain.errors import InputError
from geartrain.zoo.companions.spurious_feature import SpuriousFeature

ACCURACIES = {"accuracy", "accuracy_at_test", "accuracy_under_attack"}


def test_the_best_classifier_is_bayes_rule():
    toy = SpuriousFeature(correlation=0.5)
    x, _ = toy.draws(50, toy.mean, torch.Generator().manual_seed(0))
    inverse = np.linalg.inv(toy.covariance)
    gaps = [x - side * toy.mean for side in (1, -1)]
    logs = [-0.5 * np.einsum("ni,ij,nj->n", gap, inverse, gap) for gap in gaps]
    np.testing.assert_allclose(logs[0] - logs[1], 2 * x @ toy.weights, atol=1e-10)
    distance = toy.mean @ np.linalg.inv(toy.covariance) @ toy.mean
    assert toy.accuracy(toy.weights, toy.mean) == pytest.approx(norm.cdf(np.sqrt(distance)))


def test_no_other_direction_is_more_accurate():
    toy, draw = SpuriousFeature(), np.random.default_rng(0)
    best = toy.accuracy(toy.weights, toy.mean)
    assert all(toy.accuracy(toy.weights + 0.3 * draw.normal(size=5), toy.mean) < best for _ in range(100))


def test_a_strong_shortcut_is_worse_than_chance_at_test():
    """Below one half if and only if the spurious feature's share of μᵀΣ⁻¹μ is above one half."""
    weak, strong = (
        SpuriousFeature(shortcut=0.5, correlation=0.0),
        SpuriousFeature(shortcut=1.0, correlation=0.0),
    )
    assert weak.accuracy(weak.weights, weak.flipped) > 0.5 > strong.accuracy(strong.weights, strong.flipped)


def test_the_hessian_by_hand_is_autograds():
    toy = SpuriousFeature(features=3, examples=200)
    np.testing.assert_allclose(
        toy.objective.hvp(torch.eye(6, dtype=torch.float64)).numpy(), toy.hessian, atol=1e-12
    )


def test_every_instrument_meets_its_truth():
    assert_agrees(SpuriousFeature())


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    toy = SpuriousFeature(
        seed=seed,
        features=int(draw.integers(2, 9)),
        core=draw.uniform(0.2, 0.6),
        shortcut=draw.uniform(0.2, 1.2),
        correlation=draw.uniform(0, 0.6),
        attack=draw.uniform(0, 0.4),
        examples=2 * int(draw.integers(300, 600)),
    )
    assert_agrees_in_part(toy)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"features": 1}, "features is 1, examples 1000; allowed: 2 to 20"),
        ({"core": 0.0}, "core is 0.0, shortcut 1.0, attack 0.2; allowed"),
        ({"correlation": 1.0}, "correlation is 1.0; allowed: 0 to below 1"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        SpuriousFeature.make(**wrong)


def test_it_can_be_drawn():
    assert_draws(SpuriousFeature())

"""Stationarity under weight decay: features are forces, at rest and only there; every instrument."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part, assert_draws

from geartrain.errors import InputError
from geartrain.zoo.companions.stationary_decay import StationaryDecay


@pytest.mark.parametrize("seed", range(4))
def test_the_point_is_at_rest_and_alive(seed):
    toy = StationaryDecay(seed=seed)
    gradient = toy.objective.gradient().numpy()
    np.testing.assert_allclose(gradient, -toy.decay * toy.here, atol=1e-10)
    assert np.linalg.norm(toy.here) > 0.5
    assert float(toy.objective.value()) < 0.5 * toy.truth["constant_loss"].value


def test_features_are_forces_at_rest_and_only_there():
    toy = StationaryDecay()
    for factor, holds in ((1.0, True), (1.1, False)):
        w, v = toy.split(factor * toy.here)
        for found, wanted in zip(toy.forces(factor * toy.here), (w.T @ w, np.outer(v, v)), strict=True):
            gap = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
            assert gap < 1e-8 if holds else gap > 0.1


def test_decay_balances_the_data_layer_by_layer():
    toy = StationaryDecay(hidden=3)
    w, v = toy.split(toy.here)
    of_inputs, of_units = toy.forces(toy.here)
    assert np.trace(of_inputs) == pytest.approx((w**2).sum(), rel=1e-8)
    assert np.trace(of_units) == pytest.approx((v**2).sum(), rel=1e-8)


def test_the_hessian_by_hand_is_autograds():
    toy = StationaryDecay(inputs=3, hidden=4)
    found = toy.objective.hvp(torch.eye(16, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(found, toy.hessian(toy.here), atol=1e-12)


def test_every_instrument_meets_its_truth():
    assert_agrees(StationaryDecay())


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    toy = StationaryDecay(
        seed=seed,
        inputs=int(draw.integers(2, 6)),
        hidden=int(draw.integers(2, 8)),
        decay=draw.uniform(0.002, 0.02),
        noise=draw.uniform(0, 0.5),
        examples=int(draw.integers(30, 100)),
    )
    assert_agrees_in_part(toy)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"inputs": 1}, "inputs is 1, hidden 5; allowed: 2 to 8"),
        ({"decay": 0.0}, "decay is 0.0; allowed: 0.001 to 0.03"),
        ({"examples": 5}, "examples 5; allowed"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        StationaryDecay.make(**wrong)


def test_it_can_be_drawn():
    assert_draws(StationaryDecay())

"""A network and its disguise: units are found again, the function is the same, every instrument."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part, assert_draws

from geartrain.errors import InputError
from geartrain.zoo.representations.planted_permutation import PlantedPermutation

CASES = [("tanh", False), ("tanh", True), ("relu", False), ("relu", True)]


@pytest.mark.parametrize(("activation", "disguise"), CASES)
@pytest.mark.parametrize("seed", range(3))
def test_without_noise_every_unit_is_found_and_the_copy_undone(activation, disguise, seed):
    toy = PlantedPermutation(seed=seed, hidden=9, activation=activation, disguise=disguise)
    np.testing.assert_array_equal(toy.matched(), toy.planted[0])
    assert np.linalg.norm(toy.aligned() - toy.here) < 1e-10
    assert np.linalg.norm(toy.there - toy.here) > 1
    np.testing.assert_allclose(toy.outputs(toy.there)[0], toy.outputs(toy.here)[0], atol=1e-12)


@pytest.mark.parametrize(("activation", "disguise"), CASES)
@pytest.mark.parametrize("noise", [0.3, 0.999])
def test_units_are_found_as_long_as_noise_is_below_half_the_gap(activation, disguise, noise):
    for seed in range(20):
        toy = PlantedPermutation(seed=seed, hidden=8, activation=activation, disguise=disguise, noise=noise)
        np.testing.assert_array_equal(toy.matched(), toy.planted[0])


def test_the_copy_is_a_disguise_of_the_kind_promised():
    signs = PlantedPermutation(disguise=True, hidden=12).planted[1]
    assert set(signs) == {-1.0, 1.0}
    scales = PlantedPermutation(disguise=True, hidden=12, activation="relu").planted[1]
    assert scales.min() > 0.5
    assert scales.max() < 2
    assert len(set(scales)) == 12


def test_derivatives_by_hand_are_autograds():
    for activation in ("tanh", "relu"):
        toy = PlantedPermutation(activation=activation)
        objective = toy.objective
        found = objective.hvp(torch.eye(objective.num_params, dtype=torch.float64)).numpy()
        jacobian = toy.outputs(toy.here)[1][:, 0]
        np.testing.assert_allclose(found, jacobian.T @ jacobian / 64, atol=1e-12)


def test_every_instrument_meets_its_truth():
    assert_agrees(PlantedPermutation())


@pytest.mark.parametrize(("activation", "disguise"), CASES)
def test_every_disguise_is_seen_through(activation, disguise):
    toy = PlantedPermutation(activation=activation, disguise=disguise)
    assert_agrees_in_part(toy)


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    activation, disguise = CASES[int(draw.integers(4))]
    toy = PlantedPermutation(
        seed=seed,
        inputs=int(draw.integers(2, 6)),
        hidden=int(draw.integers(3, 9)),
        activation=activation,
        disguise=disguise,
        noise=draw.uniform(0, 0.9),
    )
    assert_agrees_in_part(toy)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"hidden": 1}, "hidden 1; allowed: 1 to 20 inputs and 2 to 30 units"),
        ({"activation": "gelu"}, "activation is 'gelu'; allowed: 'tanh', 'relu'"),
        ({"noise": 1.0}, "noise is 1.0; allowed: from 0 to below 1"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        PlantedPermutation.make(**wrong)


def test_it_can_be_drawn():
    assert_draws(PlantedPermutation())

"""Spherical spins: critical points, their indices, the lowest energy, every instrument."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part, assert_draws

from geartrain import zoo
from geartrain.errors import InputError
from geartrain.zoo.companions.spherical_spin import SphericalSpin


@pytest.mark.parametrize("level", range(1, 9))
def test_the_k_th_lowest_has_index_k_minus_1(level):
    toy = SphericalSpin(dimension=8, level=level)
    objective = toy.objective_at(toy.critical)
    dense = objective.hvp(torch.eye(8, dtype=torch.float64)).numpy()
    assert float(objective.gradient().norm()) < 1e-14
    assert (np.linalg.eigvalsh(dense) < -1e-9).sum() == level - 1 == toy.index
    np.testing.assert_allclose(dense, toy.hessian(toy.critical), atol=1e-13)


def test_derivatives_anywhere_are_autograds():
    toy = SphericalSpin(tilt=0.8, seed=3)
    dense = toy.objective.hvp(torch.eye(20, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(toy.hessian(toy.point), dense, atol=1e-13)
    np.testing.assert_allclose(toy.gradient(toy.point), toy.objective.gradient().numpy(), atol=1e-14)


def test_descent_ends_at_the_lowest_pair():
    toy = SphericalSpin(step=1.0)
    x = toy.point
    for _ in range(3000):
        x = x - toy.step * toy.gradient(x)
    assert toy.energy(x) == pytest.approx(toy.modes[0][0] / 2, abs=1e-9)


def test_every_instrument_meets_its_truth():
    assert_agrees(SphericalSpin())


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    dimension = int(draw.integers(5, 40))
    toy = SphericalSpin(
        seed=seed,
        dimension=dimension,
        level=int(draw.integers(1, dimension + 1)),
        tilt=float(draw.uniform(0.1, 0.7)),
        step=float(draw.uniform(0.1, 0.6)),
    )
    assert_agrees_in_part(toy)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dimension": 3}, "dimension is 3; allowed: 4 to 200"),
        ({"level": 0}, "level is 0; allowed: 1 .the lowest. to 20"),
        ({"tilt": 1.0}, "allowed: above 0 to 0.8"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        zoo.get("spherical-spin", **wrong)


def test_it_can_be_drawn():
    assert_draws(SphericalSpin())

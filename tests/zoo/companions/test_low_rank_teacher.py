"""A teacher of one direction: its gradient outer product, the machine that finds it, every instrument."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part, assert_draws

from geartrain.errors import InputError
from geartrain.zoo.companions.low_rank_teacher import LowRankTeacher, link, mean_square_slope

LINKS = ("square", "sine", "tanh")
SLOW = {"direction_found", "gradient_outer_product"}


@pytest.mark.parametrize("name", LINKS)
def test_the_mean_square_slope_is_its_integral(name):
    def weighted(t):
        return float(link(name, np.array([t]))[1][0] ** 2) * np.exp(-(t**2) / 2) / np.sqrt(2 * np.pi)

    assert mean_square_slope(name) == pytest.approx(quad(weighted, -12, 12, limit=200)[0], abs=1e-7)


@pytest.mark.parametrize("name", LINKS)
def test_the_machine_finds_the_direction(name):
    toy = LowRankTeacher(link=name, seed=3)
    assert_agrees(toy, SLOW)
    first, *_, last = toy.metrics(torch.Generator().manual_seed(0))
    u = toy.directions[0]
    assert u @ last @ u > u @ first @ u


def test_correlation_sees_nothing_of_a_square():
    toy = LowRankTeacher()
    x, y = toy.draws(100_000, torch.Generator().manual_seed(0))
    # Each entry of the mean has a spread of at most √(E t⁴·t²)/√n = √15/√n.
    assert np.abs(y @ x / 100_000).max() < 4 * np.sqrt(15 / 100_000)


@pytest.mark.parametrize("name", LINKS)
def test_the_hessian_by_hand_is_autograds(name):
    toy = LowRankTeacher(dimension=5, link=name, angle=1.2)
    np.testing.assert_allclose(
        toy.objective.hvp(torch.eye(5, dtype=torch.float64)).numpy(), toy.hessian, atol=1e-12
    )


def test_every_instrument_meets_its_truth():
    assert_agrees(LowRankTeacher())


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    toy = LowRankTeacher(
        seed=seed,
        dimension=int(draw.integers(3, 12)),
        link=LINKS[seed],
        angle=draw.uniform(0.2, 1.5),
        examples=int(draw.integers(30, 100)),
    )
    assert_agrees_in_part(toy, set(toy.truth) - SLOW)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dimension": 1}, "dimension is 1, examples 80; allowed: 2 to 12"),
        ({"link": "cube"}, "link is 'cube'; allowed: 'square'"),
        ({"angle": 0.0}, "angle is 0.0; allowed: above 0"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        LowRankTeacher.make(**wrong)


def test_it_can_be_drawn():
    assert_draws(LowRankTeacher())

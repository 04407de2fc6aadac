"""Two programs that agree on all the past: odds that stay, odds that move, every instrument."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part, assert_draws

from geartrain import zoo
from geartrain.errors import InputError
from geartrain.zoo.companions.if_then_programs import IfThenPrograms


def test_no_amount_of_past_data_moves_the_odds():
    toy = IfThenPrograms(bits=5)
    walks = toy.updated(torch.Generator().manual_seed(0), True, 50)
    np.testing.assert_allclose(np.exp(walks), 2.0**-5, rtol=1e-12)


def test_every_observation_after_the_break_moves_them_by_the_weight_of_evidence():
    toy = IfThenPrograms(bits=2, noise=0.1)
    moves = np.diff(toy.updated(torch.Generator().manual_seed(0), False, 20), axis=1)
    np.testing.assert_allclose(np.abs(moves), math.log(9), rtol=1e-9)
    assert (moves > 0).mean() == pytest.approx(0.9, abs=4 * 0.3 / moves.size**0.5)


def test_past_observations_have_no_gradient():
    toy = IfThenPrograms(past=7, future=5)
    rows = toy.objective.per_example_gradients().numpy()
    assert np.abs(rows[:7]).max() < 1e-15
    assert np.abs(rows[7:]).min() > 1e-3


def test_every_instrument_meets_its_truth():
    assert_agrees(zoo.get("if-then-programs"))


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    bits, noise = float(draw.uniform(0.5, 8)), float(draw.uniform(0.05, 0.4))
    past, future = int(draw.integers(5, 50)), int(draw.integers(5, 50))
    assert_agrees_in_part(
        zoo.get("if-then-programs", bits=bits, noise=noise, past=past, future=future, seed=seed)
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"bits": 0.0}, "bits is 0.0; allowed: above 0, up to 50"),
        ({"noise": 0.5}, "noise is 0.5; allowed: above 0 and below ½"),
        ({"future": 1}, "past is 40 and future 1; allowed: 1 or more and 2 or more"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        zoo.get("if-then-programs", **wrong)


def test_it_can_be_drawn():
    assert_draws(zoo.get("if-then-programs"))

"""Blocks of XOR: atoms of the loss, averages over blocks, restarts, every instrument."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part, assert_draws

from geartrain.errors import InputError
from geartrain.zoo.landscapes.xor_blocks import ATOMS, COUNTS, STATES, XorBlocks, train


def test_training_ends_on_atoms_as_often_as_before():
    losses = train(4000, torch.Generator().manual_seed(99)).numpy()
    distance = np.abs(losses[:, None] - ATOMS)
    assert (distance.min(1) < 0.02).mean() >= 0.99
    counts = np.bincount(distance.argmin(1), minlength=4)
    share, reference = counts / 4000, COUNTS / COUNTS.sum()
    error = np.sqrt(reference * (1 - reference) * (1 / 4000 + 1 / COUNTS.sum()))
    assert (np.abs(share - reference) < 4 * error).all()


@pytest.mark.parametrize("state", list(STATES))
def test_blocks_by_hand_rest_in_local_minima(state):
    toy = XorBlocks(states=(state,))
    objective = toy.objective
    assert float(objective.value()) == pytest.approx(ATOMS[list(STATES).index(state)], abs=1e-12)
    assert float(objective.gradient().norm()) < 1e-12
    source = torch.Generator().manual_seed(1)
    for _ in range(200):  # nothing near is lower
        step = torch.randn(9, generator=source, dtype=torch.float64)
        moved = objective.value(objective.parameters() + 0.02 * step / step.norm())
        assert float(moved) >= float(objective.value()) - 1e-12


def test_spread_falls_as_the_root_of_the_number_of_blocks():
    source = torch.Generator().manual_seed(3)
    atoms = torch.from_numpy(ATOMS)[
        torch.multinomial(torch.from_numpy(COUNTS).double(), 409_600, True, generator=source)
    ]
    for k in (1, 4, 16, 64, 256):
        spread = float(atoms.reshape(-1, k).mean(1).std())
        assert spread * math.sqrt(k) == pytest.approx(XorBlocks().spread, rel=0.05)


def test_convolution_is_a_distribution_with_the_right_moments():
    toy = XorBlocks(blocks=16)
    totals = toy.totals()
    values = np.arange(len(totals)) / 96
    assert totals.sum() == pytest.approx(1)
    assert totals @ values == pytest.approx(toy.shares @ ATOMS)
    assert totals @ values**2 - (totals @ values) ** 2 == pytest.approx(toy.spread**2 / 16)
    assert toy.best(1) == pytest.approx(toy.shares @ ATOMS)
    assert toy.best(1000) < toy.best(10) < toy.best(1)


def test_every_instrument_meets_its_truth():
    assert_agrees(XorBlocks())


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    states = tuple(str(s) for s in draw.choice(list(STATES), int(draw.integers(1, 5))))
    blocks, restarts = int(draw.integers(1, 20)), int(draw.integers(1, 10))
    toy = XorBlocks(states=states, blocks=blocks, restarts=restarts, seed=seed)
    assert_agrees_in_part(toy, [q for q in toy.truth if toy.truth[q].trial is None])
    assert_agrees(toy, ["mean_and_spread"])


@pytest.mark.parametrize("state", ["0", "1"])
def test_truths_hold_at_the_ends(state):
    toy = XorBlocks(states=(state, state))
    assert_agrees_in_part(toy, [q for q in toy.truth if toy.truth[q].trial is None])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"states": ("3/4",)}, "allowed: one to six of 0, 1/2, 2/3, 1"),
        ({"blocks": 64, "restarts": 64}, "blocks is 64 and restarts 64; allowed"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        XorBlocks.make(**wrong)


def test_it_can_be_drawn():
    assert_draws(XorBlocks())

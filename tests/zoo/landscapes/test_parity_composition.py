"""Composed parities: leaps with and without a scaffold, coefficients exactly and by sampling, every instrument."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part, assert_draws

from geartrain.errors import InputError
from geartrain.zoo.landscapes._parity_nets import Net, cube, leap_of, parity, sawtooth, sum_of_parities
from geartrain.zoo.landscapes.parity_composition import TARGETS, ParityComposition


def test_leaps_of_the_four_targets():
    assert [leap_of(sets) for sets in TARGETS.values()] == [2, 2, 4, 4]


@pytest.mark.parametrize("d", [6, 8])
def test_coefficients_are_exact_by_enumeration(d):
    for target, sets in TARGETS.items():
        net = ParityComposition(target=target, d=d).net
        for subset in range(2**6):
            members = tuple(i for i in range(6) if subset >> i & 1)
            found = (net.outputs * parity(net.x, members)).mean()
            assert found == pytest.approx(float(members in sets), abs=1e-12)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_zigzag_is_the_parity(k):
    x = cube(6)
    weight, bias, out, shift = sawtooth(6, tuple(range(k)))
    np.testing.assert_array_equal(np.maximum(x @ weight.T + bias, 0) @ out + shift, parity(x, range(k)))


def test_second_derivatives_by_hand_are_autograds():
    x = cube(4)
    draw = np.random.default_rng(0)
    y = sum_of_parities(x, ((0, 1), (0, 1, 2)))
    net = Net(x, y, draw.normal(size=(3, 4)), draw.normal(size=3), draw.normal(size=3), 0.3)
    objective = net.objective()
    count = objective.num_params
    hessian = objective.hvp(torch.eye(count, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(net.hessian, hessian, atol=1e-12)


def test_a_run_can_be_made_and_moves():
    run = ParityComposition(wide=10).run
    run.advance(50)
    assert len(run.history.columns["loss"]) == 50


def test_every_instrument_meets_its_truth():
    assert_agrees(ParityComposition())


@pytest.mark.parametrize("target", [t for t in TARGETS if t != ParityComposition().target])
def test_other_targets_are_met_too(target):
    assert_agrees_in_part(ParityComposition(target=target))


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    target = str(draw.choice(list(TARGETS)))
    toy = ParityComposition(
        target=target, d=6 + seed, wide=int(draw.integers(6, 60)), samples=int(draw.integers(500, 5000))
    )
    assert_agrees_in_part(toy)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"target": "B"}, r"target is 'B'; allowed: A\+B\+AB"),
        ({"d": 20}, "d, wide and samples are 20, 30, 20000; allowed"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        ParityComposition.make(**wrong)


def test_it_can_be_drawn():
    assert_draws(ParityComposition())

"""Stored or derived: the same function, another structure, and what an edit does; every instrument."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part, assert_draws

from geartrain.errors import InputError
from geartrain.zoo.representations.stored_vs_derived import Gate, StoredVsDerived


@pytest.mark.parametrize("seed", range(5))
def test_both_nets_answer_every_question_alike_and_rightly(seed):
    toy = StoredVsDerived(facts=20, seed=seed)
    p, q = toy.values
    right = np.concatenate([p, ((p == 1) | (q == 1)).astype(float)])
    with torch.no_grad():
        for net in (toy.net_a(), toy.net_b()):
            np.testing.assert_array_equal(net(torch.eye(40, dtype=torch.float64))[:, 0].numpy(), right)


def test_the_gate_is_logical_or():
    for p, q in itertools.product((0.0, 1.0), repeat=2):
        assert float(Gate()(torch.tensor(p + q))) == float(p or q)


@pytest.mark.parametrize("seed", range(5))
def test_an_edit_reaches_the_derived_answer_in_b_only(seed):
    toy = StoredVsDerived(facts=30, seed=seed)
    assert_agrees(toy, {"propagation", "path_lengths", "stored_numbers"})


def test_an_edit_where_q_holds_changes_nothing():
    toy = StoredVsDerived(facts=40)
    p, q = toy.values
    fact = int(np.flatnonzero((p == 0) & (q == 1))[0])
    net = toy.net_b()
    with torch.no_grad():
        net.p.weight[0, fact] = 1.0
        assert float(net(toy.question(1, fact))) == 1.0
        assert float(net(toy.question(0, fact))) == 1.0


def test_every_instrument_meets_its_truth():
    assert_agrees(StoredVsDerived())


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    assert_agrees_in_part(
        StoredVsDerived(seed=seed, facts=int(draw.integers(3, 14)), noise=draw.uniform(0.01, 0.5))
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"facts": 2}, "facts is 2; allowed: 3 to 50"),
        ({"noise": 0.0}, "noise is 0.0; allowed: above 0 up to 1"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        StoredVsDerived.make(**wrong)


def test_it_can_be_drawn():
    assert_draws(StoredVsDerived())

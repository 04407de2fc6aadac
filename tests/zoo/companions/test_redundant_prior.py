"""A redundant prior: expected losses of mixture and MAP, by formula, by enumeration and by trial."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part, assert_draws

from geartrain import zoo
from geartrain.errors import InputError
from geartrain.zoo.companions.redundant_prior import RedundantPrior


def by_enumeration(toy: RedundantPrior, *, mixture: bool) -> float:
    """Expected cumulative loss over all sequences."""
    total = 0.0
    for x in itertools.product((0, 1), repeat=toy.tosses):
        chance = sum(
            w * math.prod(q if bit else 1 - q for bit in x) for w, q in zip(toy.prior, toy.coins, strict=True)
        )
        for t, bit in enumerate(x):
            p = float(toy.predict(np.array(t), np.array(sum(x[:t])), mixture=mixture))
            total -= chance * math.log(p if bit else 1 - p)
    return total


@pytest.mark.parametrize("coins", [(0.2, 0.6), (0.9, 0.5)])
def test_expected_losses_are_exact_by_enumeration(coins):
    toy = RedundantPrior(coins=coins, tosses=7)
    assert toy.entropy == pytest.approx(by_enumeration(toy, mixture=True), rel=1e-12)
    assert toy.map_loss == pytest.approx(by_enumeration(toy, mixture=False), rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_the_mixture_is_best_and_its_regret_at_most_the_entropy_of_the_coins(seed):
    draw = np.random.default_rng(seed)
    a, b, alone = (float(v) for v in draw.uniform(0.05, 0.95, 3))
    toy = RedundantPrior(coins=(a, b), alone=alone, copies=int(draw.integers(1, 40)))
    assert toy.entropy <= toy.map_loss
    assert 0 <= toy.entropy - toy.informed_loss <= -float(toy.prior @ np.log(toy.prior))


def test_copies_mislead_only_map():
    one, many = RedundantPrior(copies=1), RedundantPrior(copies=100)
    assert one.entropy == many.entropy
    assert one.map_loss < many.map_loss


def test_every_truth_is_met():
    assert_agrees(zoo.get("redundant-prior"))


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    coins = float(draw.uniform(0.05, 0.4)), float(draw.uniform(0.5, 0.95))
    copies, tosses = int(draw.integers(4, 60)), int(draw.integers(5, 60))
    assert_agrees_in_part(zoo.get("redundant-prior", coins=coins, copies=copies, tosses=tosses))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"coins": (0.3, 0.3)}, "two different numbers above 0 and below 1"),
        ({"alone": 1.0}, "alone is 1.0; allowed: above 0 and below 1"),
        ({"copies": 0}, "copies is 0; allowed: 1 or more"),
        ({"tosses": 0}, "tosses is 0; allowed: 1 to 500"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        zoo.get("redundant-prior", **wrong)


def test_it_can_be_drawn():
    assert_draws(zoo.get("redundant-prior"))

"""Two experts, both wrong: drift, variance and changes of mind of the log-odds, every instrument."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part, assert_draws

from geartrain import zoo
from geartrain.errors import InputError
from geartrain.zoo.companions.bernoulli_experts import BernoulliExperts


def test_variance_per_toss_between_experts_of_03_and_07():
    toy = BernoulliExperts()
    assert float(toy.truth["variance_per_toss"]) == pytest.approx(math.log(7 / 3) ** 2, rel=1e-12)
    assert float(toy.truth["variance_per_toss"]) == pytest.approx(0.7179, abs=5e-5)
    assert float(toy.truth["drift"]) == 0


@pytest.mark.parametrize("heads", [0.5, 0.3])
@pytest.mark.parametrize("tosses", [3, 8, 11])
def test_changes_of_mind_are_exact_by_enumeration(heads, tosses):
    mean = 0.0
    for tossed in itertools.product((-1, 1), repeat=tosses):
        walk = np.cumsum(tossed)
        signs = [w for w in np.sign(walk) if w]
        up = tossed.count(1)
        mean += heads**up * (1 - heads) ** (tosses - up) * sum(a != b for a, b in itertools.pairwise(signs))
    assert BernoulliExperts(heads=heads, tosses=tosses).changes == pytest.approx(mean, rel=1e-12)


def test_changes_of_mind_grow_as_a_root():
    few, many = (BernoulliExperts(tosses=n).changes for n in (500, 2000))
    assert many / few == pytest.approx(2, rel=0.05)
    assert many == pytest.approx(math.sqrt(2000 / (2 * math.pi)), rel=0.05)


def test_every_instrument_meets_its_truth():
    assert_agrees(zoo.get("bernoulli-experts"))


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    heads, expert = float(draw.uniform(0.3, 0.7)), float(draw.uniform(0.05, 0.45))
    tosses, log_odds = int(draw.integers(50, 300)), float(draw.uniform(0.2, 3))
    assert_agrees_in_part(
        zoo.get("bernoulli-experts", heads=heads, expert=expert, tosses=tosses, log_odds=log_odds)
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"heads": 0.0}, "heads is 0.0; allowed: 0.017 to 0.983"),
        ({"expert": 0.5}, "expert is 0.5; allowed: above 0 and below ½"),
        ({"tosses": 0}, "tosses is 0; allowed: 1 to 2000"),
        ({"log_odds": 0.0}, "log_odds is 0.0; allowed: numbers other than 0"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        zoo.get("bernoulli-experts", **wrong)


def test_it_can_be_drawn():
    assert_draws(zoo.get("bernoulli-experts"))

"""A hidden Markov model: bounds of the entropy rate, Fisher's information, beliefs, every instrument."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tests.zoo.agreement import assert_agrees, assert_draws

from geartrain import zoo
from geartrain.errors import InputError
from geartrain.zoo.companions.belief_hmm import BeliefHmm, every_word

CHEAP = {
    "entropy_rate",
    "linear_probe",
    "belief",
    "word_entropy",
    "hessian_trace",
    "jacobian_rank",
    "ntk_drift",
}


def test_bounds_of_the_entropy_rate_are_in_order_and_tight():
    toy = BeliefHmm(tilt=0.0)
    low, high = toy.bounds
    assert low < high < low + 1e-5
    assert low < math.log(3)  # what chance would lose


def test_a_state_that_cannot_be_forgotten_wrong_is_a_channel_with_a_coin():
    """Moves with chance ⅓ to every state forget all: symbols are independent, the rate is that of one symbol."""
    toy = BeliefHmm(moves=0.25, tells=0.95, tilt=0.0)
    free = BeliefHmm(moves=0.25, tells=0.95, tilt=0.0)
    uniform = np.stack([np.zeros((3, 3)), toy.logits[1]])
    object.__setattr__(free, "logits", uniform)
    assert free.bounds == pytest.approx((math.log(3), math.log(3)))
    assert toy.bounds[1] < math.log(3)


def test_words_have_probabilities_that_add_up_and_no_slope_in_total():
    toy = BeliefHmm()
    log_p, jacobian = toy.forward(toy.logits)
    assert np.exp(log_p).sum() == pytest.approx(1, abs=1e-13)
    assert np.abs(np.exp(log_p) @ jacobian).max() < 1e-14


def test_derivatives_of_the_forward_algorithm_are_those_of_differences():
    toy, step = BeliefHmm(length=3), 1e-6
    jacobian = toy.forward(toy.logits)[1]
    for place in range(18):
        moved = step * (np.arange(18) == place).reshape(2, 3, 3)
        slope = (toy.forward(toy.logits + moved)[0] - toy.forward(toy.logits - moved)[0]) / (2 * step)
        np.testing.assert_allclose(jacobian[:, place], slope, atol=1e-8)


def test_words_come_in_the_order_of_numbers():
    assert every_word(3)[5].tolist() == [0, 1, 2]


def test_every_truth_is_met():
    assert_agrees(zoo.get("belief-hmm"))


def test_truths_hold_for_random_parameters():
    draw = np.random.default_rng(0)
    toy = BeliefHmm(
        seed=4,
        moves=draw.uniform(0.03, 0.25),
        tells=draw.uniform(0.6, 0.95),
        tilt=draw.uniform(0.2, 0.6),
        length=3,
    )
    assert_agrees(toy, CHEAP)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"moves": 0.3}, "moves is 0.3, tells 0.8; allowed: 0.03 to 0.25"),
        ({"tells": 1.0}, "and 0.5 to 0.95"),
        ({"length": 5}, "tilt is 0.3, length 5; allowed: 0 to 1, and 3 or 4"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        zoo.get("belief-hmm", **wrong)


def test_it_can_be_drawn():
    assert_draws(zoo.get("belief-hmm"))

"""Softmax bandit: natural gradient, trust region, every instrument."""

from __future__ import annotations

import numpy as np
import pytest
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part, assert_draws

from geartrain import zoo
from geartrain.errors import InputError
from geartrain.zoo.risk.softmax_bandit import SoftmaxBandit


def test_the_natural_gradient_is_the_advantages():
    toy = SoftmaxBandit()
    p = toy.policy()
    fisher = np.diag(p) - np.outer(p, p)
    np.testing.assert_allclose(fisher @ toy.advantages(), p * toy.advantages(), atol=1e-15)


@pytest.mark.parametrize("seed", range(5))
def test_a_radius_of_a_thousandth_is_kept_within_five_per_cent(seed):
    toy = SoftmaxBandit(seed=seed)
    assert toy.divergence(toy.stride(1e-3)) / 1e-3 == pytest.approx(1, abs=0.05)


def test_what_is_broken_of_the_promise_falls_as_the_root_of_the_radius():
    toy = SoftmaxBandit()
    radii = np.array([1e-4, 1e-5, 1e-6])
    broken = [abs(toy.kl(toy.logits + toy.stride(r) * toy.advantages()) / r - 1) for r in radii]
    np.testing.assert_allclose(np.diff(np.log(broken)) / np.diff(np.log(radii)), 0.5, atol=0.03)


def test_the_divergence_is_the_sum_over_arms():
    toy = SoftmaxBandit()
    after = toy.policy(toy.logits + 0.7 * toy.advantages())
    assert (toy.policy() * np.log(toy.policy() / after)).sum() == pytest.approx(
        toy.divergence(0.7), rel=1e-12
    )


def test_every_instrument_meets_its_truth():
    assert_agrees(SoftmaxBandit())


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    toy = SoftmaxBandit(
        seed=seed,
        arms=int(draw.integers(3, 12)),
        spread=draw.uniform(0.3, 2),
        sureness=draw.uniform(0, 1.5),
        noise=draw.uniform(0.1, 1),
        radius=float(np.exp(draw.uniform(np.log(1e-4), np.log(0.05)))),
        step=draw.uniform(0.05, 0.5),
    )
    assert_agrees_in_part(toy)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"arms": 1}, "arms is 1; allowed: 2 to 100"),
        ({"spread": 0.0}, "spread is 0.0"),
        ({"radius": 0.0}, "radius is 0.0, step 0.5; allowed: above 0"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        zoo.get("softmax-bandit", **wrong)


def test_it_can_be_drawn():
    assert_draws(zoo.get("softmax-bandit"))

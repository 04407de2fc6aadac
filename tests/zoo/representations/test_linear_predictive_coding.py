"""Linear predictive coding: the equilibrium, its three relations to backpropagation, every instrument."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part, assert_draws

from geartrain.errors import InputError
from geartrain.zoo.representations.linear_predictive_coding import LinearPredictiveCoding


def test_settling_ends_at_the_closed_form():
    toy = LinearPredictiveCoding()
    objective = toy.objective
    place = objective.parameters().clone()
    while float((slope := objective.gradient(place)).norm()) > 1e-8:
        place = place - toy.rate * slope
    assert float(objective.value(place)) == pytest.approx(toy.least_energy, abs=1e-10)
    expected = toy.back(np.linalg.solve(toy.s, toy.residual))
    np.testing.assert_allclose(toy.surprises(place.numpy(), toy.parts[2]), expected, atol=1e-7)


@pytest.mark.parametrize("seed", range(5))
def test_a_soft_clamp_tends_to_backpropagation_and_a_hard_one_does_not(seed):
    toy = LinearPredictiveCoding(seed=seed)
    assert toy.truth["soft_nudge_slope"].value == pytest.approx(1, abs=0.1)
    plain = toy.back(toy.residual)
    turned = []
    for beta in (1e-3, 1e-2):
        soft = toy.soft(beta)
        turned.append(1 - soft @ plain / np.linalg.norm(soft) / np.linalg.norm(plain))
    assert np.log10(turned[1] / turned[0]) == pytest.approx(2, abs=0.2)
    assert toy.distance(toy.soft(1e-3)) < 0.05
    assert toy.distance(toy.hard(1e-3)) == pytest.approx(toy.distance(toy.hard(0.9)), rel=1e-6)
    assert toy.distance(toy.hard(1e-3)) > 0.2


def test_one_output_is_turned_by_neither():
    toy = LinearPredictiveCoding(widths=(3, 4, 1))
    plain, hard = toy.back(toy.residual), toy.hard(0.01)
    assert hard @ plain / np.linalg.norm(hard) / np.linalg.norm(plain) == pytest.approx(1, abs=1e-12)


def test_the_hessian_by_hand_is_autograds():
    toy = LinearPredictiveCoding(widths=(2, 3, 4, 2, 2), gain=1.5)
    found = toy.objective.hvp(torch.eye(9, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(found, toy.hessian, atol=1e-12)


def test_every_instrument_meets_its_truth():
    assert_agrees(LinearPredictiveCoding())


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    widths = tuple(int(w) for w in draw.integers(1, 6, int(draw.integers(3, 6))))
    assert_agrees_in_part(
        LinearPredictiveCoding(
            seed=seed, widths=widths, gain=draw.uniform(0.5, 1.5), beta=draw.uniform(0.001, 0.5)
        )
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"widths": (3, 3)}, r"widths is \(3, 3\); allowed: three or more"),
        ({"beta": 1.0}, "beta 1.0; allowed: a gain above 0, beta between 0 and 1"),
        ({"gain": 0.0}, "gain is 0.0"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        LinearPredictiveCoding.make(**wrong)


def test_it_can_be_drawn():
    assert_draws(LinearPredictiveCoding())

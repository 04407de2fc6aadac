"""Separable logistic regression: the margin, the way to infinity, every instrument."""

from __future__ import annotations

import numpy as np
import pytest
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part, assert_draws

from geartrain import zoo
from geartrain.errors import InputError
from geartrain.zoo.curvature.separable_logistic import SeparableLogistic

LATE = {"norm_per_log_step", "late_normalised_margin", "loss_exponent", "late_direction"}


def scattered(seed: int) -> SeparableLogistic:
    """Two clouds with a gap between them, the line through the origin at any angle."""
    draw = np.random.default_rng(seed)
    labels = tuple([1, -1] * int(draw.integers(3, 8)) + [1] * int(draw.integers(0, 4)))
    across, along = draw.uniform(0.6, 1.5, len(labels)) * labels, draw.normal(size=len(labels))
    angle = draw.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = tuple((float(a), float(b)) for a, b in np.stack([across, along], axis=1) @ turn.T)
    return SeparableLogistic(points=points, labels=labels, step=0.4, steps=int(draw.integers(20, 400)))


def test_the_reference_margin():
    margin, direction = SeparableLogistic().max_margin
    assert margin == pytest.approx(1.024295, abs=1e-6)
    np.testing.assert_allclose(direction, [0.768221, 0.640184], atol=1e-6)
    margins = SeparableLogistic().flipped @ direction
    np.testing.assert_allclose(margins[2:], margin, rtol=1e-12)  # the two negative points support it
    assert margins[:2].min() > 1.05 * margin


@pytest.mark.parametrize("seed", range(5))
def test_no_direction_has_a_larger_margin(seed):
    toy = scattered(seed)
    angles = np.linspace(0, 2 * np.pi, 20_001)
    best = (toy.flipped @ np.stack([np.cos(angles), np.sin(angles)])).min(0).max()
    assert toy.max_margin[0] == pytest.approx(best, rel=1e-3)
    assert toy.max_margin[0] >= best - 1e-12


def test_two_hundred_thousand_steps():
    toy = SeparableLogistic()
    way = toy.descend(200_000, every=20_000)[1:11]
    norms = np.linalg.norm(way, axis=1)
    assert np.polyfit(np.log(np.arange(1, 11)), norms, 1)[0] == pytest.approx(0.976281, rel=0.05)
    margins = np.array([toy.margins(w).min() for w in way]) / norms
    assert margins[-1] == pytest.approx(1.024295, rel=0.01)
    assert (np.diff(margins) > 0).all()


def test_descent_by_hand_is_pytorchs():
    toy = SeparableLogistic(steps=3)
    toy.run.advance(40)
    weight = next(iter(toy.run.model.parameters())).detach().numpy()[0]
    np.testing.assert_allclose(weight, toy.descend(43)[-1], atol=1e-12)


def test_every_instrument_meets_its_truth():
    assert_agrees(SeparableLogistic())


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    toy = scattered(seed)
    assert_agrees_in_part(toy, set(toy.truth) - LATE)


def test_mistakes_are_counted_while_there_are_some():
    toy = SeparableLogistic(points=((1.0, 0.2), (2.0, -1.9), (-1.0, 0.3), (-2.0, -0.4)), steps=1)
    assert toy.margins(toy.weights).min() < 0 or toy.truth["selective_risk"].value == 0.0
    assert_agrees(toy, set(toy.truth) - LATE)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"labels": (1, 1, 1, 1)}, "both of them present"),
        ({"labels": (1, -1)}, "4 points have the labels"),
        ({"step": 0.0}, "allowed: a step above 0"),
        ({"labels": (1, -1, 1, -1)}, "No line through the origin separates"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        zoo.get("separable-logistic", **wrong)


def test_it_can_be_drawn():
    assert_draws(SeparableLogistic())

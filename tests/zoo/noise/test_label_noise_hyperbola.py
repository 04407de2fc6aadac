"""Label noise on a hyperbola: the exact recursion, the drift to the flattest minimum, every instrument."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part, assert_draws

from geartrain import zoo
from geartrain.errors import InputError
from geartrain.zoo.noise.label_noise_hyperbola import LabelNoiseHyperbola


def test_the_start_is_a_minimum_of_trace_nine_and_a_ninth():
    toy = LabelNoiseHyperbola()
    assert toy.trace == pytest.approx(9.1111, abs=5e-5)
    assert float(toy.objective.gradient().norm()) < 1e-15
    assert min(LabelNoiseHyperbola(start=s).trace for s in np.linspace(1.001, 3, 50)) == pytest.approx(
        2, abs=1e-4
    )


def test_the_usual_rate_holds_within_five_per_cent_near_balance():
    toy, steps = LabelNoiseHyperbola(start=1.05), 2000
    *_, last = toy.walk(torch.Generator().manual_seed(0), steps)
    change = np.log((last[0] ** 2 - last[1] ** 2) / toy.imbalance)
    assert change.mean() == pytest.approx(-(0.02**2) * steps, rel=0.05)


def test_far_from_balance_the_usual_rate_is_ten_per_cent_too_slow():
    toy = LabelNoiseHyperbola()
    assert toy.rate(toy.imbalance) == pytest.approx(1.1 * 0.02**2, rel=0.01)


def test_the_trace_ends_within_five_per_cent_of_its_least_value():
    toy = LabelNoiseHyperbola()
    *_, last = toy.walk(torch.Generator().manual_seed(0), 9000)
    assert float((last**2).sum(0).mean()) == pytest.approx(2, rel=0.05)
    assert toy.resting_trace == pytest.approx(2, rel=0.05)


def test_its_run_does_what_the_walk_does():
    toy = LabelNoiseHyperbola()
    run = toy.run
    run.advance(20)
    first, second = (float(w.detach()) for w in run.model.parameters())
    assert 0 < first**2 - second**2 < toy.imbalance
    assert math.isfinite(first)


def test_every_instrument_meets_its_truth():
    assert_agrees(LabelNoiseHyperbola())


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    toy = LabelNoiseHyperbola(
        seed=seed, start=draw.uniform(1.2, 4), noise=draw.uniform(0.5, 1.2), step=draw.uniform(0.008, 0.02)
    )
    assert_agrees_in_part(toy)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"start": 1.0}, "start is 1.0; allowed: above 1"),
        ({"noise": 0.0}, "Without it nothing moves"),
        ({"step": 0.2}, "a quarter of the largest stable step"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        zoo.get("label-noise-hyperbola", **wrong)


def test_it_can_be_drawn():
    assert_draws(zoo.get("label-noise-hyperbola"))

"""Composed circuits: times with and without pay-offs of their own, the controls, every instrument."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part, assert_draws

from geartrain.errors import InputError
from geartrain.zoo.landscapes.composition_ode import PAYOFFS, CompositionOde


@pytest.mark.parametrize(
    ("start", "both", "one", "none"),
    [
        (0.2, 2.158, 5.475, 41.600),
        (0.1, 3.002, 11.187, 333.281),
        (0.05, 3.773, 21.883, 2666.618),
        (0.02, 4.736, 52.799, 41_666.62),
    ],
)
def test_times_of_reference(start, both, one, none):
    for payoff, time in zip(PAYOFFS, (both, one, none), strict=True):
        toy = CompositionOde(payoff=payoff, start=start)
        assert toy.stages()[2] == pytest.approx(time, rel=2e-4)
    assert none == pytest.approx(start**-3 / 3, rel=2e-3)
    if start == 0.02:  # the defaults are between; every truth is met there
        assert_agrees(CompositionOde(start=start), ["stages.one", "stages.none"])


def test_growth_of_the_times_as_the_start_shrinks():
    eps = np.array([0.04, 0.02, 0.01])
    times = {p: [CompositionOde(payoff=p, start=float(e)).stages()[2] for e in eps] for p in PAYOFFS}
    assert np.ptp(times["both"] - np.log(1 / eps)) < 0.1  # ln(1/ε) + O(1)
    assert np.ptp(times["one"] - 1 / eps - np.log(1 / eps)) < 0.15  # 1/ε + ln(1/ε) + O(1)
    assert np.polyfit(np.log(eps), np.log(times["none"]), 1)[0] == pytest.approx(-3, abs=1e-3)


def test_circuits_come_first_where_they_pay_and_not_where_they_do_not():
    a, b, whole = CompositionOde(payoff="both").stages()
    assert a == pytest.approx(b)
    assert a < 0.8 * whole
    a, b, whole = CompositionOde(payoff="one").stages()
    assert a < 0.25 * b
    a, b, whole = CompositionOde(payoff="none").stages()
    assert min(a, b) > 0.99 * whole


def test_knocking_out_half_a_circuit_leaves_the_combiner_without_a_slope():
    for payoff in PAYOFFS:
        gradient = CompositionOde(payoff=payoff).knocked_out().gradient()
        assert torch.equal(gradient, torch.zeros(1).double())


def test_frozen_circuits_decide_the_speed_of_the_combiner():
    toy = CompositionOde(start=0.1)
    assert float(toy.truth["time_with_finished_circuits"]) == pytest.approx(math.log(1.8))
    assert float(toy.truth["time_with_finished_circuits"]) < toy.stages()[2]
    assert math.exp(float(toy.truth["log_time_with_unfinished_circuits"])) > 1e7


def test_every_instrument_meets_its_truth():
    assert_agrees(CompositionOde())


@pytest.mark.parametrize("payoff", ["one", "none"])
def test_truths_hold_whatever_pays(payoff):
    toy = CompositionOde(payoff=payoff)
    assert_agrees_in_part(toy, [q for q in toy.truth if toy.truth[q].trial is None])


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    a1, a2, b1, b2, c = (float(v) for v in draw.uniform(0.2, 1.2, 5))
    toy = CompositionOde(
        payoff=PAYOFFS[seed % 3],
        start=float(draw.uniform(0.05, 0.3)),
        place=(a1, a2, b1, b2, c),
        step=float(draw.uniform(0.05, 0.5)),
    )
    assert_agrees_in_part(toy, [q for q in toy.truth if toy.truth[q].trial is None])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"payoff": "all"}, "payoff is 'all'; allowed: both, one, none"),
        ({"start": 0.9}, "start is 0.9 and step 0.2; allowed"),
        ({"place": (1.0, 0.0, 1.0, 1.0, 1.0)}, "allowed: five numbers, none of them 0"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        CompositionOde.make(**wrong)


def test_it_can_be_drawn():
    assert_draws(CompositionOde())

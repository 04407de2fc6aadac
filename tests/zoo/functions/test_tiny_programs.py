"""Tiny programs: counts, the coding theorem, the mixture's regret, every instrument on a periodic string."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part, assert_draws

from geartrain import zoo
from geartrain.errors import InputError
from geartrain.zoo.functions.tiny_programs import (
    TinyPrograms,
    mixture_loss,
    probability,
    programs,
    run,
    shortest,
    ways,
)


def test_counts_of_the_enumeration():
    toy = TinyPrograms()
    table = toy.table
    assert len(programs(16)) == 3280
    assert len(table) == 1225
    assert math.fsum(m for _, m in table.values()) == pytest.approx(0.899887, abs=5e-7)
    complexities = [k for k, _ in table.values()]
    assert [complexities.count(k) for k in (2, 4, 6, 8, 10, 12)] == [1, 2, 4, 12, 32, 94]


def test_slope_of_the_coding_theorem():
    toy = TinyPrograms()
    assert toy.slope == pytest.approx(0.968, abs=1e-3)
    assert all(-math.log2(m) <= k for k, m in toy.table.values())


def test_looking_back_finds_complexity_and_probability_of_every_output():
    for x, (k, m) in TinyPrograms().table.items():
        if len(x) <= 40:
            assert shortest(x, 7) == k
            assert probability(x, 7) == pytest.approx(m, rel=1e-12)


def test_all_ways_together_are_all_programs():
    outputs = {x for _, x in programs(12)}
    assert [sum(ways(x, i) for x in outputs) for i in range(6)] == [3**i for i in range(6)]


def test_copying_the_empty_tape_does_nothing():
    assert run((2, 2, 1, 2)) == "11"
    assert ways("", 5) == 1


@pytest.mark.parametrize("length", [1, 7, 50])
def test_regret_of_the_mixture_is_at_most_the_length_of_any_program(length):
    table = [(x, k, m) for x, (k, m) in TinyPrograms(longest=12).table.items() if x]
    tapes = np.array([[int(b) for b in (x * length)[:length]] for x, _, _ in table])
    prior = np.array([m for _, _, m in table])
    for i, (_, k, _) in enumerate(table[::5]):
        loss = mixture_loss(tapes, prior, tapes[5 * i])
        consistent = (tapes == tapes[5 * i]).all(1)
        assert loss == pytest.approx(-math.log(prior[consistent].sum() / prior.sum()), abs=1e-9)
        assert loss <= k * math.log(2)


def test_every_instrument_meets_its_truth():
    assert_agrees(zoo.get("tiny-programs"))


@pytest.mark.parametrize(("longest", "inputs"), [(10, 3), (12, 5), (14, 6)])
def test_truths_hold_for_other_parameters(longest, inputs):
    assert_agrees_in_part(zoo.get("tiny-programs", longest=longest, inputs=inputs))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"longest": 11}, "longest is 11; allowed: 10, 12, 14 or 16 bits"),
        ({"inputs": 2}, "inputs is 2; allowed: 3 to 6"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        zoo.get("tiny-programs", **wrong)


def test_it_can_be_drawn():
    assert_draws(zoo.get("tiny-programs"))

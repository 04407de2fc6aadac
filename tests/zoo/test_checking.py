"""A check says what it will cost, keeps what it has when it is stopped, and goes on from there."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch

from geartrain import zoo
from geartrain.errors import InputError
from geartrain.records import Measurement, State, Status
from geartrain.zoo import Toy, Truth
from geartrain.zoo._base import trial_result
from geartrain.zoo.certificate import Certificate
from geartrain.zoo.checking import check_all, plan


@dataclass(frozen=True)
class Dice(Toy):
    """Knows the number of its throws; the third breaks off if it is told to."""

    called: ClassVar[str] = "dice"
    thrown: ClassVar[list[str]] = []
    break_at: ClassVar[str] = ""
    how: ClassVar[str] = "raise"

    value: float = 1.0

    def truths(self) -> dict[str, Truth]:
        names = ("one", "two", "three", "four")
        return {n: Truth(self.value, trial=lambda g, n=n: self._throw(n)) for n in names}

    def _throw(self, name: str) -> Measurement:
        self.thrown.append(name)
        if name == self.break_at:
            if self.how == "raise":
                raise KeyboardInterrupt
            return Measurement(name, math.nan, "1", Status(State.INTERRUPTED, "Stopped by hand."))
        return trial_result(name, self.value)


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(Dice, "thrown", [])


@pytest.mark.parametrize("how", ["raise", "answer"])
def test_an_interruption_keeps_what_there_is(monkeypatch, how):
    monkeypatch.setattr(Dice, "break_at", "three")
    monkeypatch.setattr(Dice, "how", how)
    found = check_all([Dice()])
    assert [c.quantity for c in found.cells] == ["one", "two"]
    assert found.skipped == (("dice", "three"), ("dice", "four"))
    assert found.interrupted
    assert "2 quantities left: it was interrupted before the rest." in found.sentence


def test_it_goes_on_where_it_was(monkeypatch):
    monkeypatch.setattr(Dice, "break_at", "three")
    stopped = check_all([Dice()])
    again = Certificate.from_dict(json.loads(json.dumps(stopped.to_dict(), allow_nan=False)))
    monkeypatch.setattr(Dice, "break_at", "")
    Dice.thrown.clear()
    planned = plan([Dice()], earlier=again, resume=True)
    assert planned.sentence.startswith("4 quantities of 1 toy, 2 of them kept from before")
    found = check_all(planned)
    assert Dice.thrown == ["three", "four"]
    assert [c.quantity for c in found.cells] == ["one", "two", "three", "four"]
    assert found.passed
    assert not found.interrupted
    assert not found.skipped


def test_what_no_longer_holds_is_measured_again():
    earlier = check_all([Dice()])
    everything = ["one", "two", "three", "four"]
    for toy, seed, old in (
        (Dice(value=2.0), 0, earlier),
        (Dice(), 1, earlier),
        (Dice(), 0, dataclasses.replace(earlier, version="0.0.0")),
        (Dice(), 0, dataclasses.replace(earlier, cells=[_broken(c) for c in earlier.cells])),
    ):
        Dice.thrown.clear()
        check_all(plan([toy], seed=seed, earlier=old, resume=True))
        assert Dice.thrown == everything
    Dice.thrown.clear()
    check_all(plan([Dice()], earlier=earlier, resume=False))
    assert Dice.thrown == everything


def _broken(cell):
    return dataclasses.replace(cell, passed=False)


def test_certificates_survive_the_journey_to_json():
    found = check_all(["label-noise-hyperbola", Dice()])
    again = Certificate.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    assert again.sentence == found.sentence
    for a, b in zip(again.cells, found.cells, strict=True):
        np.testing.assert_array_equal(a.value, b.value)
        np.testing.assert_array_equal(a.truth, b.truth)
        same = dict.fromkeys(("value", "truth", "z", "relative_error"), 0.0)
        assert dataclasses.replace(a, **same) == dataclasses.replace(b, **same)
        assert a.z == b.z or (math.isnan(a.z) and math.isnan(b.z))


@pytest.mark.parametrize("plain", [{}, {"cells": [{}], "skipped": []}, {"cells": 3, "skipped": []}])
def test_other_files_are_no_certificates(plain):
    with pytest.raises(InputError, match="This is no certificate"):
        Certificate.from_dict(plain)


def test_the_price_is_about_right():
    toys = ["deep-linear", "step-chain"]
    check_all(toys, quick=True)  # what is slow the first time only
    planned = plan(toys)
    found = check_all(planned)
    spent = sum(c.cost.seconds for c in found.cells)
    assert spent / 5 < planned.seconds < 5 * spent
    assert f"about {planned.seconds:.0f} s." in planned.sentence
    assert plan(toys, earlier=found).seconds == pytest.approx(spent)


def test_what_there_is_is_handed_out_after_every_toy():
    kept: list[Certificate] = []
    check_all([Dice(), Dice(value=2.0), "tiny-programs"], keep=kept.append)
    assert [len(c.cells) for c in kept] == [4, 8]
    assert kept[0].skipped[:4] == tuple(("dice", n) for n in ("one", "two", "three", "four"))


def test_a_toy_that_cannot_say_what_it_knows_is_a_failed_cell(monkeypatch):
    monkeypatch.setattr(Dice, "truths", lambda self: 1 / 0)
    found = check_all([Dice(), "tiny-programs"])
    assert found.failures[0].explanation == "ZeroDivisionError: division by zero"
    assert found.failures[0].unexplained
    assert len(found.cells) == 1 + len(zoo.get("tiny-programs").truth)


def test_late_answers_are_left_out_not_failed():
    found = check_all(["quadratic"], seconds=0.2)
    assert found.passed
    assert len(found.cells) + len(found.skipped) == len(zoo.get("quadratic").truth)
    assert found.skipped


def test_the_same_seed_gives_the_same_certificate():
    def values(seed):
        return [c.value for c in check_all(["step-chain"], quick=True, seed=seed).cells]

    torch.manual_seed(1)
    first = values(3)
    torch.manual_seed(2)
    for a, b in zip(first, values(3), strict=True):
        np.testing.assert_array_equal(a, b)

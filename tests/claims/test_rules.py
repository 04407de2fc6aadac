"""Rules: every way in which a claim can come out."""

from __future__ import annotations

import math

import pytest

from geartrain.claims import Effect, Every, Finding, Outcome, Some, above, below, within

QUIET = {"c": Effect(0.0, -0.1, 0.1)}
LOUD = {"c": Effect(1.0, 0.8, 1.2)}
ODD = {"c": Effect(0.4, 0.2, 0.7)}


def effect(low, high):
    return Effect((low + high) / 2, low, high, count=8)


@pytest.mark.parametrize(
    ("found", "control", "outcome", "said"),
    [
        (effect(0.6, 1.0), QUIET, Outcome.SUPPORTED, "control is quiet"),
        (effect(0.1, 0.4), QUIET, Outcome.REFUTED, "outside"),
        (effect(-1.0, -0.8), QUIET, Outcome.REFUTED, "outside"),
        (effect(0.4, 1.0), QUIET, Outcome.INCONCLUSIVE, "crosses"),
        (effect(0.6, 1.0), LOUD, Outcome.REFUTED, "same effect"),
        (effect(0.6, 1.0), ODD, Outcome.INCONCLUSIVE, "not where it has to be"),
        (effect(0.6, 1.0), {}, Outcome.INCONCLUSIVE, "control is missing"),
        (Effect(math.nan, math.nan, math.nan), QUIET, Outcome.INCONCLUSIVE, "could not be computed"),
    ],
)
def test_above(found, control, outcome, said):
    decision = above(0.5).decide(Finding(found, control))
    assert decision.outcome is outcome
    assert said in decision.because


def test_bands_and_upper_bounds():
    band = within(-0.6, -0.4)
    assert band.decide(Finding(effect(-0.55, -0.45))).outcome is Outcome.SUPPORTED
    assert band.decide(Finding(effect(-0.3, -0.1))).outcome is Outcome.REFUTED
    assert band.decide(Finding(effect(-0.5, -0.3))).outcome is Outcome.INCONCLUSIVE
    assert below(1.0).decide(Finding(effect(0.2, 0.9))).outcome is Outcome.SUPPORTED


def test_how_many_seeds_would_decide():
    """Half-width 1/2, 1/4 from the bound, 8 seeds: 8 x 4 = 32."""
    assert above(0.5, control=None).decide(Finding(effect(0.25, 1.25))).more_seeds == 32


def test_a_universal_falls_by_one_cell():
    rule = Every(above(0.5, control=None))
    good, bad, open_ = effect(0.6, 1.0), effect(0.0, 0.2), effect(0.4, 0.7)
    assert rule.decide(Finding({"x": good, "y": good})).outcome is Outcome.SUPPORTED
    decision = rule.decide(Finding({"x": good, "y": open_, "z": bad}))
    assert decision.outcome is Outcome.REFUTED
    assert decision.because.startswith("z:")
    assert rule.decide(Finding({"x": good, "y": open_})).outcome is Outcome.INCONCLUSIVE


def test_at_least_some():
    rule = Some(above(0.5, control=None), 2)
    good, bad, open_ = effect(0.6, 1.0), effect(0.0, 0.2), effect(0.4, 0.7)
    assert rule.decide(Finding({"x": good, "y": good, "z": bad})).outcome is Outcome.SUPPORTED
    assert rule.decide(Finding({"x": good, "y": bad, "z": bad})).outcome is Outcome.REFUTED
    assert rule.decide(Finding({"x": good, "y": open_, "z": bad})).outcome is Outcome.INCONCLUSIVE


def test_rules_say_what_they_do():
    assert above(0.5).sentence.startswith(
        "Supported if the 95 % interval lies above 0.500 and the control's inside"
    )
    assert "One cell clearly against it" in Every(below(1.0)).sentence

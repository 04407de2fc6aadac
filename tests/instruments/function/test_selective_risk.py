"""Selective risk: best and random order, a known curve, coverage, ties."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom
from tests.instruments.function.echoes import answered, covered, echo
from tests.made import normal, objective_of

from geartrain.errors import InputError
from geartrain.instruments import selective_risk
from geartrain.instruments.function.selective_risk import curve, of_answers

LEAST = binom.ppf(0.001, 200, 0.95)


def honest(n: int, seed: int, places: int = 1, say=echo):
    """Confidence u uniform on (½, 1), right with chance u."""
    rng = np.random.default_rng(seed)
    u = rng.uniform(0.5, 1, n)
    z = torch.from_numpy(np.log(u / (1 - u)))
    scores = torch.stack([z, torch.zeros_like(z)], 1)
    labels = torch.from_numpy((rng.random(n) >= u).astype(int))
    if places == 1:
        return say(scores, labels)
    return say(scores[:, None].repeat(1, places, 1), labels[:, None].repeat(1, places))


# The top t have u > 1 - t/2, so risk(t) = t/4 and the area is 1/8; error rate 1/4.
AREA, BEST = 1 / 8, 1 / 4 + 3 / 4 * math.log(3 / 4)
# Chance that a right answer (density 8u/3) beats a wrong one (density 8(1-u)): ∫ 8u/3 (8u - 4u² - 3) du = 13/18.
AUROC = 13 / 18


@pytest.mark.parametrize("places", [1, 3])
def test_a_known_curve_and_its_coverage(places):
    results = [of_answers(honest(100, seed, places, answered)) for seed in range(200)]
    assert covered(results, AREA) >= LEAST
    for name, truth in (("excess", AREA - BEST), ("auroc", AUROC)):
        values, errors = (np.array([r.details[k] for r in results]) for k in (name, f"{name}_error"))
        assert (abs(values - truth) <= 2 * errors).sum() >= LEAST


def test_the_area_is_the_mean_of_the_curve():
    result = selective_risk(honest(50, 0))
    scores = selective_risk(honest(50, 0), "margin"), selective_risk(honest(50, 0), "entropy")
    rng = np.random.default_rng(0)
    u = rng.uniform(0.5, 1, 50)
    wrong = (rng.random(50) >= u).astype(float)[np.argsort(-u)]
    assert result.value == pytest.approx(np.mean(np.cumsum(wrong) / np.arange(1, 51)), rel=1e-12)
    # For two classes every confidence orders alike.
    assert [s.value for s in scores] == pytest.approx([result.value] * 2)
    assert result.details["risk"][-1] == result.details["random"]


def test_best_and_random_order():
    wrong = np.array([0.0] * 70 + [1.0] * 30)
    best = curve(-np.arange(100.0), wrong)
    assert best.value == pytest.approx(best.best, abs=1e-15)
    # The sum differs from r + (1-r) ln(1-r) by at most 1/n.
    assert abs(best.best - (0.3 + 0.7 * math.log(0.7))) <= 1 / 100
    assert curve(np.zeros(100), wrong).value == pytest.approx(0.3)
    rng = np.random.default_rng(0)
    areas = [curve(rng.random(100), wrong).value for _ in range(400)]
    assert abs(np.mean(areas) - 0.3) <= 4 * np.std(areas) / 20


def test_the_influence_is_the_derivative():
    rng = np.random.default_rng(1)
    confidence, wrong = rng.random(400), (rng.random(400) < 0.3).astype(float)
    full = curve(confidence, wrong)
    left = np.array([curve(np.delete(confidence, i), np.delete(wrong, i)).value for i in range(400)])
    jackknife = 399 * (full.value - left)
    influence = full.influence - full.influence.mean()
    # The two differ by terms of order ln(n)/n of their size: the weights reach ln n.
    assert np.corrcoef(jackknife, influence)[0, 1] > 0.999
    assert influence.std() == pytest.approx(jackknife.std(), rel=2 * math.log(400) / 400)


def test_duplicates_and_scale_leave_it():
    scores, labels = normal(60, 4), torch.arange(60) % 4
    one = selective_risk(echo(scores, labels), "margin")
    assert selective_risk(echo(9 * scores, labels), "margin").value == pytest.approx(one.value)
    twice = selective_risk(echo(scores.repeat(2, 1), labels.repeat(2)), "margin")
    # Of twice the rows the steps are finer: the first of n adds 1/n of its own error at most.
    assert abs(twice.value - one.value) <= math.log(60) / 60


def test_refusals():
    with pytest.raises(InputError, match="confidence is 'luck'; allowed: 'probability'"):
        selective_risk(honest(20, 0), "luck")
    assert "one class" in selective_risk(echo(normal(20, 1), torch.zeros(20).long())).status.sentence
    numbers = objective_of(normal(20, 1), normal(20, 1))
    assert not selective_risk(numbers).status.usable

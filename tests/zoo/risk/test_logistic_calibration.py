"""Calibration of logistic regression: the limit's reference numbers, simulated fits, every instrument."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import expit
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part, assert_draws

from geartrain import zoo
from geartrain.errors import InputError
from geartrain.zoo.risk.logistic_calibration import LogisticCalibration


def test_the_reference_numbers():
    expected = {(0.2, 5.0): 1.4994, (0.2, 1.0): 1.3112, (0.1, 5.0): 1.1678, (0.1, 1.0): 1.1238}
    for (ratio, strength), alpha in expected.items():
        assert LogisticCalibration(ratio=ratio, strength=strength).limit[0] == pytest.approx(
            alpha, abs=5.1e-5
        )
    assert LogisticCalibration().limit == pytest.approx((1.4994, 4.7436, 3.0269), abs=5.1e-5)


def test_without_a_signal_half_as_many_coefficients_as_examples_can_be_fitted():
    assert LogisticCalibration(strength=0.01).boundary == pytest.approx(0.5, abs=2e-3)


def test_fits_with_800_coefficients_are_inflated_by_alpha():
    toy, generator = LogisticCalibration(), torch.Generator().manual_seed(0)
    slopes = [toy.fit(generator, size)[0] for size in (800, 400, 400, 400)]
    assert np.mean(slopes) == pytest.approx(toy.limit[0], rel=0.05)


def test_what_happens_where_the_fit_says_something_is_right_on_many_examples():
    toy, generator = LogisticCalibration(), torch.Generator().manual_seed(0)
    x = torch.randn(400_000, 6, generator=generator, dtype=torch.float64).numpy() / 6**0.5
    y = torch.rand(400_000, generator=generator, dtype=torch.float64).numpy() < expit(
        x @ toy.truth_weights[0]
    )
    score = x @ toy.fitted_weights[0]
    assert score.var() == pytest.approx(toy.score_variance, rel=0.01)
    for low in (-4.0, -1.0, 0.5, 3.0):
        chosen = (score > low) & (score < low + 0.2)
        said = toy.happens(score[chosen]).mean()
        assert y[chosen].mean() == pytest.approx(said, abs=4 * np.sqrt(said * (1 - said) / chosen.sum()))


def test_every_instrument_meets_its_truth():
    assert_agrees(LogisticCalibration())


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    strength = draw.uniform(0.5, 8)
    limit = LogisticCalibration(strength=strength, ratio=0.02).boundary
    toy = LogisticCalibration(
        seed=seed,
        strength=strength,
        ratio=draw.uniform(0.1, 0.6) * limit,
        dimension=int(draw.integers(2, 12)),
    )
    assert_agrees_in_part(toy)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"strength": 0.0}, "allowed: 0.01 to 30"),
        ({"ratio": 0.32}, "the examples are separable and there is no fit"),
        ({"dimension": 1}, "dimension is 1, examples 4000; allowed: 2 to 50"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        zoo.get("logistic-calibration", **wrong)


def test_it_can_be_drawn():
    assert_draws(zoo.get("logistic-calibration"))

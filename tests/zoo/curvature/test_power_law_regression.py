"""Power-law regression: the reference losses, the three exponents, every instrument."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import zeta
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part, assert_draws

from geartrain import instruments
from geartrain.errors import InputError
from geartrain.zoo.curvature.power_law_regression import PowerLawRegression


def test_the_reference_losses():
    toy = PowerLawRegression()
    assert toy.flow(1e4) == pytest.approx(0.15244, rel=1e-4)
    assert toy.flow(1e5) == pytest.approx(0.085722, rel=1e-5)
    np.testing.assert_allclose(toy.descend(np.array([1e4, 1e5])), [0.15244, 0.085722], rtol=5e-5)


def test_the_clean_window_needs_the_untouched_rest():
    toy = PowerLawRegression(modes=10_000)
    times = np.geomspace(1e4, 1e6, 5)  # up to M^(1+a)/100
    whole = toy.descend(times)
    cut = whole - zeta(1.5, 10_001)
    fitted, too_steep = (np.polyfit(np.log(times), np.log(loss), 1)[0] for loss in (whole, cut))
    assert fitted == pytest.approx(-0.25, rel=0.03)
    assert too_steep < -0.25 * 1.2


def test_features_and_data_tend_to_their_power_laws():
    toy = PowerLawRegression()
    sizes = np.array([100, 1000, 10_000])
    np.testing.assert_allclose(zeta(1.5, sizes + 1), sizes**-0.5 / 0.5, rtol=3e-3)
    samples = np.array([1000.0, 10_000.0])
    slope = np.diff(np.log([toy.risk(d) for d in samples]))[0] / np.log(10)
    assert slope == pytest.approx(-0.5, rel=0.03)


def test_the_micro_predicts_the_macro():
    toy = PowerLawRegression(spectrum=0.6, teacher=0.4, features=40)
    i = np.log(np.arange(1, 41))
    spectrum = instruments.ntk_spectrum(toy.objective).value[:40]
    variances = -np.polyfit(i, np.log(spectrum), 1)[0]
    along = (toy.linear.inputs.T @ toy.linear.targets[:, 0] / len(toy.linear.inputs)) ** 2 / toy.variances
    teacher = -np.polyfit(i, np.log(along), 1)[0]
    times = np.geomspace(1e3, 1e5, 5)
    macro = np.polyfit(np.log(times), np.log(toy.descend(times)), 1)[0]
    assert macro == pytest.approx(-(teacher - 1) / variances, rel=0.03)


def test_every_instrument_meets_its_truth():
    assert_agrees(PowerLawRegression())


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    spectrum = float(draw.uniform(0.4, 2.0))
    toy = PowerLawRegression(
        seed=seed,
        spectrum=spectrum,
        teacher=float(draw.uniform(0.3, min(1.5, 1 + spectrum))),
        features=int(draw.integers(5, 30)),
        time=float(draw.uniform(0.5, 4.0)),
    )
    assert_agrees_in_part(toy, set(toy.truth) - {"loss_plane"})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"spectrum": 0.0}, "spectrum is 0.0 and teacher 0.5; allowed: spectrum 0.1 to 3"),
        ({"teacher": 3.0}, "teacher 0.1 to 1 . spectrum"),
        ({"features": 2}, "allowed: 4 to 40 features"),
        ({"time": 0.0}, "time is 0.0; allowed: above 0"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        PowerLawRegression(**wrong)


def test_it_can_be_drawn():
    assert_draws(PowerLawRegression())

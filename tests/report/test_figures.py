from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geartrain.records import Curve, Measurement, State, Status
from geartrain.report import axes, figures, words

FINITE = st.floats(-1e300, 1e300, allow_nan=False)


@given(st.lists(FINITE, min_size=1, max_size=6))
def test_a_linear_axis_holds_its_values_and_has_ticks_inside(values: list[float]) -> None:
    axis = axes.linear_axis([np.array(values)], 0.0, 100.0)
    pixels = axis.pixels(np.array(values))
    assert ((pixels >= -1e-6) & (pixels <= 100 + 1e-6)).all()
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 12
    assert all(-0.1 <= x <= 100.1 for x in axis.pixels(np.array(ticks)))


@given(st.lists(st.floats(1e-300, 1e300), min_size=1, max_size=6))
def test_a_log_axis_holds_its_values_and_has_ticks_inside(values: list[float]) -> None:
    axis = axes.log_axis([np.array(values)], 100.0, 0.0)
    assert axis is not None
    pixels = axis.pixels(np.array(values))
    assert ((pixels >= -1e-6) & (pixels <= 100 + 1e-6)).all()
    assert 1 <= len(axis.ticks()) <= 12


def test_equal_ratios_are_equally_far_apart_on_a_log_axis() -> None:
    pixels = axes.Axis(1.0, 100.0, 0.0, 10.0, log=True).pixels(np.array([1.0, 10.0, 100.0]))
    np.testing.assert_allclose(pixels, [0.0, 5.0, 10.0])


def test_what_has_no_logarithm_has_no_place_on_a_log_axis() -> None:
    assert axes.log_axis([np.array([1.0, 0.0])], 0.0, 1.0) is None
    assert np.isnan(axes.Axis(1.0, 2.0, 0.0, 1.0, log=True).pixels(np.array([-1.0, 0.0, np.nan]))).all()


def test_training_and_validation_share_a_panel_and_all_panels_share_steps() -> None:
    steps = np.arange(10)
    drawn = figures.curves(
        [
            Curve("training loss", steps, 1.0 / (1 + steps), "ℓ"),
            Curve("val_loss", steps[::3], np.ones(4), "ℓ"),
            Curve("learning rate", steps * 7, np.ones(10), "θ²/ℓ"),
        ],
        "k",
    )
    assert [figure.title for figure in drawn] == ["Loss (ℓ)", "Learning rate (θ²/ℓ)"]
    assert [line.name for line in drawn[0].lines] == ["training", "validation"]
    assert all('"x":[0.0,63.0,' in figure.data for figure in drawn)


def test_thinning_keeps_peaks_troughs_and_gaps() -> None:
    y = np.sin(np.arange(100_000) / 7.0)
    y[31_415], y[27_182], y[16_180] = 50.0, -50.0, np.nan
    (figure,) = figures.curves([Curve("loss", np.arange(y.size), y, "ℓ")], "k")
    assert len(figure.data) < 20_000
    assert "50.0" in figure.data
    assert "-50.0" in figure.data
    assert "null" in figure.data
    assert "✗ loss: 1 of 100,000 values not finite, the first at step 16,180." in figure.note


@pytest.mark.parametrize(("noise", "drawn"), [(0.0, 0), (0.5, 2)])
def test_only_a_rough_line_is_shown_with_its_medians(noise: float, drawn: int) -> None:
    steps = np.arange(2000)
    values = np.exp(-steps / 400) + noise * np.random.default_rng(0).random(2000) + 0.1
    (figure,) = figures.curves([Curve("loss", steps, values, "ℓ")], "k")
    assert str(figure.svg).count(" raw") == drawn  # one in the linear and one in the logarithmic version


def test_a_loss_over_decades_starts_logarithmic_and_an_accuracy_never_is() -> None:
    steps = np.arange(50)
    loss, accuracy = figures.curves(
        [Curve("loss", steps, 10.0 ** (-steps / 10), "ℓ"), Curve("accuracy", steps, 0.01 + steps / 50, "1")],
        "k",
    )
    assert (loss.switchable, loss.log) == (True, True)
    assert (accuracy.switchable, accuracy.log) == (False, False)


def test_a_single_value_is_drawn_as_a_dot() -> None:
    (figure,) = figures.curves([Curve("validation loss", np.array([5]), np.array([0.3]), "ℓ")], "k")
    assert " points" in str(figure.svg)


def test_a_spectrum_without_a_positive_density_is_not_drawn() -> None:
    status = Status(State.ESTIMATE, "")
    for values in (np.zeros(5), np.full(5, np.nan), np.ones(1)):
        density = Measurement("hessian_spectrum", values, "ℓ/θ²", status, dims=("eigenvalue",))
        assert figures.spectrum(density, "k", 900) is None


def test_a_spectrum_marks_each_known_eigenvalue() -> None:
    density = Measurement(
        "hessian_spectrum",
        np.ones(20),
        "ℓ/θ²",
        Status(State.ESTIMATE, ""),
        dims=("eigenvalue",),
        coords={"eigenvalue": np.linspace(-1, 9, 20)},
        details={"eigenvalues": np.array([9.0, 8.0]), "smallest": np.array([-1.0])},
    )
    assert str(figures.spectrum(density, "k", 900)).count('class="rug"') == 3


@pytest.mark.parametrize(
    ("effect", "error", "expected"),
    [
        (None, None, "not tried on a fork"),
        (float("nan"), 0.1, "the fork did not end with a finite loss"),
        (0.3, float("nan"), "error unknown"),
        (0.1, 0.06, "within two standard errors of no change"),
        (0.3, 0.01, "of the baseline loss won back"),
        (2.99, 0.01, "of the baseline loss won back (the original had climbed above the baseline)"),
        (-0.3, 0.01, "worse: this change does harm here"),
    ],
)
def test_gains_are_judged_by_their_error(effect: float | None, error: float | None, expected: str) -> None:
    assert words.gain_judgement(effect, error) == expected


@pytest.mark.parametrize("high", [3e5, 3e6, 9e4])
def test_ticks_of_a_log_axis_leave_room_for_each_other(high: float) -> None:
    axis = axes.log_axis([np.array([1.7e3, high])], 120.0, 10.0)
    assert axis is not None
    ticks = axis.ticks(3)
    assert 2 <= len(ticks) <= 6


def test_the_axis_of_a_spectrum_has_the_unit_of_eigenvalues_not_of_their_density(too_high) -> None:
    assert too_high.spectrum.unit == "θ²/ℓ"
    assert "eigenvalue (ℓ/θ²)" in str(figures.spectrum(too_high.spectrum, "k", 900))


@pytest.mark.parametrize(
    ("value", "error", "shown"),
    [
        (-4.6e-16, 0.24, "0.00 ± 0.24"),
        (64.0, 0.0, "64"),
        (0.02673, 6.2e-4, "0.02673 ± 0.00062"),
        (5e4, 3e3, "50000 ± 3000"),
        (1.0, 7.7e-17, "1"),
    ],
)
def test_a_value_is_written_to_the_digits_that_its_error_leaves(
    value: float, error: float, shown: str
) -> None:
    assert words.with_error(value, error) == shown


def test_no_gain_is_minus_zero() -> None:
    assert words.gain(-0.001, 0.24) == "0 ± 24%"


def test_a_fork_that_the_budget_ended_says_how_far_it_came(too_high) -> None:
    fork = dataclasses.replace(too_high.forks[0], complete=False, steps=40, details={"planned": 120.0})
    assert words.length(fork) == "40 of 120 steps: the budget ended it"
    assert words.length(too_high.forks[0]) == "120 steps"


def test_losses_at_the_end_are_told_where_one_of_them_broke(too_high) -> None:
    broken = dataclasses.replace(too_high.forks[0], reference=np.full(31, np.nan))
    assert words.from_to(broken) == "not finite → 0.596"
    assert words.from_to(dataclasses.replace(broken, losses=np.full(31, np.nan))) == ""


def test_what_could_not_be_measured_is_not_called_ruled_out_by_a_gear(too_high) -> None:
    gear = dataclasses.replace(
        too_high.findings[0].predictions[-1],
        verdict="not measured",
        measured=None,
        note="The targets are classes.",
    )
    finding = dataclasses.replace(too_high.findings[0], predictions=(gear, gear))
    assert words.why_not(finding) == "not judged: The targets are classes"

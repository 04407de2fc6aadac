import numpy as np
import pytest
from tests import healthy, planted

from geartrain import instruments
from geartrain.records import State
from geartrain.run import History


def history(losses, **columns):
    steps = list(range(len(losses)))
    return History({"step": steps, "loss": [float(v) for v in losses], **columns})


def noise(count, seed=0, scale=0.1):
    return scale * np.random.default_rng(seed).standard_normal(count)


TIME = np.arange(600)


@pytest.mark.parametrize("power", [-0.1, -0.5, -1.0, 0.3])
def test_slope_of_a_power_law_is_its_exponent(power):
    # Averaging over stretches of a curved line moves the slope by less than (width/step)² ~ 1e-3.
    result = instruments.loss_slope(history((TIME + 1.0) ** power))
    assert float(result) == pytest.approx(power, abs=2e-3)
    assert result.details["predicted_gain"] == pytest.approx(1 - 2.0**power, abs=2e-3)


def test_slope_has_an_honest_error():
    hits = 0
    for seed in range(60):
        result = instruments.loss_slope(history((TIME + 1.0) ** -0.5 * np.exp(noise(600, seed, 0.3))))
        hits += abs(float(result) + 0.5) <= 2 * float(result.standard_error)
    # 95 % of 60, minus three binomial deviations and the tails of a t with 10 degrees of freedom.
    assert hits >= 50


def test_slope_does_not_care_about_the_unit_of_the_loss():
    losses = (TIME + 1.0) ** -0.5 * np.exp(noise(600))
    assert float(instruments.loss_slope(history(7 * losses))) == pytest.approx(
        float(instruments.loss_slope(history(losses)))
    )


def test_slope_of_a_negative_loss_does_not_exist():
    assert instruments.loss_slope(history(-1.0 - TIME)).status.state is State.NOT_APPLICABLE


def test_oscillation_is_one_for_alternation_and_zero_for_noise():
    assert float(instruments.loss_oscillation(history(2.0 + (-1.0) ** TIME))) == pytest.approx(1.0)
    values = [float(instruments.loss_oscillation(history(np.exp(noise(600, s))))) for s in range(40)]
    errors = [
        float(instruments.loss_oscillation(history(np.exp(noise(600, s)))).standard_error) for s in range(40)
    ]
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(40) + 0.02
    assert 0.5 < np.mean(errors) / np.std(values) < 2.0


def test_oscillation_of_a_smooth_loss_is_negative_and_its_period_is_found():
    wave = instruments.loss_oscillation(history(2.0 + np.sin(2 * np.pi * TIME / 20)))
    assert float(wave) < -2.5
    assert wave.details["period"] == pytest.approx(20.0)


def test_a_constant_loss_has_no_oscillation():
    assert instruments.loss_oscillation(history(np.ones(100))).status.state is State.NOT_APPLICABLE


@pytest.mark.parametrize("flat_share", [0.3, 0.5, 0.8])
def test_plateau_of_a_loss_that_falls_and_then_rests(flat_share):
    falling = int(600 * (1 - flat_share))
    losses = np.concatenate([np.linspace(2, 1, falling), np.ones(600 - falling)])
    result = instruments.loss_plateau(history(losses))
    assert float(result) == pytest.approx(flat_share, abs=2 / 50)
    assert result.details["to_end"]
    assert not result.details["from_start"]
    assert result.details["level"] == pytest.approx(0.5, abs=0.02)


def test_a_loss_that_never_moves_is_one_plateau_with_and_without_noise():
    for losses in (np.ones(100), 1.0 + noise(600)):
        result = instruments.loss_plateau(history(losses))
        assert float(result) > 0.9
        assert result.details["from_start"]


def test_a_straight_descent_has_no_plateau():
    assert float(instruments.loss_plateau(history(np.linspace(2, 1, 600)))) <= 0.05


def test_spikes_are_counted_once_each():
    losses = np.exp(noise(1000))
    losses[[300, 301, 302, 700]] *= 10.0
    result = instruments.loss_spikes(history(losses))
    assert result.details["steps"] == [300, 700]
    assert float(result) == pytest.approx(2.0)
    assert result.details["largest"] == pytest.approx(10.0, rel=0.5)


def test_a_fall_is_no_spike_and_noise_of_any_size_is_none():
    for scale in (0.01, 0.1, 1.0):
        losses = np.exp(noise(2000, scale=scale) - np.arange(2000) / 500)
        assert float(instruments.loss_spikes(history(losses))) <= 0.5


def test_zeros_from_rounding_are_no_obstacle():
    losses = np.exp(noise(600, scale=1.0))
    losses[::50] = 0.0
    assert float(instruments.loss_spikes(history(losses))) == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tanh mlp", "regression", "small batch"])
def test_healthy_runs_have_no_spikes(name):
    run = healthy.HEALTHY[name](0)
    run.train()
    assert float(instruments.loss_spikes(run)) == 0.0
    assert instruments.gradient_spikes(run).details["count"] == 0
    assert float(instruments.loss_progress(run)) > 0.3


def test_batches_of_one_have_no_spikes():
    run = planted.planted_run("batch 1")
    run.advance(1500)
    assert float(instruments.loss_spikes(run)) < 1.0


def test_progress_of_a_geometric_loss():
    losses = 0.99 ** np.arange(1000)
    result = instruments.loss_progress(history(losses))
    assert result.details["initial"] == pytest.approx(losses[:10].mean())
    assert result.details["final"] == pytest.approx(losses[-50:].mean())
    assert float(result) == pytest.approx(1 - losses[-50:].mean() / losses[:10].mean())
    assert result.details["rose"] == pytest.approx(1.0)


def test_progress_of_a_loss_that_came_back_up():
    losses = np.concatenate([np.linspace(4, 1, 300), np.linspace(1, 8, 300)])
    result = instruments.loss_progress(history(losses))
    assert float(result) < 0
    assert result.details["rose"] > 6


def test_progress_stops_where_the_loss_stopped_being_finite():
    losses = [2.0] * 10 + [1.0] * 10 + [float("nan")]
    result = instruments.loss_progress(history(losses))
    assert result.details["failed"]
    assert float(result) == pytest.approx(0.5)
    assert "stopped being finite" in result.status.sentence

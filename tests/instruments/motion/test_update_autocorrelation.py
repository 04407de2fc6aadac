"""Autocorrelation of updates: single modes, noise, momentum, honest errors over seeds, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binom
from tests.training_toys import bowl_run, classifier, fingerprint, fragile_run, sgd_bowl

from geartrain import instruments
from geartrain.errors import InputError
from geartrain.instruments import _window
from geartrain.instruments.motion.update_autocorrelation import autocorrelations
from geartrain.records import State


def inner_of(series: np.ndarray) -> np.ndarray:
    return series @ series.swapaxes(-1, -2)


def autoregressive(seeds: int, steps: int, dims: int, memory: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    series = np.empty((seeds, steps, dims))
    series[:, 0] = rng.normal(size=(seeds, dims)) / np.sqrt(1 - memory**2)
    for t in range(1, steps):
        series[:, t] = memory * series[:, t - 1] + rng.normal(size=(seeds, dims))
    return series


@pytest.mark.parametrize(("lr", "sign"), [(0.5, 1.0), (0.99, 1.0), (1.01, -1.0), (1.9, -1.0)])
def test_one_mode(lr, sign):
    result = instruments.update_autocorrelation(sgd_bowl([1.0], lr=lr))
    np.testing.assert_allclose(result.value, [sign, 1.0], atol=1e-9)
    np.testing.assert_allclose(result.standard_error, 0.0, atol=1e-6)
    assert result.details["multiplier"] == pytest.approx(1 - lr, abs=1e-9)


def test_a_persistent_oscillation_is_all_alternation():
    # ηλ = 2 exactly: the same step back and forth.
    details = instruments.update_autocorrelation(sgd_bowl([1.0], lr=2.0)).details
    assert details["alternation"] == pytest.approx(1.0)
    assert details["drift"] == pytest.approx(0.0, abs=1e-12)
    assert details["dimension"] == pytest.approx(1.0)


def test_equals_the_plain_formula():
    run = classifier()
    series = _window.window(run, 16).updates.double().numpy()
    result = instruments.update_autocorrelation(run, lags=3)
    for lag in (1, 2, 3):
        first, second = series[:-lag], series[lag:]
        plain = (first * second).sum() / np.sqrt((first**2).sum() * (second**2).sum())
        assert result.value[lag - 1] == pytest.approx(plain, rel=1e-9)
    assert result.coords["lag"] == [1, 2, 3]


def test_momentum_is_its_own_memory():
    # Without any curvature the velocity is autoregressive with coefficient β.
    torch.manual_seed(0)
    run = bowl_run([1e-12] * 300, lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.6))
    plain = run.batch_loss
    run.batch_loss = lambda model, batch: (
        plain(model, batch) + (model.weight * torch.randn(300).double()).sum()
    )
    run.advance(20)
    result = instruments.update_autocorrelation(run, steps=60)
    assert np.all(np.abs(result.value - [0.6, 0.36]) <= 4 * result.standard_error)


@pytest.mark.parametrize("memory", [0.0, 0.6, -0.6])
def test_coverage_over_seeds(memory):
    # 64 steps in 20 dimensions, 200 seeds: two standard errors hold the truth as often as they should
    # (autocorrelations of finite windows are slightly low, so 90 % is what is asked).
    value, error = autocorrelations(inner_of(autoregressive(200, 64, 20, memory)), 2)
    for lag in (1, 2):
        covered = np.sum(np.abs(value[:, lag - 1] - memory**lag) <= 2 * error[:, lag - 1])
        assert covered >= binom.ppf(0.001, 200, 0.9)


def test_coverage_with_the_default_window():
    value, error = autocorrelations(inner_of(autoregressive(200, 16, 100, 0.0)), 2)
    covered = (np.abs(value) <= 2 * error).sum(0)
    assert np.all(covered >= binom.ppf(0.001, 200, 0.9))
    assert np.all(np.abs(value.mean(0)) <= 4 * value.std(0, ddof=1) / np.sqrt(200))


def test_length_and_rotation_do_not_matter():
    series = autoregressive(3, 16, 5, 0.3)
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))[0]
    one, two = (autocorrelations(inner_of(s), 2) for s in (series, 7 * series @ turn))
    np.testing.assert_allclose(one, two, rtol=1e-9)


def test_the_run_is_as_it_was_and_the_window_is_shared():
    run = fragile_run()
    run.advance(3)
    before = fingerprint(run)
    instruments.update_cosine(run)
    assert instruments.update_autocorrelation(run).cost.gradients == 0
    assert fingerprint(run) == before


def test_where_there_is_none():
    still = instruments.update_autocorrelation(sgd_bowl([1.0], lr=0.0))
    assert still.status.state is State.NOT_APPLICABLE
    assert "None of the steps moved" in still.status.sentence
    few = instruments.update_autocorrelation(classifier(), steps=3)
    assert "3 steps are too few for 2 lags; at least 4" in few.status.sentence
    assert instruments.update_autocorrelation(classifier(), budget="1ms").status.state in {
        State.OUT_OF_BUDGET,
        State.ESTIMATE,
    }
    broken = instruments.update_autocorrelation(sgd_bowl([1.0], lr=1e200))
    assert broken.status.state is State.NON_FINITE


def test_refusals():
    with pytest.raises(InputError, match="lags is 0; at least 1"):
        instruments.update_autocorrelation(classifier(), lags=0)

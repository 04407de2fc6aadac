"""Trace estimators: exact cases, a naive twin, unbiasedness at fixed sample size, coverage, budgets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binom
from tests.bowls import generator

from geartrain.errors import InputError, NonFiniteError
from geartrain.linalg import Meter, Stop, trace
from geartrain.linalg.trace import xtrace

SPECTRA = {
    "power-law": 1 / np.arange(1, 201) ** 1.5,
    "flat": np.ones(200) + 0.1 * np.cos(np.arange(200)),
    "indefinite": np.concatenate([np.geomspace(1e-4, 3, 120), -np.geomspace(1e-4, 0.5, 80)]),
}


def dense(values, seed=0):
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.standard_normal((len(values), len(values))))
    matrix = torch.as_tensor((q * values) @ q.T)
    return matrix, lambda v: matrix.to(v.dtype) @ v


@pytest.mark.parametrize("estimator", ["xtrace", "hutchpp", "hutchinson"])
def test_exact_when_affordable(estimator):
    matrix, matvec = dense(SPECTRA["indefinite"])
    result = trace(matvec, 200, 200, estimator=estimator)
    assert result.value == pytest.approx(float(matrix.trace()), rel=1e-12)
    assert (result.standard_error, result.estimator, result.num_products) == (0, "exact", 200)


@pytest.mark.parametrize("estimator", ["xtrace", "hutchpp"])
def test_low_rank_is_exact(estimator):
    _, matvec = dense(np.array([3.0, -1.0, 2.0] + [0.0] * 197))
    result = trace(matvec, 200, 30, estimator=estimator)
    assert result.value == pytest.approx(4, rel=1e-12)
    assert result.standard_error < 1e-12


def test_zero_operator():
    assert trace(torch.zeros_like, 50, 20).value == 0
    assert trace(torch.zeros_like, 50, 20, estimator="hutchpp").value == 0


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("estimator", ["xtrace", "hutchpp", "hutchinson"])
def test_unbiased_and_covered(estimator, spectrum):
    values = SPECTRA[spectrum]
    _, matvec = dense(values)
    results = [trace(matvec, 200, 60, estimator=estimator, generator=generator(s)) for s in range(200)]
    estimates = np.array([r.value for r in results])
    errors = np.array([r.standard_error for r in results])
    assert abs(estimates.mean() - values.sum()) <= 4 * estimates.std(ddof=1) / np.sqrt(200)
    # 20 to 60 samples: ± 2.09 standard errors are 95 % by Student's t at 19 degrees of freedom.
    covered = int((np.abs(estimates - values.sum()) <= 2.09 * errors).sum())
    assert covered >= binom.ppf(0.001, 200, 0.95)
    # Not by exaggeration either.
    assert np.sqrt(np.mean(errors**2)) < 1.7 * np.sqrt(np.mean((estimates - values.sum()) ** 2))


def test_xtrace_matches_leaving_each_vector_out_naively():
    values = np.geomspace(1e-3, 1, 30)
    matrix, matvec = dense(values)
    meter = Meter(matvec, 30)
    fast = xtrace(meter, 12, generator(4)).samples
    omega = torch.randn(6, 30, generator=generator(4), dtype=torch.float64).T
    slow = []
    for i in range(6):
        others = [j for j in range(6) if j != i]
        q = torch.linalg.qr(matrix @ omega[:, others])[0]
        rest = omega[:, i] - q @ (q.T @ omega[:, i])
        rest = rest * (25 / float(rest @ rest)) ** 0.5
        slow.append(float((q.T @ matrix @ q).trace() + rest @ matrix @ rest))
    np.testing.assert_allclose(fast, slow, rtol=1e-9)


def test_sketches_beat_hutchinson_on_a_decaying_spectrum():
    values = SPECTRA["power-law"]
    _, matvec = dense(values)
    rms = {}
    for estimator in ("xtrace", "hutchpp", "hutchinson"):
        errors = [
            trace(matvec, 200, 60, estimator=estimator, generator=generator(s)).value - values.sum()
            for s in range(40)
        ]
        rms[estimator] = float(np.sqrt(np.mean(np.square(errors))))
    assert rms["xtrace"] < rms["hutchpp"] < 0.3 * rms["hutchinson"]


def test_linear_in_the_operator():
    _, matvec = dense(SPECTRA["power-law"])
    one = trace(matvec, 200, 40, generator=generator(1))
    minus_three = trace(lambda v: -3 * matvec(v), 200, 40, generator=generator(1))
    assert minus_three.value == pytest.approx(-3 * one.value, rel=1e-10)
    assert minus_three.standard_error == pytest.approx(3 * one.standard_error, rel=1e-8)


@pytest.mark.parametrize("estimator", ["xtrace", "hutchpp", "hutchinson"])
@pytest.mark.parametrize("wanted", [6, 7, 30])
def test_cost(estimator, wanted):
    calls = []
    _, matvec = dense(SPECTRA["flat"])
    result = trace(lambda v: calls.append(1) or matvec(v), 200, wanted, estimator=estimator)
    assert len(calls) == result.num_products
    assert wanted - 1 <= len(calls) <= wanted


@pytest.mark.parametrize("estimator", ["xtrace", "hutchpp", "hutchinson"])
@pytest.mark.parametrize("stop_after", [0, 1, 5, 12, 25])
def test_interruption_keeps_what_was_paid_for(estimator, stop_after):
    calls = []
    _, matvec = dense(SPECTRA["flat"])
    result = trace(
        lambda v: calls.append(1) or matvec(v),
        200,
        30,
        estimator=estimator,
        should_stop=lambda: len(calls) >= stop_after,
    )
    assert result.stop is Stop.INTERRUPTED
    assert result.num_products == stop_after
    if stop_after == 0:
        assert np.isnan(result.value)
    elif stop_after == 1:
        assert np.isnan(result.standard_error)
    else:
        assert abs(result.value - 200) < 100


def test_an_unfinished_diagonal_is_no_trace():
    result = trace(lambda v: v, 50, 60, should_stop=lambda calls=[]: calls.append(1) or len(calls) > 10)
    assert np.isnan(result.value)
    assert result.stop is Stop.INTERRUPTED


def test_float32():
    _, matvec = dense(SPECTRA["power-law"])
    result = trace(matvec, 200, 60, dtype=torch.float32)
    assert abs(result.value - SPECTRA["power-law"].sum()) <= 4 * result.standard_error


def test_refusals():
    with pytest.raises(InputError, match=r"estimator is 'hutch'; allowed: hutchinson, hutchpp, xtrace"):
        trace(lambda v: v, 9, 9, estimator="hutch")
    with pytest.raises(InputError, match=r"num_products is 5; xtrace needs at least 6"):
        trace(lambda v: v, 9, 5)
    with pytest.raises(NonFiniteError, match="NaN or infinity"):
        trace(lambda v: v * float("nan"), 9, 6)

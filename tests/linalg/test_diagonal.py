"""Diagonals: exact where affordable, unbiased, with errors that cover, and equal to the definition written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binom

from geartrain.errors import InputError, NonFiniteError
from geartrain.linalg import Stop
from geartrain.linalg.diagonal import diagonal

N = 60


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def matrix(values: np.ndarray, seed: int = 9) -> torch.Tensor:
    turn, _ = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator(seed)).double())
    return turn @ torch.diag(torch.as_tensor(values)) @ turn.T


DECAYING = matrix(1 / np.arange(1, N + 1) ** 1.5)
INDEFINITE = matrix(np.linspace(-1, 3, N))


def test_read_off_exactly_where_affordable():
    result = diagonal(lambda v: DECAYING @ v, N, N)
    torch.testing.assert_close(result.values, DECAYING.diagonal())
    assert result.estimator == "exact"
    assert result.num_products == N
    assert result.total == pytest.approx(float(DECAYING.trace()))
    assert bool((result.standard_errors == 0).all())


def leave_one_out(a: torch.Tensor, m: int, seed: int) -> torch.Tensor:
    """The definition: a fresh QR for every vector left out, and dense projectors."""
    signs = torch.randn((m, len(a)), generator=generator(seed), dtype=torch.float64).sign()
    estimates = []
    for i in range(m):
        rest = [j for j in range(m) if j != i]
        q, _ = torch.linalg.qr(a @ signs[rest].T)
        p = q @ q.T
        left = torch.eye(len(a)).double() - p
        known = (p @ a + a @ p - p @ a @ p).diagonal()
        estimates.append(known + signs[i] * (left @ a @ left @ signs[i]))
    return torch.stack(estimates).mean(0)


@pytest.mark.parametrize("a", [DECAYING, INDEFINITE], ids=["decaying", "indefinite"])
def test_equals_the_definition(a):
    result = diagonal(lambda v: a @ v, N, 20, generator=generator(3))
    torch.testing.assert_close(result.values, leave_one_out(a, 10, 3), rtol=1e-9, atol=1e-9)
    assert result.num_products == 20


@pytest.mark.parametrize(("estimator", "products"), [("xdiag", 24), ("hutchinson", 24)])
@pytest.mark.parametrize("a", [DECAYING, INDEFINITE], ids=["decaying", "indefinite"])
def test_unbiased_and_covered(a, estimator, products):
    results = [
        diagonal(lambda v: a @ v, N, products, estimator=estimator, generator=generator(s))
        for s in range(200)
    ]
    values = torch.stack([r.values for r in results])
    errors = torch.stack([r.standard_errors for r in results])
    # Every entry's mean within five standard errors: 60 entries, so chance exceeds that once in 30,000 tests.
    gap = (values.mean(0) - a.diagonal()).abs() / (values.std(0) / 200**0.5)
    assert float(gap.max()) <= 5
    covered = ((values - a.diagonal()).abs() <= 2 * errors).double().mean(1)
    assert float(covered.mean()) >= 0.9
    # Single entries: with errors from 12 or 24 samples Student's t says how many are covered, not the normal.
    for entry in (0, 17, 59):
        hits = int(((values[:, entry] - a[entry, entry]).abs() <= 2 * errors[:, entry]).sum())
        assert hits >= binom.ppf(0.001, 200, 0.92)
    totals = np.array([r.total for r in results])
    assert abs(totals.mean() - float(a.trace())) <= 4 * totals.std(ddof=1) / 200**0.5


def test_beats_hutchinson_where_the_spectrum_decays():
    def error(estimator: str) -> float:
        runs = [
            diagonal(lambda v: DECAYING @ v, N, 30, estimator=estimator, generator=generator(s))  # type: ignore[arg-type]
            for s in range(20)
        ]
        return float(np.mean([float((r.values - DECAYING.diagonal()).norm()) for r in runs]))

    assert error("xdiag") < 0.3 * error("hutchinson")


def test_a_sketch_that_holds_the_whole_range_is_exact():
    low = matrix(np.concatenate([[5.0, -2.0, 1.0], np.zeros(N - 3)]))
    result = diagonal(lambda v: low @ v, N, 20, generator=generator())
    torch.testing.assert_close(result.values, low.diagonal(), atol=1e-12, rtol=0)
    assert float(result.standard_errors.max()) < 1e-12


def test_cut_short_it_falls_back_to_hutchinson():
    taken = []

    def product(v: torch.Tensor) -> torch.Tensor:
        taken.append(1)
        return DECAYING @ v

    result = diagonal(product, N, 40, should_stop=lambda: len(taken) >= 5, generator=generator())
    assert result.estimator == "hutchinson"
    assert result.stop is Stop.INTERRUPTED
    assert result.num_products == 5
    assert bool(torch.isfinite(result.standard_errors).all())
    nothing = diagonal(product, N, 40, should_stop=lambda: True)
    assert bool(torch.isnan(nothing.values).all())


def test_same_seed_same_bits_and_float32():
    one, two = (diagonal(lambda v: DECAYING @ v, N, 20, generator=generator(5)).values for _ in range(2))
    assert torch.equal(one, two)
    single = DECAYING.float()
    result = diagonal(lambda v: single @ v, N, 20, generator=generator(5), dtype=torch.float32)
    truth = DECAYING.diagonal()
    spread = 4 * result.standard_errors.double() + 1e-5
    assert bool(((result.values.double() - truth).abs() <= spread).double().mean() > 0.9)


def test_refusals():
    with pytest.raises(InputError, match="estimator is 'exact'; allowed: 'hutchinson', 'xdiag'"):
        diagonal(lambda v: v, N, estimator="exact")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="num_products is 6; xdiag needs at least 8"):
        diagonal(lambda v: v, N, 6)
    with pytest.raises(NonFiniteError, match="NaN or infinity"):
        diagonal(lambda v: v * float("nan"), N, 20)

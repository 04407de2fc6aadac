"""Extreme eigenpairs: dense truth, multiplicities, budgets, and what residuals can and cannot say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.bowls import generator

from geartrain.errors import InputError
from geartrain.linalg import Stop, top_eigenpairs


def dense(matrix):
    matrix = torch.as_tensor(matrix)
    return lambda v: matrix.to(v.dtype) @ v


def symmetric(n, seed):
    a = np.random.default_rng(seed).standard_normal((n, n))
    return (a + a.T) / 2


def diag(values):
    values = torch.as_tensor(np.asarray(values, dtype=float))
    return lambda v: values.to(v.dtype) * v


def test_both_ends_to_rounding():
    matrix = symmetric(200, 0)
    truth = np.linalg.eigvalsh(matrix)
    result = top_eigenpairs(
        dense(matrix), 200, 8, num_smallest=5, tol=1e-9, generator=generator(), eigenvectors=True
    )
    assert result.stop is Stop.CONVERGED
    np.testing.assert_allclose(result.eigenvalues, truth[::-1][:8], rtol=1e-12)
    np.testing.assert_allclose(result.smallest_eigenvalues, truth[:5], rtol=1e-12)
    for value, vector in zip(result.eigenvalues, result.eigenvectors.numpy(), strict=True):
        assert np.linalg.norm(matrix @ vector - value * vector) < 1e-8
    assert result.smallest_eigenvectors.shape == (5, 200)


def test_largest_magnitude():
    values = np.concatenate([[-10.0, -9.0, 8.0], np.linspace(-1, 1, 97)])
    result = top_eigenpairs(diag(values), 100, 3, which="magnitude", tol=1e-8)
    np.testing.assert_allclose(result.eigenvalues, [-10, -9, 8], atol=1e-8)


@pytest.mark.parametrize("seed", range(5))
def test_multiplicities_after_the_space_closes(seed):
    result = top_eigenpairs(
        diag([5.0] * 3 + [1.0] * 47), 50, 5, num_smallest=2, tol=1e-6, generator=generator(seed)
    )
    np.testing.assert_allclose(result.eigenvalues, [5, 5, 5, 1, 1], atol=1e-9)
    np.testing.assert_allclose(result.smallest_eigenvalues, [1, 1], atol=1e-9)


def test_confirm_finds_copies_that_one_run_cannot_see():
    # One start sees each eigenvalue once until rounding brings the copies in.
    values = np.concatenate([[10.0, 10.0, 10.0, 5.0], np.linspace(0, 1, 200)])
    plain = top_eigenpairs(diag(values), 204, 2, generator=generator())
    sure = top_eigenpairs(diag(values), 204, 4, generator=generator(), confirm=True, eigenvectors=True)
    assert plain.converged
    assert plain.eigenvalues[1] < 5.5
    np.testing.assert_allclose(sure.eigenvalues, [10, 10, 10, 5], atol=1e-3)
    gram = sure.eigenvectors @ sure.eigenvectors.T
    assert torch.allclose(gram, torch.eye(4).double(), atol=1e-6)
    assert sure.num_products > plain.num_products


def test_confirm_at_the_lower_end_and_when_everything_is_known():
    values = np.concatenate([[-2.0, -2.0], np.linspace(0, 1, 100)])
    result = top_eigenpairs(diag(values), 102, 1, num_smallest=2, tol=1e-5, confirm=True)
    np.testing.assert_allclose(result.smallest_eigenvalues, [-2, -2], atol=1e-6)
    assert top_eigenpairs(diag([1.0, 2.0]), 2, 2, confirm=True).eigenvalues == pytest.approx([2, 1])


def test_confirm_respects_the_budget():
    values = np.concatenate([[5.0, 5.0], np.linspace(0, 4, 200)])
    first = top_eigenpairs(diag(values), 202, 2, tol=1e-4).num_products
    result = top_eigenpairs(diag(values), 202, 2, tol=1e-4, confirm=True, max_products=first + 3)
    assert result.stop is Stop.OUT_OF_PRODUCTS
    assert result.num_products == first + 3


@pytest.mark.parametrize(
    ("limit", "reason"), [("products", Stop.OUT_OF_PRODUCTS), ("time", Stop.INTERRUPTED)]
)
def test_an_interrupted_run_returns_what_it_has(limit, reason):
    calls = []
    options = {"max_products": 6} if limit == "products" else {"should_stop": lambda: len(calls) >= 6}

    def matvec(v):
        calls.append(1)
        return diag(np.linspace(0, 1, 100))(v)

    result = top_eigenpairs(matvec, 100, 10, num_smallest=1, **options)
    assert result.stop is reason
    assert not result.converged
    assert len(calls) == result.num_products == 6
    assert len(result.eigenvalues) == 6
    # Ritz values lie inside the spectrum, and each has an eigenvalue within its residual.
    assert result.eigenvalues.max() <= 1
    assert (result.residuals > 1e-3).any()


def test_no_product_allowed():
    result = top_eigenpairs(diag([1.0, 2.0]), 2, 1, num_smallest=1, max_products=0)
    assert result.eigenvalues.size == result.smallest_eigenvalues.size == 0
    assert result.stop is Stop.OUT_OF_PRODUCTS


def test_more_than_there_are():
    result = top_eigenpairs(diag([1.0, 2.0, 3.0]), 3, 10, num_smallest=10)
    np.testing.assert_allclose(result.eigenvalues, [3, 2, 1], atol=1e-12)
    np.testing.assert_allclose(result.smallest_eigenvalues, [1, 2, 3], atol=1e-12)
    assert result.stop is Stop.COMPLETE


def test_cost_does_not_grow_with_the_size():
    outliers = np.geomspace(2, 10, 5)
    counts = [
        top_eigenpairs(diag(np.concatenate([np.geomspace(1e-4, 1, n - 5), outliers])), n, 5).num_products
        for n in (1_000, 30_000)
    ]
    assert max(counts) < 30
    assert counts[1] <= counts[0] + 5


def test_float32_reaches_its_own_rounding():
    values = np.geomspace(1e-3, 1, 500)
    result = top_eigenpairs(diag(values), 500, 5, tol=1e-6, dtype=torch.float32)
    assert result.converged
    np.testing.assert_allclose(result.eigenvalues, values[::-1][:5], rtol=1e-5)


def test_noisy_products_are_reported():
    noise = generator(5)
    matvec = diag(np.linspace(0, 1, 60))
    result = top_eigenpairs(lambda v: matvec(v) + 1e-2 * torch.randn(60, generator=noise), 60, 3)
    assert not result.symmetric
    assert top_eigenpairs(matvec, 60, 3).symmetric


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 25),
    seed=st.integers(0, 10_000),
    factor=st.floats(-50, 50).filter(lambda x: abs(x) > 1e-3),
)
def test_relations(n, seed, factor):
    """Scaling scales; a negative factor swaps the ends; a shift shifts."""
    matrix = symmetric(n, seed)
    truth = np.linalg.eigvalsh(matrix)
    result = top_eigenpairs(dense(factor * matrix + np.eye(n)), n, 2, num_smallest=2, tol=1e-10)
    expected = np.sort(factor * truth + 1)
    atol = 1e-8 * np.abs(expected).max()
    np.testing.assert_allclose(result.eigenvalues, expected[::-1][:2], atol=atol)
    np.testing.assert_allclose(result.smallest_eigenvalues, expected[:2], atol=atol)


def test_refusals():
    with pytest.raises(InputError, match=r"k is 0 and num_smallest is 0; allowed"):
        top_eigenpairs(diag([1.0]), 1, 0)
    with pytest.raises(InputError, match=r"which is 'biggest'; allowed: 'largest' or 'magnitude'"):
        top_eigenpairs(diag([1.0]), 1, 1, which="biggest")
    with pytest.raises(InputError, match=r"tol is 0; allowed: between 0 and 1"):
        top_eigenpairs(diag([1.0]), 1, 1, tol=0)

"""Lanczos: truth on dense matrices, no ghosts, degenerate spectra, breakdown, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.bowls import generator

from geartrain.errors import InputError, NonFiniteError
from geartrain.linalg import Meter, Stop, lanczos, lanczos_init, lanczos_restart, lanczos_ritz, lanczos_step
from geartrain.linalg.basis import Basis


def diagonal(values):
    values = torch.as_tensor(np.asarray(values, dtype=float))
    return lambda v: values.to(v.dtype) * v


def rotated(values, seed=0):
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.standard_normal((len(values), len(values))))
    matrix = torch.as_tensor((q * np.asarray(values)) @ q.T)
    return lambda v: matrix.to(v.dtype) @ v


def test_full_run_is_exact():
    values = np.sort(np.random.default_rng(0).standard_normal(40))
    state, stop = lanczos(rotated(values), 40, 40, generator=generator())
    assert stop is Stop.COMPLETE
    # Backward stable: errors of a few rounding units times the norm.
    np.testing.assert_allclose(lanczos_ritz(state).values, values, atol=1e-13)


def test_no_ghosts_far_beyond_convergence():
    # One dominant eigenvalue: without reorthogonalisation it returns as copies after ~30 steps.
    values = np.concatenate([np.linspace(0, 1, 399), [100.0]])
    state, _ = lanczos(diagonal(values), 400, 300, generator=generator())
    ritz = lanczos_ritz(state)
    assert (ritz.values > 50).sum() == 1
    rows = torch.cat(state.basis.filled())
    departure = rows @ rows.T - torch.eye(len(rows), dtype=rows.dtype)
    assert float(departure.abs().max()) < 1e-14


@pytest.mark.parametrize(
    "values",
    [[2.0] * 12, [0.0] * 7, [5.0] * 3 + [1.0] * 9, [3.0, -2.0] + [0.0] * 20, [7.0], [1.0, 1.0 + 1e-13, 4.0]],
    ids=["identity", "zero", "two-values", "rank-two", "size-one", "almost-double"],
)
@pytest.mark.parametrize("seed", range(3))
def test_degenerate_spectra_are_complete(values, seed):
    state, stop = lanczos(rotated(values), len(values), len(values), generator=generator(seed))
    assert stop is Stop.COMPLETE
    np.testing.assert_allclose(lanczos_ritz(state).values, np.sort(values), atol=1e-12)


def test_residuals_are_true():
    values = np.geomspace(1e-3, 1, 60)
    matvec = rotated(values)
    state, _ = lanczos(matvec, 60, 25, generator=generator())
    ritz = lanczos_ritz(state)
    vectors = state.basis.combine(np.vstack([ritz.vectors, np.zeros((1, 25))]))
    actual = [float((matvec(y) - t * y).norm()) for y, t in zip(vectors, ritz.values, strict=True)]
    np.testing.assert_allclose(np.maximum(actual, state.rounding), ritz.residuals, atol=1e-13)


def test_residuals_bound_the_truth_in_float32():
    values = np.geomspace(1e-4, 1, 300)
    state, _ = lanczos(rotated(values), 300, 120, generator=generator(), dtype=torch.float32)
    ritz = lanczos_ritz(state)
    distance = np.abs(ritz.values[:, None] - values[None]).min(axis=1)
    assert (distance <= ritz.residuals).all()


def test_weights_are_the_squared_components_of_the_start():
    values, start = np.array([1.0, 2.0, 5.0]), torch.tensor([3.0, 4.0, 12.0]).double()
    state, _ = lanczos(diagonal(values), 3, 3, start=start)
    np.testing.assert_allclose(lanczos_ritz(state).weights, np.array([9, 16, 144]) / 169, atol=1e-13)


def test_a_start_inside_an_invariant_space_closes():
    start = torch.tensor([1.0, 1.0, 0.0, 0.0]).double()
    state, stop = lanczos(diagonal([1, 2, 3, 4]), 4, 4, start=start, restart=False)
    assert stop is Stop.COMPLETE
    assert state.num_steps == 2
    np.testing.assert_allclose(lanczos_ritz(state).values, [1, 2], atol=1e-14)


def test_by_hand_step_by_step():
    meter = Meter(diagonal([1.0, 1.0]), 2)
    state = lanczos_init(meter, None, generator())
    assert lanczos_ritz(state).values.size == 0
    lanczos_step(meter, state)
    assert state.closed
    assert lanczos_restart(meter, state, generator(1))
    lanczos_step(meter, state)
    assert not lanczos_restart(meter, state, generator(2))
    assert state.alpha == pytest.approx([1, 1])


def test_scaling_the_operator_scales_the_values():
    values = np.linspace(-1, 3, 50)
    one, _ = lanczos(diagonal(values), 50, 20, generator=generator())
    ten, _ = lanczos(diagonal(10 * values), 50, 20, generator=generator())
    np.testing.assert_allclose(
        10 * lanczos_ritz(one).values, lanczos_ritz(ten).values, rtol=1e-10, atol=1e-10
    )


def test_same_seed_same_bits():
    runs = [lanczos(rotated(np.arange(30.0)), 30, 10, generator=generator(7))[0] for _ in range(2)]
    assert runs[0].alpha == runs[1].alpha
    assert runs[0].beta == runs[1].beta


def test_asymmetry_is_noticed():
    matrix = torch.randn(50, 50, generator=generator()).double()
    state, _ = lanczos(lambda v: matrix @ v, 50, 20)
    assert state.asymmetry > 0.1 * state.scale
    state, _ = lanczos(lambda v: (matrix + matrix.T) @ v, 50, 20)
    assert state.asymmetry < 1e-13 * state.scale


def test_basis_grows_in_chunks_and_combines():
    basis = Basis(80, torch.float64, torch.device("cpu"))
    vectors = torch.linalg.qr(torch.randn(80, 60, generator=generator()).double())[0].T
    for vector in vectors:
        basis.append(vector)
    assert len(basis) == 60
    assert torch.equal(basis.last(), vectors[-1])
    assert torch.allclose(basis.combine(np.eye(60)[:, [3, 40]]), vectors[[3, 40]])
    assert basis.bytes <= 2 * 60 * 80 * 8


def test_refusals():
    with pytest.raises(InputError, match=r"size 0; allowed: 1 or more"):
        Meter(lambda v: v, 0)
    with pytest.raises(InputError, match=r"max_products is -1; allowed: 0 or more"):
        Meter(lambda v: v, 1, max_products=-1)
    with pytest.raises(InputError, match=r"matvec returned shape \(2,\); allowed: \(3,\)"):
        lanczos(lambda v: v[:2], 3, 1)
    with pytest.raises(InputError, match=r"start has shape \(2,\); allowed: \(3,\)"):
        lanczos(lambda v: v, 3, 1, start=torch.ones(2))
    with pytest.raises(InputError, match=r"start has norm 0.0"):
        lanczos(lambda v: v, 3, 1, start=torch.zeros(3))
    with pytest.raises(NonFiniteError, match=r"Product number 1 .* NaN or infinity"):
        lanczos(lambda v: v * float("nan"), 3, 1)
    with pytest.raises(NonFiniteError, match="Product number 1"):
        lanczos(lambda v: v / 0.0, 3, 1)


def test_global_random_state_is_untouched():
    before = torch.random.get_rng_state()
    lanczos(diagonal(np.arange(9.0)), 9, 9)
    assert torch.equal(before, torch.random.get_rng_state())

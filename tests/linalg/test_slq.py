"""Quadrature of spectra: exact where affordable, brackets that hold, errors that cover."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binom
from tests.bowls import generator

from geartrain.errors import InputError
from geartrain.linalg import Quadrature, Stop, lanczos, slq


def diag(values):
    values = torch.as_tensor(np.asarray(values, dtype=float))
    return lambda v: values.to(v.dtype) * v


def smooth(grid, values, width):
    standard = (grid[:, None] - values[None]) / width
    return np.exp(-0.5 * standard**2).mean(axis=1) / (width * np.sqrt(2 * np.pi))


INDEFINITE = np.concatenate(
    [np.linspace(-1, -0.05, 60), np.linspace(0.02, 2, 230), [8.0, 9.0, 12.0, 20.0] * 2 + [40.0] * 2]
)


def test_exact_when_affordable():
    measure = slq(diag(INDEFINITE), 300)
    assert measure.exact
    assert measure.num_products == 300
    assert measure.mass_below(0.0).value == pytest.approx(60 / 300)
    assert measure.mass_below(0.0).standard_error == 0
    grid = np.linspace(-2, 3, 50)
    density, error = measure.density(grid, 0.1)
    np.testing.assert_allclose(density, smooth(grid, INDEFINITE, 0.1), atol=1e-10)
    assert not error.any()


@pytest.mark.parametrize("threshold", [-0.5, 0.0, 0.3, 1.7, 15.0])
def test_bracket_holds_for_the_measure_of_one_start(threshold):
    start = torch.randn(300, generator=generator(3)).double()
    truth = float((start.numpy() ** 2)[threshold > INDEFINITE].sum() / float(start @ start))
    widths = []
    for steps in (5, 10, 20, 40):
        state, _ = lanczos(diag(INDEFINITE), 300, steps, start=start)
        lower, upper = Quadrature.of(state).bracket(threshold)
        assert lower - 1e-12 <= truth <= upper + 1e-12
        widths.append(upper - lower)
    assert widths == sorted(widths, reverse=True)


def test_bracket_at_a_node_and_of_a_complete_measure():
    state, _ = lanczos(diag(INDEFINITE), 300, 10, generator=generator())
    quadrature = Quadrature.of(state)
    lower, upper = quadrature.bracket(float(quadrature.nodes[4]))
    assert 0 <= lower < upper <= 1
    state, _ = lanczos(diag([1.0, 2.0]), 2, 2, start=torch.tensor([1.0, 1.0]).double())
    assert Quadrature.of(state).bracket(1.5) == pytest.approx((0.5, 0.5))


def negative_mass(seed, **options):
    options = {"num_probes": 3, "num_steps": 40, "num_deflated": 10, **options}
    return slq(
        diag(INDEFINITE), 300, exact_if_cheaper=False, generator=generator(seed), **options
    ).mass_below(0.0)


def test_negative_mass_is_unbiased_and_its_error_covers():
    estimates = [negative_mass(seed) for seed in range(200)]
    values = np.array([e.value for e in estimates])
    errors = np.array([e.standard_error for e in estimates])
    # Each value may be off by its bracket; the middle of it is what is averaged.
    half = np.mean([(e.upper - e.lower) / 2 for e in estimates])
    assert abs(values.mean() - 0.2) <= 4 * values.std(ddof=1) / np.sqrt(200) + half
    covered = int((np.abs(values - 0.2) <= 2 * errors).sum())
    assert covered >= binom.ppf(0.001, 200, 0.95)


def test_sampling_error_alone_is_honest_when_the_bracket_is_closed():
    # Two well separated clusters: resolution is perfect, only sampling is left.
    values = np.concatenate([np.full(90, -1.0), np.full(210, 1.0)])
    estimates = []
    for seed in range(200):
        measure = slq(
            diag(values),
            300,
            num_probes=2,
            num_steps=5,
            num_deflated=0,
            exact_if_cheaper=False,
            generator=generator(seed),
        )
        estimates.append(measure.mass_below(0.0))
    z = np.array([(e.value - 0.3) / e.standard_error for e in estimates])
    assert abs(z.mean()) <= 4 / np.sqrt(200)
    # The variance of 200 squared normals has relative spread 0.1.
    assert 0.6 < z.var() < 1.4
    assert (np.abs(z) <= 2).sum() >= binom.ppf(0.001, 200, 0.95)


def test_density_band_covers():
    grid = np.linspace(-1.5, 3, 40)
    truth = smooth(grid, INDEFINITE, 0.15)
    inside = []
    for seed in range(60):
        measure = slq(
            diag(INDEFINITE),
            300,
            num_probes=2,
            num_steps=60,
            exact_if_cheaper=False,
            generator=generator(seed),
        )
        density, error = measure.density(grid, 0.15)
        inside.append(np.abs(density - truth) <= 2 * error + 1e-4 * truth.max())
    assert np.mean(inside) > 0.92


def test_multiple_eigenvalues_taken_out_do_not_bias():
    # One run finds one copy of each; the other copies are left to the probes.
    values = np.concatenate([np.full(30, 10.0), np.linspace(-1, 1, 170)])
    estimates = [
        slq(
            diag(values), 200, num_probes=2, num_steps=30, exact_if_cheaper=False, generator=generator(seed)
        ).mass_below(5.0)
        for seed in range(100)
    ]
    mean = np.mean([e.value for e in estimates])
    spread = np.std([e.value for e in estimates], ddof=1) / 10
    assert abs(mean - 0.85) <= 4 * spread


def test_deflation_narrows_the_bracket():
    values = np.concatenate([np.linspace(-0.3, 0.7, 580), np.geomspace(5, 100, 20)])
    plain, deflated = (
        slq(diag(values), 600, num_steps=40, num_deflated=d, exact_if_cheaper=False).mass_below(-0.01)
        for d in (0, 20)
    )
    assert deflated.upper - deflated.lower < 0.7 * (plain.upper - plain.lower)


def test_density_integrates_to_one():
    measure = slq(diag(INDEFINITE), 300, num_probes=2, num_steps=30, exact_if_cheaper=False)
    grid = np.linspace(-4, 45, 4000)
    density, _ = measure.density(grid, 0.2)
    assert np.trapezoid(density, grid) == pytest.approx(1, abs=1e-6)


def test_cost_is_what_was_planned():
    calls = []

    def matvec(v):
        calls.append(1)
        return diag(INDEFINITE)(v)

    measure = slq(matvec, 300, num_probes=3, num_steps=12, num_deflated=5, exact_if_cheaper=False)
    assert len(calls) == measure.num_products == 4 * 12
    assert measure.stop is Stop.STEPS_DONE
    measure = slq(matvec, 300, num_probes=3, num_steps=12, num_deflated=0, exact_if_cheaper=False)
    assert measure.num_products == 3 * 12


@pytest.mark.parametrize("limit", [1, 15, 20, 30, 50])
def test_a_budget_leaves_a_usable_measure(limit):
    measure = slq(diag(INDEFINITE), 300, num_probes=4, num_steps=20, max_products=limit)
    assert measure.num_products <= limit
    assert measure.stop is Stop.OUT_OF_PRODUCTS
    mass = measure.mass_below(0.0)
    assert 0 <= mass.lower <= mass.upper <= 1
    assert abs(mass.value - 0.2) <= 3 * mass.standard_error


def test_interruption_during_complete_run():
    calls = []
    measure = slq(diag(np.arange(50.0)), 50, should_stop=lambda: calls.append(1) or len(calls) > 10)
    assert measure.stop is Stop.INTERRUPTED
    assert len(measure.probes) == 1


def test_no_product_at_all():
    measure = slq(diag(INDEFINITE), 300, max_products=0)
    assert not measure.probes
    assert not measure.exact


def test_refusals():
    with pytest.raises(
        InputError, match=r"num_probes is 0, num_steps 100, num_deflated 20; allowed: at least"
    ):
        slq(diag([1.0]), 1, num_probes=0)

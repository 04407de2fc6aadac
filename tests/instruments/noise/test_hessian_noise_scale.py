"""Hessian-weighted noise scale: closed form of noisy linear regression, dense twin, coverage, budget, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom
from tests.made import linear, normal, objective_of, same, seeded
from tests.noisy import coverage, shaken_bowl
from torch import nn

from geartrain.errors import InputError
from geartrain.instruments import gradient_noise_scale, hessian_noise_scale
from geartrain.instruments.noise import _forms
from geartrain.objective import Objective
from geartrain.records import State

SPECTRUM = np.array([4.0, 2.0, 1.0, 0.5])
DELTA = np.array([1.0, -0.5, 0.5, 1.0])
SIGMA = 0.7


def truth() -> tuple[float, float]:
    """tr(HΣ) and GᵀHG with Σ = (δᵀHδ + σ²)H + Hδδᵀ H."""
    pulled = SPECTRUM * DELTA
    curved = float(pulled @ (SPECTRUM * pulled))
    return float((DELTA @ pulled + SIGMA**2) * (SPECTRUM**2).sum()) + curved, curved


def regression(examples: int, seed: int = 0) -> Objective:
    x = normal(examples, 4, seed=seed) * torch.tensor(SPECTRUM).sqrt()
    y = SIGMA * normal(examples, 1, seed=seed + 10_000)
    return Objective(linear(DELTA.tolist()), lambda f, t: 0.5 * (f - t).square().mean(), (x, y))


def regression_tables(seeds: int, blocks: int, size: int) -> np.ndarray:
    """Tables of many data sets at once, shape (seeds, blocks, blocks, blocks)."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(seeds, blocks, size, 4)) * np.sqrt(SPECTRUM)
    residual = x @ DELTA - SIGMA * rng.normal(size=(seeds, blocks, size))
    gradients = np.einsum("skba,skb->ska", x, residual) / size
    hessians = np.einsum("skba,skbc->skac", x, x) / size
    images = np.einsum("skac,sjc->skja", hessians, gradients)
    return np.einsum("sia,skja->skij", gradients, images)


def naive(table: np.ndarray) -> tuple[float, float]:
    count = len(table)
    triples = [
        table[k, i, j]
        for k in range(count)
        for i in range(count)
        for j in range(count)
        if len({i, j, k}) == 3
    ]
    pairs = [table[k, i, i] for k in range(count) for i in range(count) if i != k]
    return np.mean(pairs) - np.mean(triples), float(np.mean(triples))


def test_noisy_linear_regression():
    top, bottom = truth()
    result = hessian_noise_scale(regression(6000), groups=60)
    assert abs(result.value - top / bottom) <= 4 * result.standard_error
    assert result.standard_error < 0.3 * result.value
    low, high = result.details["interval"]
    assert low < top / bottom < high


def test_equals_the_plain_sums_over_blocks():
    # The blocks are drawn as the instrument draws them; everything else is written out.
    objective = regression(24)
    size, order = 4, torch.randperm(24, generator=seeded(3))
    (x, y) = objective.batches[0]
    x, y = x[order].reshape(6, size, 4), y[order].reshape(6, size)
    residual = x @ torch.tensor(DELTA) - y
    gradients = torch.einsum("kba,kb->ka", x, residual) / size
    hessians = torch.einsum("kba,kbc->kac", x, x) / size
    table = torch.einsum("ia,kac,jc->kij", gradients, hessians, gradients).numpy()
    noise, curved = naive(table)
    result = hessian_noise_scale(objective, groups=6, generator=seeded(3))
    assert result.details["hessian_trace_noise"] == pytest.approx(size * noise, rel=1e-10)
    assert result.details["gradient_curvature"] == pytest.approx(curved, rel=1e-10)


def test_jackknife_leaves_out_block_by_block():
    table = regression_tables(1, 7, 3)[0]
    left = np.array([naive(np.delete(np.delete(np.delete(table, a, 0), a, 1), a, 2)) for a in range(7)]).T
    centred = left - left.mean(1, keepdims=True)
    _, _, covariance = _forms.estimates(table)
    np.testing.assert_allclose(covariance, 6 / 7 * centred @ centred.T, rtol=1e-9)


def test_fewer_hessians_than_gradients():
    table = regression_tables(1, 6, 3)[0]
    pairs = [table[k, i, i] for k in range(4) for i in range(6) if i != k]
    triples = [table[k, i, j] for k in range(4) for i in range(6) for j in range(6) if len({i, j, k}) == 3]
    noise, curved, _ = _forms.estimates(table[:4])
    assert curved == pytest.approx(np.mean(triples))
    assert noise == pytest.approx(np.mean(pairs) - np.mean(triples))


def test_unbiased_and_honest_over_seeds():
    # 200 data sets of 16 blocks of 10. Gradients and Hessians share their examples; the estimates must not mind.
    top, bottom = truth()
    noise, curved, covariance = _forms.estimates(regression_tables(200, 16, 10))
    for values, true in ((10 * noise, top), (curved, bottom)):
        assert abs(values.mean() - true) <= 4 * values.std(ddof=1) / math.sqrt(200)
    ends = [_forms.interval(n, s, c) for n, s, c in zip(noise, curved, covariance, strict=True)]
    assert sum(10 * low <= top / bottom <= 10 * high for low, high in ends) >= binom.ppf(0.001, 200, 0.95)


def test_errors_of_the_parts_over_seeds():
    # Products of four normal variables are skewed: two standard errors hold nine times in ten, with 1,280 examples.
    top, bottom = truth()
    noise, curved, covariance = _forms.estimates(regression_tables(200, 32, 40))
    for i, (values, true) in enumerate(((noise, top / 40), (curved, bottom))):
        assert coverage(values, np.sqrt(covariance[:, i, i]), true) >= binom.ppf(0.001, 200, 0.9)


def test_one_curvature_for_all_makes_it_the_simple_noise_scale():
    noise = normal(96, 3, seed=1)
    flat = shaken_bowl(torch.full((3,), 2.0).double(), torch.ones(3).double(), noise)
    weighted = hessian_noise_scale(flat, groups=32, generator=seeded(2))
    simple = gradient_noise_scale(flat, groups=32, generator=seeded(2))
    assert weighted.value == pytest.approx(simple.value, rel=1e-9)
    assert weighted.standard_error == pytest.approx(simple.standard_error, rel=1e-9)
    assert weighted.details["max_step"] == pytest.approx(0.5, rel=1e-9)


def test_noise_in_flat_directions_costs_nothing():
    curvatures, at = torch.tensor([1.0, 1e-9]).double(), torch.tensor([1.0, 0.0]).double()
    noise = normal(320, 2, seed=3) * torch.tensor([0.1, 10.0]).double()
    objective = shaken_bowl(curvatures, at, noise)
    assert hessian_noise_scale(objective).value < 0.05
    assert gradient_noise_scale(objective).value > 50


def test_scaling_and_order():
    objective = regression(64)
    (x, y) = objective.batches[0]
    twice = Objective(objective.model, lambda f, t: (f - t).square().mean(), (x, y))
    one, two = (hessian_noise_scale(o, groups=8) for o in (objective, twice))
    assert two.value == pytest.approx(one.value, rel=1e-10)
    assert two.details["gradient_curvature"] == pytest.approx(8 * one.details["gradient_curvature"])


def test_same_generator_same_bits():
    results = [hessian_noise_scale(regression(64), groups=8, generator=seeded(s)).value for s in (1, 1, 2)]
    assert same(results[0], results[1])
    assert results[0] != results[2]


def test_networks_of_other_kinds():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1)).double()
    objective = objective_of(normal(64, 3), normal(64, 1, seed=1), model, training=True)
    result = hessian_noise_scale(objective, groups=8)
    assert result.status.state is State.ESTIMATE
    assert model[1].num_batches_tracked == 0


def test_cost_and_budget():
    objective = regression(64)
    result = hessian_noise_scale(objective, groups=16)
    assert result.cost.products == pytest.approx(16)
    price = hessian_noise_scale.spec.price(objective, groups=16)
    assert price.products == 16
    assert result.cost.gradients == pytest.approx(price.gradients)
    cut = hessian_noise_scale(objective, groups=16, budget=5)
    assert cut.cost.products == pytest.approx(5)
    assert cut.status.state is State.OUT_OF_BUDGET
    assert "reached 5 of 16" in cut.status.sentence
    one = hessian_noise_scale(objective, groups=16, budget=1)
    assert "Hessian of 1 of 16 blocks; 2 are needed" in one.status.sentence
    none = hessian_noise_scale(objective, budget=0)
    assert none.cost.gradients == 0
    assert "allows no Hessian product" in none.status.sentence


def test_no_curvature_along_the_gradient():
    downhill = shaken_bowl(torch.tensor([-1.0]).double(), torch.ones(1).double(), 0.1 * normal(32, 1, seed=2))
    result = hessian_noise_scale(downhill)
    assert result.value == math.inf
    assert "does not curve upwards" in result.status.sentence
    assert result.details["interval"] == (0.0, math.inf)


def test_where_there_is_none():
    few = hessian_noise_scale(regression(3))
    assert few.status.state is State.NOT_APPLICABLE
    assert "3 examples are too few; at least 4" in few.status.sentence
    x = normal(16, 2)
    summed = hessian_noise_scale(Objective(linear([1.0, 1.0]), lambda f, y: (f * y).sum(), (x, x[:, :1])))
    assert "not the mean" in summed.status.sentence
    still = shaken_bowl(torch.ones(2).double(), torch.zeros(2).double(), torch.zeros(8, 2).double())
    assert "Every group's gradient is zero" in hessian_noise_scale(still).status.sentence
    broken = regression(16)
    broken.model.weight.data[0, 0] = math.nan
    assert hessian_noise_scale(broken).status.state is State.NON_FINITE
    short, long = (normal(2, 1), normal(2, 1)), (normal(3, 1), normal(3, 1))
    ragged = Objective(linear([0.5]), nn.functional.mse_loss, [short, long])
    assert hessian_noise_scale(ragged, groups=4).status.state is State.ESTIMATE


def test_refusals():
    with pytest.raises(InputError, match="groups is 3; at least 4"):
        hessian_noise_scale(regression(16), groups=3)

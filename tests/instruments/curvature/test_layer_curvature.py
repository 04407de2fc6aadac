"""Curvature of the layers: dense blocks, coverage of the traces, sharing out of the products."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import binom
from tests.bowls import bowl, digits, generator
from torch import nn
from torch.nn import functional

import geartrain as gt
from geartrain.errors import InputError
from geartrain.instruments import layer_curvature
from geartrain.records import State

X = torch.randn(60, 12, generator=generator(1)).double()
Y = torch.randint(0, 3, (60,), generator=generator(2))


def objective(factor: float = 1.0, widths: tuple[int, ...] = (12, 8, 6, 3)) -> gt.Objective:
    torch.manual_seed(0)
    layers = [m for a, b in pairwise(widths) for m in (nn.Linear(a, b), nn.Tanh())]
    model = nn.Sequential(*layers[:-1]).double()
    return gt.Objective(model, lambda o, y: factor * functional.cross_entropy(o, y), (X, Y))


def blocks(whole: gt.Objective) -> list[np.ndarray]:
    dense = whole.hvp(torch.eye(whole.num_params).double()).numpy()
    slices = whole.layout.slices()
    found = []
    for names in whole.layers().values():
        index = np.concatenate([np.arange(whole.num_params)[slices[n]] for n in names])
        found.append(dense[np.ix_(index, index)])
    return found


def test_exact_where_every_block_is_affordable():
    whole = objective()
    result = layer_curvature(whole, 1000)
    truth = blocks(whole)
    np.testing.assert_allclose(result.value, [np.linalg.eigvalsh(b)[-1] for b in truth], rtol=1e-10)
    np.testing.assert_allclose(result.details["trace"], [np.trace(b) for b in truth], rtol=1e-9)
    assert result.status.state is State.EXACT
    assert result.coords["layer"] == ["0", "2", "4"]
    assert result.details["sizes"].tolist() == [104, 54, 21]
    assert result.cost.products == 179
    assert result.cost.gradients == 3


def test_estimates_within_their_errors_on_digits():
    whole, hessian = digits()
    first, second = hessian[:1040, :1040], hessian[1040:, 1040:]
    result = layer_curvature(whole, 100, generator=generator())
    tops = [np.linalg.eigvalsh(b)[-1] for b in (first, second)]
    assert (np.abs(result.value - tops) <= result.standard_error + 1e-9).all()
    np.testing.assert_allclose(result.value, tops, rtol=1e-3)
    gap = np.abs(result.details["trace"] - [np.trace(first), np.trace(second)])
    assert (gap <= 4 * result.details["trace_error"]).all()
    assert result.details["sharpest"] == "0"
    assert result.cost.products == 100


def test_coverage_of_the_traces():
    whole = objective(widths=(12, 4, 3))
    truth = np.array([np.trace(b) for b in blocks(whole)])
    results = [layer_curvature(whole, 35, generator=generator(s)) for s in range(100)]
    traces, errors = (np.array([r.details[f] for r in results]) for f in ("trace", "trace_error"))
    assert (np.abs(traces.mean(0) - truth) <= 4 * traces.std(0, ddof=1) / 10 + 1e-12).all()
    covered = (np.abs(traces - truth) <= 2 * errors + 1e-12).sum(0)
    # The small layer is exact; the other has 8 samples: Student's t covers 0.91 within two errors.
    assert (covered >= binom.ppf(0.001, 100, 0.9)).all()


def test_one_layer_alone_is_the_whole():
    result = layer_curvature(bowl([5.0, -1.0, 2.0]))
    assert result.value.tolist() == pytest.approx([5.0])
    assert result.details["trace"].tolist() == pytest.approx([6.0])


def test_groups_instead_of_modules():
    whole = objective()
    joined = layer_curvature(whole, 1000, groups={"all": list(whole.layout.names)})
    dense = whole.hvp(torch.eye(whole.num_params).double()).numpy()
    assert joined.value.tolist() == pytest.approx([np.linalg.eigvalsh(dense)[-1]])
    with pytest.raises(InputError, match=r"groups names \['7.weight'\]; allowed"):
        layer_curvature(whole, groups={"a": ["7.weight"]})


def test_scaling_the_loss():
    one, seven = (layer_curvature(objective(f), 60, generator=generator(4)) for f in (1.0, 7.0))
    np.testing.assert_allclose(seven.value, 7 * one.value, rtol=1e-8)
    np.testing.assert_allclose(seven.details["trace"], 7 * one.details["trace"], rtol=1e-8)


def test_the_total_is_bounded_and_what_is_not_reached_is_said():
    deep = objective(widths=(12, *[6] * 12, 3))
    result = layer_curvature(deep, 130)
    assert result.cost.products <= 130
    assert np.isfinite(result.value).all()
    few = layer_curvature(deep, budget=20)
    assert few.cost.products <= 20
    assert few.status.state is State.OUT_OF_BUDGET
    assert "of 13 layers could be measured" in few.status.sentence
    none = layer_curvature(deep, budget=0)
    assert none.cost.products == 0
    assert np.isnan(none.value).all()
    for options in ({}, {"num_products": 60}, {"budget": 30}):
        price, cost = layer_curvature.spec.price(deep, **options), layer_curvature(deep, **options).cost
        assert price.products == cost.products
        assert price.gradients == pytest.approx(cost.gradients)


def test_other_matrices_and_units():
    result = layer_curvature(objective(), 60, operator="covariance")
    assert result.unit == "ℓ²/θ²"
    assert (result.value > 0).all()


def test_not_finite_and_refusals():
    whole = objective()
    with torch.no_grad():
        whole.model[0].weight[0, 0] = float("nan")
    assert layer_curvature(whole, 30).status.state is State.NON_FINITE
    with pytest.raises(InputError, match="num_products is 0; allowed: 1 or more"):
        layer_curvature(objective(), 0)

"""Representation similarity: invariances, the closed form of Gaussian features, bias, coverage, layers by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binom
from tests.made import Next, linear, normal, objective_of, sequence_loss, words
from torch import nn

from geartrain.errors import InputError
from geartrain.instruments import representation_similarity
from geartrain.instruments.function.representation_similarity import cka
from geartrain.objective import Objective

LEAST = binom.ppf(0.001, 200, 0.95)


def products(x: np.ndarray) -> np.ndarray:
    return x @ x.T


def naive_hsic(k: np.ndarray, m: np.ndarray) -> float:
    """Song et al. (2012), eq. (5), as written."""
    n, one = len(k), np.ones(len(k))
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    first = np.trace(k @ m) + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    return (first - 2 / (n - 2) * one @ k @ m @ one) / (n * (n - 3))


def test_the_formula_and_its_jackknife():
    rng = np.random.default_rng(0)
    k, m = products(rng.normal(size=(14, 3))), products(rng.normal(size=(14, 5)) + 3)
    for groups in (np.arange(14), np.repeat(np.arange(7), 2)):
        value, error, _ = cka(k, m, groups)
        dense = lambda a, b: naive_hsic(a, b) / np.sqrt(naive_hsic(a, a) * naive_hsic(b, b))  # noqa: E731
        assert value == pytest.approx(dense(k, m), rel=1e-9)
        left = []
        for g in range(groups.max() + 1):
            kept = np.ix_(groups != g, groups != g)
            left.append(dense(k[kept], m[kept]))
        count = len(left)
        assert error == pytest.approx(np.sqrt((count - 1) * np.var(left)), rel=1e-8)


def test_rotations_scales_and_shifts_are_no_difference():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(20, 4)), rng.normal(size=(20, 6))
    turn = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    value = cka(products(x), products(y))[0]
    assert cka(products(1e4 * x @ turn + 7), products(y))[0] == pytest.approx(value, rel=1e-6)
    same = cka(products(x), products(3 * x @ turn))
    assert same[0] == pytest.approx(1, abs=1e-12)
    assert same[1] < 1e-12
    # Stretching one axis is a difference.
    assert cka(products(x), products(x * [9, 1, 1, 1]))[0] < 0.99


def test_unrelated_wide_layers_look_alike_only_to_the_plug_in():
    rng = np.random.default_rng(2)
    found = np.array(
        [cka(products(rng.normal(size=(20, 400))), products(rng.normal(size=(20, 400)))) for _ in range(200)]
    )
    assert found[:, 2].mean() > 0.9
    # No features in common: the numerator is 0 on average; the value is a ratio with a denominator well off 0.
    assert abs(found[:, 0].mean()) <= 4 * found[:, 0].std(ddof=1) / np.sqrt(200)


def test_gaussian_features_and_coverage():
    rng = np.random.default_rng(3)
    a = rng.normal(size=(4, 6))
    # X of unit covariance and Y = XA + 2E: ‖A‖² / (‖I‖ ‖AᵀA + 4I‖).
    truth = np.linalg.norm(a) ** 2 / (2 * np.linalg.norm(a.T @ a + 4 * np.eye(6)))
    results = []
    for _ in range(200):
        x = rng.normal(size=(40, 4))
        results.append(cka(products(x), products(x @ a + 2 * rng.normal(size=(40, 6)))))
    values, errors, biased = np.array(results).T
    assert (abs(values - truth) <= 2 * errors).sum() >= LEAST
    # A ratio: its bias is of order 1/n, that of the plug-in several times larger.
    assert abs(values.mean() - truth) < 1 / 40
    assert biased.mean() - truth > 4 * abs(values.mean() - truth)


def test_layers_by_name_and_by_hand():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 2)).double()
    other = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Identity(), nn.Linear(5, 2)).double()
    objective = objective_of(normal(40, 3), torch.arange(40) % 2, model)
    result = representation_similarity(objective, other)
    assert result.coords["layer"] == ["0", "1", "3"]
    assert result.dims == ("layer",)
    x = objective.batches[0][0]
    expected = cka(products(model[:2](x).detach().numpy()), products(other[:2](x).detach().numpy()))
    assert result.value[1] == pytest.approx(expected[0], rel=1e-9)
    assert result.standard_error[1] == pytest.approx(expected[1], rel=1e-8)
    crossed = representation_similarity(objective, other, layers={"0": "1"})
    assert crossed.details["partners"] == {"0": "1"}
    with pytest.raises(InputError, match="layers names '9'; the other network has '0', '1'"):
        representation_similarity(objective, other, layers={"0": "9"})
    with pytest.raises(InputError, match="rows is 3; allowed: 6 or more"):
        representation_similarity(objective, other, rows=3)
    strange = nn.ModuleDict({"a": linear([1.0, 0.0, 0.0], [0.0, 1.0, 0.0])})
    strange.forward = lambda x: strange["a"](x)
    assert "pass layers=" in representation_similarity(objective, strange).status.sentence


def test_permuted_units_are_no_difference_and_cost():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)).double()
    twin = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)).double()
    order = torch.randperm(8)
    with torch.no_grad():
        twin[0].weight.copy_(model[0].weight[order]), twin[0].bias.copy_(model[0].bias[order])
        twin[2].weight.copy_(model[2].weight[:, order]), twin[2].bias.copy_(model[2].bias)
    objective = objective_of(normal(40, 3), torch.arange(40) % 2, model)
    result = representation_similarity(objective, twin)
    np.testing.assert_allclose(result.value, 1, atol=1e-10)
    assert result.cost.forwards == representation_similarity.spec.price(objective).forwards == 3


def test_places_of_sequences_are_rows():
    x, y = words(30)
    objective = Objective(Next(), sequence_loss, (x, y))
    result = representation_similarity(objective, objective.parameters(), rows=60)
    np.testing.assert_allclose(result.value, 1, atol=1e-6)
    assert result.details["rows"] == 60
    assert (
        "give more"
        in representation_similarity(Objective(Next(), sequence_loss, words(4)), Next()).status.sentence
    )

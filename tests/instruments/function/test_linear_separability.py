"""Linear separability: known accuracies, the control task, the closed form against the dense one, coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom, norm
from tests.made import Next, linear, normal, objective_of, sequence_loss, words
from torch import nn

from geartrain.budget import Budget
from geartrain.errors import InputError
from geartrain.instruments import linear_separability
from geartrain.instruments.function.linear_separability import PENALTIES, Probe, _indicators, _score, _Task
from geartrain.objective import Objective
from geartrain.records import State


def gaussians(n: int, apart: float, seed: int, features: int = 2):
    rng = np.random.default_rng(seed)
    y = rng.integers(2, size=n)
    x = rng.normal(size=(n, features))
    x[:, 0] += apart * y
    return x, y


def task(y: np.ndarray, seed: int) -> _Task:
    folds = np.random.default_rng(seed).permutation(len(y)) % 5
    return _Task(_indicators(y, 2), y, y[None], "examples", folds, np.arange(len(y)))


def test_the_probe_is_ridge_regression():
    x, y = normal(40, 6).numpy(), normal(40, 2, seed=1).numpy()
    train = np.arange(40) < 30
    probe = Probe(x @ x.T, train, ~train)
    # Dense twin: choose by leaving every training row out in turn, then fit.
    penalties = PENALTIES * probe.unit

    def fitted(a, b, new, penalty):
        mean = a.mean(0)
        w = np.linalg.solve((a - mean).T @ (a - mean) + penalty * np.eye(6), (a - mean).T @ (b - b.mean(0)))
        return b.mean(0) + (new - mean) @ w

    a, b = x[train], y[train]
    left_out = [
        np.mean(
            [
                ((fitted(np.delete(a, i, 0), np.delete(b, i, 0), a[i], p) - b[i]) ** 2).mean()
                for i in range(30)
            ]
        )
        for p in penalties
    ]
    rotated = probe.vectors.T @ (b - b.mean(0))
    closed = [probe._left_out(b - b.mean(0), rotated, p) for p in penalties]
    # Exact but for the mean, which the closed form leaves one out of in the leverage only: equal for centred ridge.
    np.testing.assert_allclose(closed, left_out, rtol=1e-6)
    best = penalties[int(np.argmin(left_out))]
    np.testing.assert_allclose(probe.predict(b), fitted(a, b, x[~train], best), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("features", [2, 20])
def test_coverage(features):
    # The best rule is right with chance Φ(apart/2); a fitted one loses a little, more with more features.
    scores = [_score(x @ x.T, task(y, s)) for s in range(200) for x, y in [gaussians(60, 2.0, s, features)]]
    values, errors = np.array([s.value for s in scores]), np.array([s.error for s in scores])
    assert norm.cdf(1.0) - 0.12 <= values.mean() <= norm.cdf(1.0) + 0.01
    assert (np.abs(values - values.mean()) <= 2 * errors).sum() >= binom.ppf(0.001, 200, 0.95)
    assert errors.mean() <= 2 * values.std()


def test_separable_and_unrelated():
    x, y = (torch.from_numpy(t) for t in gaussians(150, 12.0, 0))
    result = linear_separability(objective_of(x, y))
    assert result.value[0] == 1
    assert result.details["control_kind"] == "examples"
    assert result.details["selectivity"]["input"] > 0.3
    noise = linear_separability(objective_of(normal(200, 3), torch.from_numpy(np.arange(200) % 2)))
    assert abs(noise.value[0] - 0.5) <= 3 * noise.standard_error[0]
    assert abs(noise.details["selectivity"]["input"]) < 0.2


def test_a_layer_can_separate_what_the_input_cannot():
    x = normal(200, 2).sign() + 0.1 * normal(200, 2, seed=1)
    y = (x[:, 0] * x[:, 1] > 0).long()
    first = linear([1.0, 1.0], [-1.0, -1.0])
    model = nn.Sequential(first, nn.ReLU(), linear([1.0, 1.0], [0.0, 0.0]))
    result = linear_separability(objective_of(x, y, model))
    found = dict(zip(result.coords["layer"], result.value, strict=True))
    assert found["input"] < 0.75
    assert found["0"] < 0.75
    assert found["1"] > 0.95
    assert result.dims == ("layer",)


def test_embeddings_learn_the_control_task():
    # Random labels per token are linear in one-hot tokens: an embedding of distinct vectors scores 1 on the control.
    result = linear_separability(Objective(Next(), sequence_loss, words(40)))
    assert result.details["control_kind"] == "types"
    assert result.details["control"]["embedding"] == 1
    assert result.details["selectivity"]["embedding"] < -0.5


def test_numbers_have_r2():
    x = normal(300, 3)
    y = x[:, :1] + 0.5 * normal(300, 1, seed=4)
    result = linear_separability(objective_of(x, y, linear([1.0, 0.0, 0.0])), rows=300)
    # R² = 1/(1 + ¼) less what 3 of 240 parameters cost.
    assert abs(result.value[0] - 0.8) <= 2 * result.standard_error[0] + 0.02
    assert result.details["kind"] == "r2"
    assert result.details["control_kind"] == "none"
    assert math.isnan(result.details["chance"])


def test_rotations_cost_budget_and_refusals():
    x, y = (torch.from_numpy(t) for t in gaussians(100, 1.0, 0, 4))
    turn = np.linalg.qr(normal(4, 4, seed=7).numpy())[0]
    plain, turned = (objective_of(x, y, linear(*m.tolist())) for m in (np.eye(4), 50 * turn))
    results = [linear_separability(o) for o in (plain, turned)]
    assert results[0].value[1] == results[1].value[1]
    assert results[0].cost.forwards == linear_separability.spec.price(plain).forwards == 2
    cut = linear_separability(plain, budget=Budget(seconds=1e-9))
    assert cut.status.state is State.OUT_OF_BUDGET
    with pytest.raises(InputError, match="rows is 5; allowed: 20 or more"):
        linear_separability(plain, rows=5)
    assert "too few" in linear_separability(objective_of(normal(12, 2), torch.arange(12) % 2)).status.sentence
    one = objective_of(normal(40, 2), torch.zeros(40).long(), linear([1.0, 0.0], [0.0, 1.0]))
    assert "one class only" in linear_separability(one).status.sentence

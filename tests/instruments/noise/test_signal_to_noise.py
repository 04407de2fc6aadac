"""Signal to noise per layer: plain formulas, closed form, honest errors, relations, cost and sentences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom
from tests.made import linear, normal, objective_of
from tests.noisy import coverage, pulled_by
from torch import nn

from geartrain.errors import InputError, NonFiniteError
from geartrain.instruments import gradient_noise_scale, signal_to_noise
from geartrain.instruments.noise import _rows
from geartrain.objective import Objective
from geartrain.records import State


def network(examples: int = 80, **options: object) -> Objective:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    return objective_of(normal(examples, 3), normal(examples, 1, seed=1) + 2, model, **options)


def test_equals_the_plain_formulas():
    objective = network()
    rows = objective.per_example_gradients().numpy()
    result = signal_to_noise(objective)
    assert result.coords["layer"] == ["0", "2"]
    for value, part in zip(result.value, (rows[:, :16], rows[:, 16:]), strict=True):
        noise = part.var(axis=0, ddof=1).sum()
        signal = (part.mean(0) ** 2).sum() - noise / len(part)
        assert value == pytest.approx(signal / noise, rel=1e-11)


def test_known_signal_and_noise():
    # Rows N(m, I) in four dimensions: |m|²/4.
    mean = torch.tensor([1.0, 0.0, 0.5, 0.0]).double()
    result = signal_to_noise(pulled_by(normal(5000, 4, seed=2) + mean))
    assert abs(result.value[0] - 1.25 / 4) <= 4 * result.standard_error[0]
    assert result.standard_error[0] < 0.02


def test_it_is_the_reciprocal_of_the_noise_scale():
    objective = network()
    scale, result = gradient_noise_scale(objective), signal_to_noise(objective)
    assert result.details["total"] == pytest.approx(1 / scale.value, rel=1e-12)
    assert dict(zip(result.coords["layer"], result.value, strict=True)) == pytest.approx(
        scale.details["signal_to_noise"]
    )
    np.testing.assert_allclose(result.details["noise_scale"] * result.value, 1.0)


def test_unbiased_parts_and_honest_errors_over_seeds():
    # 200 data sets of 40 rows N(m, I) in five dimensions at once, as 200 layers.
    rng = np.random.default_rng(0)
    mean = np.array([0.8, -0.4, 0.4, 0.0, 0.0])
    rows = rng.normal(size=(40, 200, 5)) + mean
    total = rows.sum(0)
    noise, signal, covariance = _rows.parts_of((rows**2).sum(-1), (rows * total).sum(-1), (total**2).sum(-1))
    for values, true in ((noise, 5.0), (signal, 0.96)):
        assert abs(values.mean() - true) <= 4 * values.std(ddof=1) / math.sqrt(200)
    for i, (values, true) in enumerate(((noise, 5.0), (signal, 0.96))):
        assert coverage(values, np.sqrt(covariance[:, i, i]), true) >= binom.ppf(0.001, 200, 0.95)
    ends = [_rows.fieller(s, t, c[::-1, ::-1]) for s, t, c in zip(signal, noise, covariance, strict=True)]
    assert sum(low <= 0.96 / 5 <= high for low, high in ends) >= binom.ppf(0.001, 200, 0.95)


def test_the_loss_may_be_rescaled_and_the_data_permuted():
    objective = network()
    (x, y) = objective.batches[0]
    other = Objective(
        objective.model,
        lambda f, t: 3 * nn.functional.mse_loss(f, t),
        [(x[50:], y[50:]), (x[:50], y[:50])],
    )
    np.testing.assert_allclose(signal_to_noise(other).value, signal_to_noise(objective).value, rtol=1e-9)


def test_noise_alone_has_no_ratio_above_zero_for_sure():
    result = signal_to_noise(pulled_by(normal(50, 30, seed=3)))
    assert result.details["low"][0] == 0.0
    assert abs(result.value[0]) <= 4 * result.standard_error[0]


def test_groups_know_their_size():
    mean = torch.tensor([1.0, 0.0, 0.5, 0.0]).double()
    result = signal_to_noise(pulled_by(normal(8000, 4, seed=2) + mean), groups=400)
    assert result.details["group_size"] == 20
    assert abs(result.value[0] - 1.25 / 4) <= 4 * result.standard_error[0]


def test_batch_normalisation_falls_back_to_groups():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).double()
    result = signal_to_noise(objective_of(normal(256, 3), normal(256, 1, seed=1), model, training=True))
    assert result.details["group_size"] == 8
    assert len(result.value) == 3


def test_cost():
    objective = network()
    assert 0.5 <= signal_to_noise(objective).cost.gradients <= 2
    assert signal_to_noise.spec.price(objective).gradients == 1


def test_where_there_is_none():
    single = signal_to_noise(pulled_by(normal(1, 3)))
    assert single.status.state is State.NOT_APPLICABLE
    assert "1 groups of examples are too few" in single.status.sentence
    alike = signal_to_noise(pulled_by(torch.zeros(5, 3).double()))
    assert "No layer's gradient varies" in alike.status.sentence
    x = normal(10, 2)
    summed = signal_to_noise(Objective(linear([1.0, 1.0]), lambda f, y: (f * y).sum(), (x, x[:, :1])))
    assert "not the mean" in summed.status.sentence


def test_refusals():
    with pytest.raises(InputError, match="groups is 0; at least 2"):
        signal_to_noise(network(), groups=0)
    objective = network()
    objective.model[0].weight.data[0, 0] = math.nan
    with pytest.raises(NonFiniteError):
        signal_to_noise(objective)

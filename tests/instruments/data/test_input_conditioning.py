"""Input conditioning: known spectra, agreement with how long gradient descent really takes, relations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.made import normal, objective_of, words
from torch import nn

from geartrain import datasets
from geartrain.instruments import input_conditioning
from geartrain.records import State


def exact_columns(examples: int, spectrum: list[float], seed: int = 0) -> torch.Tensor:
    """Centred columns, orthogonal, with exactly these variances."""
    table = normal(examples, len(spectrum), seed=seed)
    basis = torch.linalg.qr(table - table.mean(0))[0]
    return basis * math.sqrt(examples) * torch.tensor(spectrum, dtype=torch.float64).sqrt()


def test_the_direction_that_carries_the_target_counts():
    x = exact_columns(200, [9.0, 4.0, 0.01])
    for column, truth in ((0, 1.0), (1, 9 / 4), (2, 900.0)):
        result = input_conditioning(objective_of(x, x[:, column : column + 1]))
        assert result.value == pytest.approx(truth, rel=1e-9)
        assert result.details["standardised_condition"] == pytest.approx(1.0)
        assert result.details["gain_from_standardising"] == pytest.approx(truth)
        assert result.details["linear_share"] == pytest.approx(1.0)


def test_it_predicts_the_steps_of_gradient_descent():
    # One direction slower than the other by kappa: 1 - (1 - 1/kappa)^(2t) of its loss is gone after t steps.
    x = exact_columns(300, [1.0, 1 / 50])
    y = x[:, 1:] * math.sqrt(50)
    kappa = input_conditioning(objective_of(x, y)).value
    weights, steps = torch.zeros(2, 1).double(), 0
    while float((x @ weights - y).square().mean()) > math.exp(-2):
        weights -= x.T @ (x @ weights - y) / len(x)
        steps += 1
    assert kappa == pytest.approx(50, rel=1e-6)
    assert 0.9 < steps / kappa < 1.1


def test_an_offset_is_felt_and_standardising_removes_it():
    x = exact_columns(200, [1.0, 1.0]) + 10
    result = input_conditioning(objective_of(x, x[:, :1] - x[:, 1:]))
    # The constant 1 and the mean direction give an eigenvalue of 1 + 100 + 100 + 1 (the variance along it).
    assert result.value == pytest.approx(202, rel=0.01)
    assert result.details["standardised_condition"] == pytest.approx(1.0)


def test_digits():
    (x, y), _ = datasets.digits.load()
    plain = input_conditioning(objective_of(x, y))
    scaled = input_conditioning(objective_of(x * torch.logspace(0, -3, 64), y))
    assert plain.value < 500
    assert scaled.value > 100 * plain.value
    assert scaled.details["standardised_condition"] == pytest.approx(
        plain.details["standardised_condition"], rel=0.01
    )


def test_noise_is_not_followed_down_the_spectrum():
    x = exact_columns(400, [1.0, *np.logspace(-1, -5, 8)])
    y = x[:, :1] + 0.5 * normal(400, 1, seed=3)
    assert input_conditioning(objective_of(x, y)).value < 1.5
    blind = input_conditioning(objective_of(x, normal(400, 1, seed=4)))
    assert not blind.details["label_aware"]


def test_rescaling_and_shuffling():
    x, y = normal(150, 5) * torch.arange(1, 6).double(), normal(150, 1, seed=1)
    y = y + x.sum(1, keepdim=True)
    order = torch.randperm(150, generator=torch.Generator().manual_seed(0))
    value = input_conditioning(objective_of(x, y)).value
    assert input_conditioning(objective_of(x[order], 3 * y[order])).value == pytest.approx(value)
    assert input_conditioning(objective_of(x, y)).standard_error < value


def test_more_features_than_examples():
    x = normal(40, 200)
    result = input_conditioning(objective_of(x, x[:, :1]))
    assert 1 <= result.value < 1e4


def test_not_applicable():
    tokens, targets = words()
    objective = objective_of(tokens, targets, nn.Embedding(7, 7), lambda f, y: f.mean())
    assert input_conditioning(objective).status.state is State.NOT_APPLICABLE
    ones = torch.ones(20, 2).double()
    assert not input_conditioning(objective_of(ones, ones)).status.usable

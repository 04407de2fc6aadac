"""Feature scales: log-spaced scales, rare features, images, relations."""

from __future__ import annotations

import math

import pytest
import torch
from tests.made import normal, objective_of, run_of, words
from torch import nn

from geartrain import datasets
from geartrain.instruments import feature_scales
from geartrain.records import State


def test_log_spaced_scales():
    x = normal(500, 20) * torch.logspace(0, -3, 20, dtype=torch.float64)
    result = feature_scales(objective_of(x, x[:, :1]))
    assert abs(result.value - 1000) < 4 * result.standard_error
    assert result.standard_error < 100
    assert result.details["num_features"] == 20


def test_digits_with_and_without_scales():
    (x, y), _ = datasets.digits.load()
    assert feature_scales(objective_of(x, y)).value < 30
    scaled = feature_scales(objective_of(x * torch.logspace(0, -3, 64), y)).value
    assert 300 < scaled < 3000


def test_rare_pixels_are_not_small():
    x = normal(1000, 3)
    rare = torch.zeros(1000, 1).double()
    rare[:20] = 1.0
    rarer = torch.zeros(1000, 1).double()
    rarer[:2] = 1e-6
    result = feature_scales(objective_of(torch.cat([x, rare, rarer], 1), x[:, :1]))
    assert result.value < 1.2
    assert result.details["constant_features"] == 1


def test_relations():
    x = normal(200, 4) * torch.tensor([1.0, 5.0, 2.0, 0.1]).double() + 3
    value = feature_scales(objective_of(x, x[:, :1])).value
    assert feature_scales(objective_of(1e6 * x, x[:, :1])).value == pytest.approx(value)
    assert feature_scales(objective_of(x[:, [2, 0, 3, 1]].flip(0), x[:, :1])).value == pytest.approx(value)
    assert feature_scales(objective_of(x + 100, x[:, :1])).value == pytest.approx(value)


def test_offset_and_rms():
    x = torch.tensor([[9.0], [11.0]]).double().repeat(50, 1)
    details = feature_scales(objective_of(x, x)).details
    assert details["largest_offset"] == pytest.approx(10)
    assert details["rms"] == pytest.approx(math.sqrt(101))


def test_images_have_channels_where_they_are_convolved():
    images = normal(50, 2, 5, 5) * torch.tensor([1.0, 100.0]).double()[:, None, None]
    images[:, :, 2, 2] *= 1000
    conv = nn.Sequential(nn.Conv2d(2, 1, 3), nn.Flatten(), nn.Linear(9, 1)).double()
    y = normal(50, 1)
    assert feature_scales(objective_of(images, y, conv)).value == pytest.approx(100, rel=0.1)
    assert feature_scales(objective_of(images, y)).value > 1e4


def test_sequences_of_vectors_have_their_entries():
    x = normal(50, 6, 2) * torch.tensor([1.0, 10.0]).double()
    assert feature_scales(objective_of(x, x, nn.Linear(2, 2).double())).details["num_features"] == 2


def test_a_run_is_as_good_as_its_objective():
    x = normal(100, 3)
    run = run_of((x, x[:, :1]))
    assert feature_scales(run).value == feature_scales(run.objective()).value


def test_not_applicable():
    tokens, targets = words()
    model = nn.Sequential(nn.Embedding(7, 7))
    loss = lambda f, y: f.mean()  # noqa: E731
    assert feature_scales(objective_of(tokens, targets, model, loss)).status.state is State.NOT_APPLICABLE
    still = feature_scales(objective_of(torch.ones(5, 2).double(), torch.ones(5, 1).double()))
    assert math.isnan(still.value)

"""Losses per example: written-down losses, the mean, the tail, batch normalisation, budget."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.made import linear, normal, objective_of
from torch import nn
from torch.nn import functional

from geartrain.instruments import example_losses
from geartrain.objective import Objective
from geartrain.records import State


def test_squared_distances():
    y = torch.tensor([[3.0], [0.0], [-1.0], [2.0]]).double()
    result = example_losses(objective_of(torch.ones(4, 1).double(), y, linear([1.0])))
    assert result.value == pytest.approx([4, 1, 4, 1])
    assert result.details["mean"] == 2.5
    assert result.details["mean_error"] == pytest.approx(math.sqrt(3 / 4))
    assert result.details["top"] == (0, 2, 1, 3)
    assert result.details["gap"] == pytest.approx(0, abs=1e-12)
    assert result.status.state is State.EXACT


def test_logits_of_known_confidence():
    """Loss log(1 + e^-m) for the margin m."""
    margins = torch.tensor([0.0, 1.0, 5.0, -2.0]).double()
    x = torch.stack([margins, torch.zeros(4)], 1)
    objective = Objective(
        linear([1.0, 0.0], [0.0, 1.0]), functional.cross_entropy, (x, torch.zeros(4, dtype=torch.long))
    )
    assert example_losses(objective).value == pytest.approx(torch.log1p((-margins).exp()).tolist())


def test_one_example_carries_the_loss():
    y = torch.zeros(200, 1).double()
    y[37] = 10.0
    y[5] = 1.0
    result = example_losses(objective_of(torch.ones(200, 1).double(), y, linear([0.0])))
    assert result.details["top_share"] == pytest.approx(1.0)
    assert result.details["top"][:2] == (37, 5)
    assert result.details["gini"] == pytest.approx((199 * 100 + 197 * 1) / (200 * 101))
    equal = example_losses(
        objective_of(torch.ones(200, 1).double(), torch.ones(200, 1).double(), linear([0.0]))
    )
    assert equal.details["top_share"] == pytest.approx(0.01)
    assert equal.details["gini"] == pytest.approx(0)


def test_rescaling_shuffling_and_duplicating():
    x, y = normal(40, 3), normal(40, 1, seed=1)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    model = linear([1.0, 0.0, 2.0])
    first = example_losses(objective_of(x, y, model))
    shuffled = example_losses(objective_of(x[order], y[order], model))
    assert shuffled.value == pytest.approx(first.value[order.numpy()])
    scaled = example_losses(objective_of(x, y, model, lambda out, t: 3 * functional.mse_loss(out, t)))
    assert scaled.value == pytest.approx(3 * first.value)
    assert scaled.details["top_share"] == pytest.approx(first.details["top_share"])
    twice = example_losses(objective_of(x.repeat(2, 1), y.repeat(2, 1), model))
    assert twice.details["mean"] == pytest.approx(first.details["mean"])


def test_a_sum_is_noticed():
    x = normal(10, 2)
    result = example_losses(objective_of(x, x, nn.Linear(2, 2).double(), lambda f, y: ((f - y) ** 2).sum()))
    assert result.details["gap"] == pytest.approx(-9 * result.details["mean"])


def test_batch_statistics_are_frozen_and_said():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).double().train()
    x = normal(30, 3)
    objective = objective_of(x, x[:, :1], model, training=True)
    result = example_losses(objective)
    assert "evaluation mode" in result.status.sentence
    model.eval()
    truth = ((model(x) - x[:, :1]) ** 2)[:, 0].detach().numpy()
    np.testing.assert_allclose(result.value, truth, rtol=1e-10)


def test_cost_limit_budget():
    x = normal(200, 2)
    objective = objective_of(x, x)
    result = example_losses(objective)
    assert 1 <= result.cost.forwards <= 2
    assert example_losses.spec.price(objective).forwards == 1
    assert len(example_losses(objective, limit=10).value) == 10
    assert np.isnan(example_losses(objective, limit=10).details["gap"])
    assert example_losses(objective, budget=0).status.state is State.OUT_OF_BUDGET
    next(objective.model.parameters()).data.fill_(math.nan)
    assert example_losses(objective).status.state is State.NON_FINITE

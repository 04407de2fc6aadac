"""Target scale: known means and spreads, several outputs, not for classes."""

from __future__ import annotations

import math

import pytest
import torch
from tests.made import normal, objective_of, run_of
from torch.nn import functional

from geartrain import datasets
from geartrain.instruments import target_scale


def test_mean_or_spread_whichever_is_larger():
    x = normal(1000, 1)
    offset = target_scale(objective_of(x, 300 + 5 * normal(1000, 1, seed=1)))
    assert abs(offset.value - 300) < 4 * offset.standard_error
    assert offset.details["offset"] == pytest.approx(60, rel=0.1)
    wide = target_scale(objective_of(x, 40 * normal(1000, 1, seed=1)))
    assert abs(wide.value - 40) < 4 * wide.standard_error
    assert wide.details["std"] == pytest.approx(wide.value)


def test_the_largest_output_counts():
    x = normal(200, 1)
    y = torch.cat([normal(200, 1, seed=1), 100 * normal(200, 1, seed=2)], dim=1)
    result = target_scale(objective_of(x, y))
    assert result.value == pytest.approx(100, rel=0.2)
    assert result.details["std_ratio"] == pytest.approx(100, rel=0.3)


def test_it_scales_with_the_targets_and_not_with_their_order():
    x, y = normal(50, 1), 2 + normal(50, 1, seed=1)
    value = target_scale(objective_of(x, y)).value
    assert target_scale(objective_of(x, 7 * y)).value == pytest.approx(7 * value)
    assert target_scale(objective_of(x, y.flip(0))).value == pytest.approx(value)


def test_diabetes_is_scaled():
    data = datasets.diabetes.load()
    assert target_scale(run_of(data.train)).value == pytest.approx(1, rel=0.1)


def test_constant_targets():
    result = target_scale(objective_of(normal(5, 1), torch.full((5, 1), 25.0).double()))
    assert result.value == 25
    assert result.details["offset"] == math.inf


def test_counts_are_numbers_and_classes_are_not():
    x = normal(60, 2)
    counts = torch.arange(60) * 3
    loss = lambda f, y: functional.mse_loss(f[:, 0], y.double())  # noqa: E731
    assert target_scale(objective_of(x, counts, loss=loss)).value == pytest.approx(88.5)
    for y in (torch.arange(60) % 3, (torch.arange(60) % 2)[:, None].double()):
        assert not target_scale(objective_of(x, y)).status.usable

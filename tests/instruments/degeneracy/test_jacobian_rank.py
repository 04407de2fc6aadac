"""Rank of the Jacobian: deep-linear and ReLU formulas, both methods, gaps, rows."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from tests.made import normal, objective_of, same, state_of
from torch import nn

import geartrain as gt
from geartrain.errors import InputError
from geartrain.instruments import jacobian_rank
from geartrain.records import State


def stack(*widths, between=None, bias=False, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = []
        for a, b in itertools.pairwise(widths):
            layers += [nn.Linear(a, b, bias=bias), *([between()] if between else [])]
    return nn.Sequential(*layers[: len(layers) - bool(between)]).double()


def regression(model, inputs, outputs, n=60):
    return objective_of(normal(n, inputs), normal(n, outputs, seed=1), model)


@pytest.mark.parametrize("widths", [(5, 2, 4), (6, 3, 3, 5), (4, 1, 3), (3, 6, 4)])
def test_deep_linear_networks(widths):
    """Matrices of rank r form a manifold of dimension r (d_in + d_out - r); r = the narrowest layer."""
    found = jacobian_rank(regression(stack(*widths), widths[0], widths[-1]))
    r = min(widths)
    assert float(found) == r * (widths[0] + widths[-1] - r)
    assert found.exact
    assert found.details["gap"] > 1e4


@pytest.mark.parametrize("width", [2, 5])
def test_two_layers_of_relu_lose_one_direction_per_unit(width):
    objective = regression(stack(3, width, 2, between=nn.ReLU, bias=True), 3, 2, n=100)
    found = jacobian_rank(objective)
    assert float(found) == objective.num_params - width
    assert found.details["free"] == width


def test_both_methods_agree(monkeypatch):
    objective = regression(stack(5, 2, 4), 5, 4)
    explicit = jacobian_rank(objective)
    scope = jacobian_rank.__wrapped__.__globals__
    monkeypatch.setitem(scope, "EXPLICIT", 0)
    kernel = jacobian_rank(objective)
    assert (explicit.details["method"], kernel.details["method"]) == ("jacobian", "kernel")
    assert float(explicit) == float(kernel) == 14
    assert np.allclose(
        kernel.details["singular_values"][:14], explicit.details["singular_values"][:14], rtol=1e-9
    )


def test_single_precision_is_widened():
    model = stack(5, 2, 4)
    inputs, targets = normal(60, 5), normal(60, 4)
    wide = jacobian_rank(objective_of(inputs, targets, model))
    narrow = jacobian_rank(objective_of(inputs.float(), targets.float(), model.float()))
    assert float(wide) == float(narrow) == 14
    assert narrow.details["gap"] > 1e4


def test_rescaling_units_and_repeating_data_change_nothing():
    model = stack(3, 4, 2, between=nn.ReLU)
    x, y = normal(40, 3), normal(40, 2)
    rank = float(jacobian_rank(objective_of(x, y, model)))
    assert float(jacobian_rank(objective_of(torch.cat([x, x]), torch.cat([y, y]), model))) == rank
    with torch.no_grad():
        model[0].weight *= 5
        model[2].weight /= 5
    assert float(jacobian_rank(objective_of(x, y, model))) == rank


def test_few_rows_limit_it():
    found = jacobian_rank(regression(stack(5, 4, 4, between=nn.Tanh), 5, 4), 3)
    assert float(found) == 12
    assert found.details["limited_by_rows"]
    assert "more examples may find more" in found.status.sentence


def test_no_gap_is_said():
    x = torch.diag(torch.logspace(0, -13, 14, dtype=torch.float64))
    found = jacobian_rank(objective_of(x, normal(14, 1), nn.Linear(14, 1, bias=False).double()))
    assert float(found) in {10, 11}  # 1e-10 itself is a matter of rounding
    assert found.status.state is State.NOT_CONVERGED
    assert "no clear gap" in found.status.sentence
    assert (
        float(jacobian_rank(objective_of(x, normal(14, 1), nn.Linear(14, 1, bias=False).double()), tol=3e-4))
        == 4
    )


def test_price_budget_traces_and_refusals():
    objective = objective_of(normal(300, 4, dtype=torch.float32), torch.arange(300) % 3, nn.Linear(4, 3))
    before = state_of(objective.model)
    price, cost = jacobian_rank.spec.price(objective, 50), jacobian_rank(objective, 50).cost
    assert (price.forwards, price.gradients) == pytest.approx((cost.forwards, cost.gradients))
    assert same(before, state_of(objective.model))
    assert jacobian_rank(objective, budget=0).status.state is State.OUT_OF_BUDGET
    with pytest.raises(InputError, match="tol is 2; it must lie between 0 and 1"):
        jacobian_rank(objective, tol=2)
    hidden = gt.Objective(nn.Linear(3, 1), batch_loss=lambda m, b: m(b).mean(), data=[torch.ones(4, 3)])
    assert "hidden in batch_loss" in jacobian_rank(hidden).status.sentence

"""Normalised margin: geometric margins, the known maximum, homogeneity, quantiles, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.made import Next, linear, normal, objective_of, sequence_loss, words
from torch import nn
from torch.nn import functional

from geartrain.errors import InputError
from geartrain.instruments import normalised_margin
from geartrain.objective import Objective
from geartrain.records import State

X = torch.tensor([[1.0, 0.5], [0.6, 1.2], [-1.0, -0.4], [-0.5, -1.0]]).double()
Y = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]]).double()


@pytest.mark.parametrize("scale", [1.0, 1e-3, 50.0])
def test_the_maximum_margin_of_separable_points(scale):
    """γ = 0.8/√0.61 along (1, 5/6); both negative points support it."""
    direction = torch.tensor([1.0, 5 / 6]) * scale
    result = normalised_margin(objective_of(X, Y, linear(direction.tolist())))
    assert float(result) == pytest.approx(0.8 / math.sqrt(0.61), rel=1e-6)
    assert result.details["misclassified"] == 0
    for angle in (-0.05, 0.05):
        turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        other = normalised_margin(objective_of(X, Y, linear((turn @ direction).tolist())))
        assert float(other) < float(result)


def test_zeros_and_ones_as_logits_give_the_same():
    model = linear([1.0, 2.0])
    signs = normalised_margin(objective_of(X, Y, model))
    bits = Objective(model, functional.binary_cross_entropy_with_logits, (X, (Y + 1) / 2))
    assert float(normalised_margin(bits)) == pytest.approx(float(signs))


def test_dense_twin_with_several_classes():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6, bias=False), nn.ReLU(), nn.Linear(6, 3, bias=False)).double()
    x, y = normal(40, 4), torch.arange(40) % 3
    scores = model(x).detach()
    margins = [
        float(row[t] - max(row[j] for j in range(3) if j != t)) for row, t in zip(scores, y, strict=True)
    ]
    tops = [float(torch.linalg.matrix_norm(model[i].weight.detach(), 2)) for i in (0, 2)]
    result = normalised_margin(objective_of(x, y, model))
    assert float(result) == pytest.approx(min(margins) / (tops[0] * tops[1]))
    assert result.details["misclassified"] == pytest.approx(np.mean(np.array(margins) <= 0))
    median = normalised_margin(objective_of(x, y, model), quantile=0.5)
    assert float(median) == pytest.approx(np.median(margins) / (tops[0] * tops[1]))
    rows = [float(model[i].weight.detach().norm(dim=1).sum()) / t for i, t in zip((0, 2), tops, strict=True)]
    bartlett = min(margins) / (tops[0] * tops[1] * sum(r ** (2 / 3) for r in rows) ** 1.5)
    assert result.details["bartlett"] == pytest.approx(bartlett)


def test_homogeneous_networks_do_not_feel_their_scale():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 6, bias=False), nn.ReLU(), nn.Linear(6, 2, bias=False)).double()
    x, y = normal(20, 3), torch.arange(20) % 2
    before = normalised_margin(objective_of(x, y, model))
    with torch.no_grad():
        model[0].weight *= 10
        model[2].weight *= 0.3
    after = normalised_margin(objective_of(x, y, model))
    assert float(after) == pytest.approx(float(before))
    assert after.details["raw"] == pytest.approx(3 * before.details["raw"])


def test_every_place_of_a_sequence_has_a_margin():
    result = normalised_margin(Objective(Next(), sequence_loss, words()))
    assert result.status.state is State.EXACT
    assert result.details["misclassified"] > 0.5  # random text, untrained


def test_cost_budget_not_applicable_refusals():
    objective = objective_of(X, Y, linear([1.0, 1.0]))
    assert normalised_margin(objective).cost.forwards == normalised_margin.spec.price(objective).forwards == 1
    assert normalised_margin(objective, budget=0).status.state is State.OUT_OF_BUDGET
    assert "not classes" in normalised_margin(objective_of(X, X)).status.sentence
    assert "zero" in normalised_margin(objective_of(X, Y, linear([0.0, 0.0]))).status.sentence
    with pytest.raises(InputError, match="quantile is 2; allowed: 0"):
        normalised_margin(objective, quantile=2)

"""Prunability: quadratics whose curve is a sum, layers against global order, relations, cost, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.bowls import bowl
from tests.made import linear, normal, objective_of
from tests.training_toys import classifier
from torch import nn

import geartrain as gt
from geartrain.errors import InputError
from geartrain.instruments import prunability
from geartrain.records import State

W = torch.tensor([0.1, -0.4, 0.2, 3.0, 1.0, -2.0, 0.7, 0.5], dtype=torch.float64)


def fitted(weights: torch.Tensor, curvature: float = 1.0, copies: int = 1) -> gt.Objective:
    """½ c Σ (w - w*)² in the minimum w* (one row of weights)."""
    x = torch.eye(len(weights)).double().repeat(copies, 1)
    loss = lambda out, y: 0.5 * curvature * len(weights) * ((out - y) ** 2).mean()  # noqa: E731
    return objective_of(x, x @ weights[:, None], linear(weights.tolist()), loss)


def far(weights: torch.Tensor) -> gt.Objective:
    """The same for many weights, as one tensor of one axis."""
    model = bowl(torch.ones(len(weights)), x=weights).model
    data = (torch.ones(1, len(weights)).double(), weights[None].clone())
    return gt.Objective(model, lambda out, y: 0.5 * ((out - y) ** 2).sum(), data)


@pytest.mark.parametrize("removed", range(1, 8))
def test_the_rise_is_the_sum_of_the_squares_removed(removed):
    squares = (W**2).sort().values.numpy()
    below = 0.5 * squares[:removed].sum() * (1 + 1e-9)
    result = prunability(fitted(W), rise=below)
    assert float(result) == pytest.approx(removed / 8)
    assert result.details["kept"] == 8 - removed
    assert result.status.state is State.EXACT


def test_the_curve():
    result = prunability(fitted(W), rise=1.0)
    details, squares = result.details, np.sort((W**2).numpy())
    truth = [0.5 * squares[: round(s * 8)].sum() for s in details["shares"]]
    np.testing.assert_allclose(details["losses"], truth, atol=1e-12)
    assert np.isnan(details["accuracies"]).all()


def test_many_weights_are_found_to_the_last_one():
    generator = np.random.default_rng(0)
    w = torch.tensor(generator.standard_normal(4000))
    squares = (w**2).sort().values.numpy()
    rise = 0.1 * squares.sum()
    truth = int((0.5 * np.cumsum(squares) <= rise).sum())
    assert float(prunability(far(w), rise=rise)) == truth / 4000


def test_the_default_rise_is_a_twentieth_of_the_gain():
    result = prunability(fitted(W))
    assert result.details["rise"] == pytest.approx(0.05 * 0.5 * float((W**2).sum()))


def test_one_axis_is_pruned_where_there_is_nothing_else():
    objective = bowl([1.0, 1.0, 1.0], x=[0.0, 0.0, 0.0])
    assert float(prunability(objective, rise=0.1)) == 1.0


def test_biases_stay_and_layers_are_told():
    model = nn.Sequential(linear([1.0, 0.01], [0.02, 2.0], bias=[5.0, 5.0]), linear([1.0, 1.0]))
    x = normal(30, 2)
    objective = objective_of(x, model(x).detach(), model)
    result = prunability(objective, rise=0.01)
    assert result.details["weights"] == 6
    assert result.details["kept"] == 4
    assert result.details["nonzero_by_layer"] == {"0.weight": 0.5, "1.weight": 1.0}


def test_rescaling_relu_layers_moves_the_global_order_only():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 20, bias=False), nn.ReLU(), nn.Linear(20, 1, bias=False)).double()
    x = normal(50, 3)
    y = model(x).detach()
    before = [float(prunability(objective_of(x, y, model), scope=s, rise=0.01)) for s in ("layer", "global")]
    model[0].weight.data *= 100
    model[2].weight.data /= 100
    after = [float(prunability(objective_of(x, y, model), scope=s, rise=0.01)) for s in ("layer", "global")]
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_scaling_the_loss_with_its_rise_and_duplicating_data():
    value = float(prunability(fitted(W), rise=0.3))
    assert float(prunability(fitted(W, 7.0), rise=2.1)) == value
    assert float(prunability(fitted(W, copies=3), rise=0.3)) == value


def test_accuracy_falls_to_that_of_a_constant():
    run = classifier()
    run.advance(90)
    objective = run.objective()
    result = prunability(objective)
    accuracies = result.details["accuracies"]
    right = (run.model(run.train_data[0]).argmax(1) == run.train_data[1]).double().mean()
    assert accuracies[0] == pytest.approx(float(right))
    assert accuracies[0] > accuracies[-1] + 0.2
    assert 0 < float(result) < 0.95
    quoted, spent = prunability.spec.price(objective).forwards, result.cost.forwards
    assert spent <= quoted <= 1.3 * spent


def test_budget_and_refusals():
    objective = fitted(torch.linspace(0.1, 1, 100).double())
    assert prunability(objective, budget=0).status.state is State.OUT_OF_BUDGET
    cut = prunability(objective, rise=1.0, budget=1)
    assert cut.status.state is State.OUT_OF_BUDGET
    assert "At least" in cut.status.sentence
    assert float(cut) <= float(prunability(objective, rise=1.0))
    with pytest.raises(InputError, match="scope is 'unit'; allowed: 'global', 'layer'"):
        prunability(objective, scope="unit")
    with pytest.raises(InputError, match="rise is -1; it must be a positive number"):
        prunability(objective, rise=-1)
    next(objective.model.parameters()).data.fill_(float("nan"))
    assert prunability(objective).status.state is State.NON_FINITE

"""Output-target match: silent broadcasting found, everything honest passed."""

from __future__ import annotations

import pytest
import torch
from tests.made import Next, linear, normal, objective_of, sequence_loss, words
from torch import nn
from torch.nn import functional

from geartrain.instruments import output_target_match
from geartrain.objective import Objective
from geartrain.records import State

X, Y = normal(60, 2), normal(60, 1, seed=1)


def square(outputs, targets):
    return (outputs - targets).square().mean()


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize(
    "loss",
    [
        square,
        functional.mse_loss,
        functional.l1_loss,
        lambda f, y: (f - y).abs().max(),
        functional.smooth_l1_loss,
    ],
)
def test_columns_against_rows(loss):
    result = output_target_match(objective_of(X, Y[:, 0], linear([1.0, 2.0]), loss))
    assert result.value == 0
    assert result.details["output_shape"] == (1,)
    assert result.details["target_shape"] == ()
    assert "(n, 1) against targets (n,)" in result.status.sentence


@pytest.mark.parametrize(
    "model", [linear([1.0, 2.0]), linear([0.0, 0.0], bias=[0.0])], ids=["any", "constant"]
)
def test_columns_against_columns(model):
    for loss in (square, functional.mse_loss, lambda f, y: 5 * square(f, y) + 3):
        assert output_target_match(objective_of(X, Y, model, loss)).value == 1


def test_rows_against_columns():
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = linear([1.0, 2.0])

        def forward(self, x):
            return self.layer(x)[:, 0]

    assert output_target_match(objective_of(X, Y, Flat(), square)).value == 0
    assert output_target_match(objective_of(X, Y[:, 0], Flat(), square)).value == 1


def test_one_output_stretched_over_three_targets():
    assert output_target_match(objective_of(X, normal(60, 3), linear([1.0, 2.0]), square)).value == 0


def test_losses_that_pair_by_themselves():
    labels = torch.arange(60) % 3
    assert output_target_match(objective_of(X, labels)).value == 1
    assert output_target_match(objective_of(*words(), Next(), sequence_loss)).value == 1
    picked = lambda f, y: -functional.log_softmax(f, 1)[torch.arange(len(y)), y].mean()  # noqa: E731
    assert output_target_match(objective_of(X, labels, loss=picked)).value == 1
    squeezed = lambda f, y: square(f.squeeze(1), y)  # noqa: E731
    assert output_target_match(objective_of(X, Y[:, 0], linear([1.0, 2.0]), squeezed)).value == 1


def test_probabilities():
    y = (torch.arange(60) % 3 == 0).double()
    model = nn.Sequential(linear([1.0, 2.0]), nn.Sigmoid())
    assert output_target_match(objective_of(X, y[:, None], model, functional.binary_cross_entropy)).value == 1
    broadcast = lambda p, t: -(t * p.log() + (1 - t) * (1 - p).log()).mean()  # noqa: E731
    assert output_target_match(objective_of(X, y, model, broadcast)).value == 0


def test_a_loss_that_ignores_outputs_is_another_matter():
    labels = torch.zeros(60, dtype=torch.long)
    labels[0] = 0
    objective = objective_of(X, (torch.arange(60) % 2), linear([1.0, 2.0]), lambda f, y: 0 * f.sum() + 1)
    assert output_target_match(objective).value == 1


def test_order_and_scale_do_not_matter():
    for y, truth in ((Y, 1), (Y[:, 0], 0)):
        assert (
            output_target_match(objective_of(X.flip(0), 1e4 * y, linear([1.0, 2.0]), square)).value == truth
        )


def test_not_applicable():
    hidden = Objective(linear([1.0, 1.0]), batch_loss=lambda m, b: m(b[0]).mean(), data=(X, Y))
    assert output_target_match(hidden).status.state is State.NOT_APPLICABLE
    assert "equal" in output_target_match(objective_of(X, torch.ones(60, 1).double())).status.sentence

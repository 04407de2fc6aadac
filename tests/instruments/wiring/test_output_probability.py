"""Output probability: softmax and sigmoid applied twice, and everything that is right."""

from __future__ import annotations

import math

import pytest
import torch
from tests.made import Next, linear, normal, objective_of, sequence_loss, words
from torch import nn
from torch.nn import functional

from geartrain.errors import NonFiniteError
from geartrain.instruments import output_probability
from geartrain.objective import Objective
from geartrain.records import State

X, LABELS = normal(40, 2), torch.arange(40) % 10
BITS = (torch.arange(40) % 2).double()[:, None]


def scores(*head: nn.Module, outputs: int = 10) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, outputs).double(), *head)


def test_softmax_twice():
    result = output_probability(objective_of(X, LABELS, scores(nn.Softmax(dim=1))))
    assert result.value == 1
    assert result.details["loss_applies"] == "softmax"
    # The best that probabilities can do: one score 1, nine scores 0.
    assert result.details["loss_floor"] == pytest.approx(math.log(1 + 9 / math.e))


def test_functional_softmax_and_one_hot_targets():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = scores()

        def forward(self, x):
            return functional.softmax(self.layer(x), dim=-1)

    assert output_probability(objective_of(X, LABELS, Net())).value == 1
    assert (
        output_probability(
            objective_of(X, functional.one_hot(LABELS).double(), Net(), functional.cross_entropy)
        ).value
        == 1
    )


@pytest.mark.parametrize(
    ("model", "loss"),
    [
        (scores(), functional.cross_entropy),
        (scores(nn.LogSoftmax(dim=1)), functional.nll_loss),
        (scores(nn.LogSoftmax(dim=1)), functional.cross_entropy),
        (scores(nn.Softmax(dim=1)), lambda p, y: functional.nll_loss(p.log(), y)),
    ],
    ids=["scores", "log-softmax and nll", "log-softmax twice is harmless", "softmax once"],
)
def test_right_ways(model, loss):
    result = output_probability(objective_of(X, LABELS, model, loss))
    assert result.value == 0
    assert result.details["loss_floor"] == 0


def test_log_probabilities_are_told():
    result = output_probability(objective_of(X, LABELS, scores(nn.LogSoftmax(dim=1))))
    assert result.details["log_probability_share"] == 1


def test_sigmoid_twice():
    model = scores(nn.Sigmoid(), outputs=1)
    twice = output_probability(objective_of(X, BITS, model, functional.binary_cross_entropy_with_logits))
    assert twice.value == 1
    assert twice.details["loss_applies"] == "sigmoid"
    # Targets 1 reach ln(1 + 1/e), targets 0 stay at ln 2.
    assert twice.details["loss_floor"] == pytest.approx(0.5 * (math.log(1 + math.exp(-1)) + math.log(2)))
    assert output_probability(objective_of(X, BITS, model, functional.binary_cross_entropy)).value == 0
    once = objective_of(X, BITS, scores(outputs=1), functional.binary_cross_entropy_with_logits)
    assert output_probability(once).value == 0


def test_bounded_scores_have_a_floor():
    details = output_probability(objective_of(X, LABELS, scores(nn.Sigmoid()))).details
    assert details["last_activation"] == "sigmoid"
    assert details["loss_floor"] == pytest.approx(math.log(1 + 9 / math.e))


def test_sequences():
    class Squashed(Next):
        def forward(self, words):
            return super().forward(words).softmax(-1)

    assert output_probability(objective_of(*words(), Squashed(), sequence_loss)).value == 1
    assert output_probability(objective_of(*words(), Next(), sequence_loss)).value == 0


def test_order_and_weights_do_not_matter():
    model = scores(nn.Softmax(dim=1))
    model[0].weight.data *= 5
    assert output_probability(objective_of(X.flip(0), LABELS.flip(0), model)).value == 1


def test_not_applicable_and_nan():
    assert output_probability(objective_of(X, X)).status.state is State.NOT_APPLICABLE
    hidden = Objective(linear([1.0, 1.0]), batch_loss=lambda m, b: m(b[0]).mean(), data=(X, X))
    assert not output_probability(hidden).status.usable
    model = scores()
    model[0].weight.data[0, 0] = math.nan
    with pytest.raises(NonFiniteError, match="outputs"):
        output_probability(objective_of(X, LABELS, model))

"""Loss match: the known misfits, and the losses that people rightly use."""

from __future__ import annotations

import pytest
import torch
from tests.made import Next, linear, normal, objective_of, sequence_loss, words
from torch import nn
from torch.nn import functional

from geartrain.instruments import loss_match
from geartrain.objective import Objective
from geartrain.records import State

X = normal(60, 2)
LABELS = torch.arange(60) % 4
BITS = (torch.arange(60) % 2).double()[:, None]
NUMBERS = normal(60, 1, seed=1)
UNIT = torch.sigmoid(NUMBERS)
ONE = linear([1.0, 2.0])


def four(*head: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 4).double(), *head)


def squared_number(outputs, targets):
    return (outputs[:, 0] - targets).square().mean()


WRONG = {
    "classes by their numbers": (LABELS, ONE, squared_number),
    "classes as floats": (LABELS.double()[:, None], ONE, functional.mse_loss),
    "classes from one, by distance": (LABELS.double()[:, None] + 1, ONE, functional.l1_loss),
    "softmax over one column": (LABELS * 0, ONE, functional.cross_entropy),
    "softmax over one column of numbers": (UNIT, ONE, functional.cross_entropy),
    "logistic loss outside [0, 1]": (3 * NUMBERS, ONE, functional.binary_cross_entropy_with_logits),
    "logistic loss of class numbers": (
        LABELS.double()[:, None],
        ONE,
        functional.binary_cross_entropy_with_logits,
    ),
    "likelihood of plain scores": (LABELS, four(), functional.nll_loss),
    "softmax over the batch": (UNIT[:, 0], nn.Sequential(ONE, nn.Flatten(0)), functional.cross_entropy),
    "wrong sign": (LABELS, four(nn.LogSoftmax(dim=1)), lambda f, y: torch.exp(-functional.nll_loss(f, y))),
}
RIGHT = {
    "cross-entropy": (LABELS, four(), functional.cross_entropy),
    "smoothed and weighted": (
        LABELS,
        four(),
        nn.CrossEntropyLoss(label_smoothing=0.1, weight=torch.ones(4).double()),
    ),
    "log-probabilities": (LABELS, four(nn.LogSoftmax(dim=1)), functional.nll_loss),
    "probabilities": (LABELS, four(nn.Softmax(dim=1)), lambda p, y: functional.nll_loss(p.log(), y)),
    "margin": (LABELS, four(), functional.multi_margin_loss),
    "logistic": (BITS, ONE, functional.binary_cross_entropy_with_logits),
    "logistic of soft labels": (UNIT, ONE, functional.binary_cross_entropy_with_logits),
    "binary probabilities": (BITS, nn.Sequential(ONE, nn.Sigmoid()), functional.binary_cross_entropy),
    "squared error": (NUMBERS, ONE, functional.mse_loss),
    "absolute error": (1e3 * NUMBERS, ONE, functional.l1_loss),
    "huber": (NUMBERS, ONE, functional.huber_loss),
    "quantile": (NUMBERS, ONE, lambda f, y: torch.maximum(0.9 * (y - f), 0.1 * (f - y)).mean()),
    "poisson": (NUMBERS.abs().round() + 40, ONE, functional.poisson_nll_loss),
}


@pytest.mark.parametrize("case", WRONG)
def test_misfits(case):
    targets, model, loss = WRONG[case]
    result = loss_match(objective_of(X, targets, model, loss))
    assert result.value == 0, result.details["reason"]
    assert result.details["reason"] == result.status.sentence


@pytest.mark.parametrize("case", RIGHT)
def test_fits(case):
    targets, model, loss = RIGHT[case]
    result = loss_match(objective_of(X, targets, model, loss))
    assert result.value == 1, result.details["reason"]


def test_sequences_fit():
    assert loss_match(objective_of(*words(), Next(), sequence_loss)).value == 1


@pytest.mark.parametrize("targets", [BITS, functional.one_hot(LABELS).double()], ids=["bits", "one-hot"])
def test_squared_errors_of_classes_are_half_right(targets):
    model = ONE if targets.shape[1] == 1 else four()
    assert loss_match(objective_of(X, targets, model, functional.mse_loss)).value == 0.5


def test_scale_of_the_loss_and_order_do_not_matter():
    for cases, truth in ((WRONG, 0), (RIGHT, 1)):
        targets, model, loss = cases["classes as floats" if truth == 0 else "squared error"]
        scaled = objective_of(X.flip(0), targets.flip(0), model, lambda f, y, loss=loss: 7 * loss(f, y))
        assert loss_match(scaled).value == truth


def test_not_applicable():
    hidden = Objective(ONE, batch_loss=lambda m, b: m(b[0]).mean(), data=(X, X))
    assert loss_match(hidden).status.state is State.NOT_APPLICABLE

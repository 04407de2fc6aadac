"""Constant loss: entropies, variances and medians; probabilities; sequences; relations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.made import Next, linear, normal, objective_of, sequence_loss, words
from torch import nn
from torch.nn import functional

from geartrain.instruments import constant_loss
from geartrain.objective import Objective
from geartrain.records import State

LABELS = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)
ENTROPY = -(0.5 * math.log(0.5) + 0.3 * math.log(0.3) + 0.2 * math.log(0.2))
X = normal(100, 2)


@pytest.mark.parametrize(
    ("head", "loss", "kind"),
    [
        (None, functional.cross_entropy, "scores"),
        (nn.LogSoftmax(dim=1), functional.nll_loss, "log-probabilities"),
        (nn.Softmax(dim=1), lambda p, y: functional.nll_loss(p.log(), y), "probabilities"),
    ],
)
def test_entropy_of_the_labels(head, loss, kind):
    model = nn.Sequential(nn.Linear(2, 3).double(), *([head] if head else []))
    result = constant_loss(objective_of(X, LABELS, model, loss))
    assert result.value == pytest.approx(ENTROPY, abs=1e-6)
    assert result.details["kind"] == kind
    assert result.status.state is State.CONVERGED


def test_variance_and_median():
    y = normal(101, 2, seed=1) * torch.tensor([1.0, 3.0]).double() + 40
    square = constant_loss(objective_of(normal(101, 2), y))
    assert square.value == pytest.approx(float(y.var(0, correction=0).mean()), rel=1e-9)
    np.testing.assert_allclose(square.details["output"], y.mean(0).numpy(), rtol=1e-6)
    absolute = constant_loss(objective_of(normal(101, 2), y, loss=functional.l1_loss))
    # Not smooth: the search stops near the median.
    truth = float((y - y.median(0).values).abs().mean())
    assert truth - 1e-9 <= absolute.value < 1.01 * truth


@pytest.mark.parametrize("squash", [False, True])
def test_binary_entropy(squash):
    y = (torch.arange(100) % 4 == 0).double()[:, None]
    model = nn.Sequential(linear([1.0, 1.0]), nn.Sigmoid()) if squash else linear([1.0, 1.0])
    loss = functional.binary_cross_entropy if squash else functional.binary_cross_entropy_with_logits
    result = constant_loss(objective_of(X, y, model, loss))
    assert result.value == pytest.approx(-(0.25 * math.log(0.25) + 0.75 * math.log(0.75)), abs=1e-6)


def test_sequences_share_one_distribution():
    text, targets = words()
    result = constant_loss(objective_of(text, targets, Next(), sequence_loss))
    shares = np.bincount(targets.reshape(-1).numpy()) / targets.numel()
    assert result.value == pytest.approx(-(shares * np.log(shares)).sum(), abs=1e-6)
    assert result.details["output"].shape == (7,)


def test_places_merged_into_examples():
    class Merged(Next):
        def forward(self, words):
            return super().forward(words).flatten(0, 1)

    text, targets = words()
    loss = lambda f, y: functional.cross_entropy(f, y.flatten())  # noqa: E731
    merged = constant_loss(Objective(Merged(), loss, [(text[:9], targets[:9]), (text[9:], targets[9:])]))
    assert merged.value == pytest.approx(
        constant_loss(objective_of(text, targets, Next(), sequence_loss)).value
    )


def test_classes_on_axis_one():
    images = normal(10, 1, 4, 4)
    labels = (torch.arange(160).reshape(10, 4, 4) % 4 == 0).long()
    model = nn.Conv2d(1, 2, 1).double()
    result = constant_loss(objective_of(images, labels, model))
    assert result.value == pytest.approx(-(0.25 * math.log(0.25) + 0.75 * math.log(0.75)), abs=1e-6)


def test_ratio_is_the_present_loss_in_units_of_it():
    model = linear([0.0, 0.0], bias=[0.0])
    objective = objective_of(X, normal(100, 1, seed=2) + 3, model)
    result = constant_loss(objective)
    assert result.details["ratio"] == pytest.approx(float(objective.value()) / result.value)
    model.bias.data[:] = math.nan
    assert math.isnan(constant_loss(objective).details["ratio"])
    assert constant_loss(objective).value == pytest.approx(result.value)


def test_relations():
    y = normal(100, 1, seed=2)
    value = constant_loss(objective_of(X, y)).value
    assert constant_loss(objective_of(X, 10 * y + 5)).value == pytest.approx(100 * value)
    assert constant_loss(objective_of(X.flip(0), y.flip(0), micro_batch=7)).value == pytest.approx(value)


def test_losses_in_single_precision():
    weight = torch.tensor([1.0, 1.0, 1.0])
    model = nn.Linear(2, 3)
    result = constant_loss(objective_of(X.float(), LABELS, model, nn.CrossEntropyLoss(weight=weight)))
    assert result.value == pytest.approx(ENTROPY, abs=1e-5)


def test_not_applicable():
    hidden = Objective(linear([1.0, 1.0]), batch_loss=lambda m, b: m(b[0]).mean(), data=(X, X))
    assert constant_loss(hidden).status.state is State.NOT_APPLICABLE
    endless = objective_of(X, X, loss=lambda f, y: f.mean())
    assert (
        "no minimum" in constant_loss(endless).status.sentence
        or constant_loss(endless).details["kind"] != "scores"
    )

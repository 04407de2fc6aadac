"""Class recall: confusion made to order, forms of outputs, evaluation mode."""

from __future__ import annotations

import math

import pytest
import torch
from tests.made import Next, linear, normal, run_of, sequence_loss, words
from torch import nn
from torch.nn import functional

from geartrain.errors import NonFiniteError
from geartrain.instruments import class_recall
from geartrain.records import State


def echo() -> nn.Module:
    """Scores are the inputs."""
    return linear([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0])


LABELS = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)
GUESSES = torch.tensor([0] * 50 + [1] * 24 + [0] * 6 + [2] * 5 + [0] * 15)


def test_recalls_of_a_known_confusion():
    result = class_recall(run_of((functional.one_hot(GUESSES).double(), LABELS), model=echo()))
    assert result.value == 0.25
    assert result.details["recalls"] == pytest.approx({0: 1.0, 1: 0.8, 2: 0.25})
    assert result.details["worst_class"] == 2
    assert result.details["accuracy"] == pytest.approx(0.79)
    assert result.details["balanced_accuracy"] == pytest.approx(2.05 / 3)
    assert result.details["majority_share_of_predictions"] == pytest.approx(0.71)
    assert result.details["majority_recall"] == 1
    assert result.details["split"] == "train"
    assert result.standard_error == pytest.approx(math.sqrt(6 / 22 * 16 / 22 / 20))


def test_validation_comes_first():
    good = functional.one_hot(LABELS).double()
    run = run_of((functional.one_hot(GUESSES).double(), LABELS), (good, LABELS), model=echo())
    result = class_recall(run)
    assert result.value == 1
    assert result.details["split"] == "validation"
    assert result.standard_error > 0


def test_order_and_scale_do_not_matter():
    x = functional.one_hot(GUESSES).double()
    assert class_recall(run_of((9 * x.flip(0), LABELS.flip(0)), model=echo())).value == 0.25


@pytest.mark.parametrize("squash", [False, True])
def test_one_column_is_a_score_or_a_probability(squash):
    x = torch.tensor([[-2.0]] * 10 + [[0.5]] * 10).double()
    y = torch.tensor([[0.0]] * 10 + [[1.0]] * 5 + [[0.0]] * 5).double()
    model = nn.Sequential(linear([1.0]), nn.Sigmoid()) if squash else linear([1.0])
    loss = functional.binary_cross_entropy if squash else functional.binary_cross_entropy_with_logits
    assert class_recall(run_of((x, y), model=model, loss=loss)).details["recalls"] == pytest.approx(
        {0: 10 / 15, 1: 1.0}
    )


def test_it_looks_in_evaluation_mode():
    model = nn.Sequential(nn.Dropout(0.9), echo())
    model.train()
    result = class_recall(run_of((functional.one_hot(LABELS).double(), LABELS), model=model))
    assert result.value == 1
    assert model[0].training


def test_not_applicable():
    assert class_recall(run_of((normal(30, 1), normal(30, 1)))).status.state is State.NOT_APPLICABLE
    assert not class_recall(run_of(words(), model=Next(), loss=sequence_loss)).status.usable
    labels = torch.arange(30) % 3
    loss = lambda f, y: (f[:, 0] - y).square().mean()  # noqa: E731
    assert not class_recall(run_of((normal(30, 1), labels), model=linear([1.0]), loss=loss)).status.usable


def test_nan_is_refused():
    model = echo()
    model.weight.data[0, 0] = math.nan
    with pytest.raises(NonFiniteError, match="outputs"):
        class_recall(run_of((functional.one_hot(LABELS).double(), LABELS), model=model))

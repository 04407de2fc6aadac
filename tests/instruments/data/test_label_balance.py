"""Label balance: known shares, forms of labels, not for numbers or sequences."""

from __future__ import annotations

import math

import pytest
import torch
from tests.made import Next, normal, objective_of, run_of, sequence_loss, words
from torch.nn import functional

from geartrain.instruments import label_balance
from geartrain.records import State

LABELS = torch.tensor([0] * 70 + [1] * 20 + [2] * 10)


@pytest.mark.parametrize(
    "targets",
    [LABELS, LABELS[:, None], functional.one_hot(LABELS).double(), LABELS.to(torch.uint8)],
    ids=["numbers", "column", "one-hot", "bytes"],
)
def test_forms_of_labels(targets):
    loss = lambda f, y: f.mean()  # noqa: E731
    result = label_balance(objective_of(normal(100, 2), targets, loss=loss))
    assert result.value == pytest.approx(0.7)
    assert result.standard_error == pytest.approx(math.sqrt(0.7 * 0.3 / 100))
    assert result.details["counts"] == {0: 70, 1: 20, 2: 10}
    assert result.details["ratio"] == 7
    assert result.details["n_classes"] == 3
    assert result.details["excess"] == pytest.approx(2.1)


def test_two_classes_as_zeros_and_ones():
    y = (torch.arange(40) % 4 == 0).double()[:, None]
    loss = functional.binary_cross_entropy_with_logits
    assert label_balance(objective_of(normal(40, 2), y, loss=loss)).value == 0.75


def test_balance_and_its_opposite():
    balanced = label_balance(objective_of(normal(40, 2), torch.arange(40) % 4))
    assert balanced.value == 0.25
    assert balanced.details["entropy"] == pytest.approx(1)
    assert balanced.details["excess"] == pytest.approx(1)
    single = label_balance(objective_of(normal(40, 2), torch.zeros(40, dtype=torch.long)))
    assert single.value == 1
    assert single.details["entropy"] == 0


def test_names_and_order_of_classes_do_not_matter():
    renamed = torch.tensor([2, 0, 1])[LABELS].flip(0)
    x = normal(100, 2)
    assert label_balance(objective_of(x, renamed)).value == label_balance(run_of((x, LABELS))).value


def test_not_applicable():
    assert label_balance(objective_of(normal(30, 1), normal(30, 1))).status.state is State.NOT_APPLICABLE
    assert not label_balance(objective_of(*words(), Next(), sequence_loss)).status.usable
    counts = torch.arange(50)
    loss = lambda f, y: f.mean()  # noqa: E731
    assert not label_balance(objective_of(normal(50, 1), counts, loss=loss)).status.usable

"""Alignment with the targets: closed forms, the null, relations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from tests.made import Next, normal, objective_of, seeded, sequence_loss, words
from torch import nn

import geartrain as gt
from geartrain.errors import InputError
from geartrain.instruments import ntk, ntk_alignment
from geartrain.records import State


def linear(inputs):
    return nn.Linear(inputs.shape[1], 1, bias=False).double()


def test_one_real_target_by_its_formula():
    x, y = normal(12, 3), normal(12, 1, seed=1)
    centre = np.eye(12) - 1 / 12
    kernel, t = centre @ (x @ x.T).numpy() @ centre, centre @ y.numpy()
    truth = (t.T @ kernel @ t).item() / (np.linalg.norm(kernel) * (t.T @ t).item())
    assert float(ntk_alignment(objective_of(x, y, linear(x)))) == pytest.approx(truth, rel=1e-10)


def test_inputs_that_are_the_classes_are_perfectly_aligned():
    labels = torch.arange(21) % 3  # a permutation that keeps the classes together comes up once in 66 million
    x = torch.nn.functional.one_hot(labels).double()
    model = nn.Linear(3, 3).double()
    found = ntk_alignment(objective_of(x, labels, model))
    assert float(found) == pytest.approx(1)
    assert found.details["p_value"] == pytest.approx(1 / 201)
    assert found.details["z"] > 5


def test_orthogonal_inputs_do_not_know_the_targets():
    """K = I: A = tr(Y_c) / (√(n-1) |Y_c|) = 1/√(n-1) for one real target; permuting changes nothing."""
    x = torch.eye(10, dtype=torch.float64)
    found = ntk_alignment(objective_of(x, normal(10, 1), linear(x)))
    assert float(found) == pytest.approx(1 / 3)
    assert found.details["null_mean"] == pytest.approx(1 / 3)
    assert found.details["p_value"] == 1


def test_the_p_value_of_pure_chance_is_uniform():
    x = normal(20, 3)
    values = [
        ntk_alignment(
            objective_of(x, normal(20, 1, seed=s), linear(x)), num_permutations=99, generator=seeded(s)
        ).details["p_value"]
        for s in range(60)
    ]
    # Multiples of 1/100; the Kolmogorov-Smirnov statistic may be off by that.
    assert kstest(values, "uniform").statistic < 1.95 / np.sqrt(60) + 0.01


def test_relations():
    x, labels = normal(15, 4), torch.arange(15) % 3
    model = nn.Linear(4, 3).double()
    value = float(ntk_alignment(objective_of(x, labels, model)))
    assert float(ntk_alignment(objective_of(x, (labels + 1) % 3, model))) == pytest.approx(
        value
    )  # other names
    turn = torch.linalg.qr(normal(4, 4, seed=2))[0]
    assert float(ntk_alignment(objective_of(3 * x @ turn, labels, model))) == pytest.approx(value)
    column = gt.Objective(
        model, lambda o, y: torch.nn.functional.cross_entropy(o, y[:, 0]), (x, labels[:, None])
    )
    assert float(ntk_alignment(column)) == pytest.approx(value)


def test_sequences_and_where_there_is_none():
    assert -1 <= float(ntk_alignment(gt.Objective(Next(), sequence_loss, words()))) <= 1
    x = normal(8, 3)
    assert (
        "All targets are the same"
        in ntk_alignment(objective_of(x, torch.ones(8, 1).double(), linear(x))).status.sentence
    )
    same = objective_of(torch.ones(8, 3).double(), normal(8, 1), linear(x))
    assert "kernel is constant" in ntk_alignment(same).status.sentence
    none = gt.Objective(linear(x), lambda o, y: (o**2).mean(), [(x, None)])
    assert "no targets" in ntk_alignment(none).status.sentence


def test_price_budget_and_refusal():
    objective = objective_of(normal(40, 4), torch.arange(40) % 3)
    price, cost = ntk_alignment.spec.price(objective), ntk_alignment(objective).cost
    assert cost.forwards == pytest.approx(price.forwards + 1)  # the outputs, to see what the targets mean
    assert cost.gradients == price.gradients == ntk(objective).cost.gradients
    assert ntk_alignment(objective, budget=0).status.state is State.OUT_OF_BUDGET
    with pytest.raises(InputError, match="num_permutations is 0"):
        ntk_alignment(objective, num_permutations=0)

"""Lempel-Ziv complexity: parsings by hand, a naive twin, constants, parity and random tables, relations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.cubes import points, polynomial
from tests.made import normal, objective_of
from torch import nn

from geartrain.errors import InputError
from geartrain.instruments import lempel_ziv_complexity
from geartrain.instruments.complexity.lempel_ziv_complexity import complexity_of, words_of
from geartrain.objective import Objective
from geartrain.records import State


def kaspar_schuster(text: str) -> int:
    """Words of the parsing, by the algorithm of Kaspar and Schuster (1987)."""
    n = len(text)
    i, k, step, longest, count = 0, 1, 1, 1, 1
    if n == 1:
        return 1
    while True:
        if text[i + k - 1] == text[step + k - 1]:
            k += 1
            if step + k > n:
                return count + 1
            continue
        longest = max(k, longest)
        i += 1
        if i == step:
            count += 1
            step += longest
            if step + 1 > n:
                return count
            i, k, longest = 0, 1, 1
        else:
            k = 1


def test_parsings_of_the_literature():
    assert words_of("0001101001000101") == 6  # Lempel and Ziv (1976): 0 · 001 · 10 · 100 · 1000 · 101
    assert words_of("01" * 20) == 3
    assert words_of("0" * 9) == 2


def test_the_naive_twin():
    random = np.random.default_rng(0)
    for size in (2, 3, 5, 17, 64, 200):
        for alphabet in (2, 3):
            text = "".join(map(str, random.integers(alphabet, size=size)))
            assert words_of(text) == kaspar_schuster(text), text


def test_random_strings_need_about_a_bit_per_symbol():
    """N log₂(n) / n tends to log₂(alphabet); the distance falls as log log n / log n, tens of percent here."""
    random = np.random.default_rng(0)
    ratios = [complexity_of(random.integers(2, size=n)) / n for n in (256, 4096)]
    assert 1 < ratios[1] < ratios[0] < 1.5
    quaternary = complexity_of(random.integers(4, size=4096)) / 4096
    assert quaternary == pytest.approx(2, rel=0.25)


def test_constant_and_simple_truth_tables():
    d, x = 7, points(7)
    assert float(lempel_ziv_complexity(polynomial({(): 1.0}, x))) == pytest.approx(d)
    first = lempel_ziv_complexity(polynomial({(0,): 1.0}, x))
    # 1...1 0...0 is three words forwards (1 · 11...10 · rest) and as many backwards.
    assert float(first) == pytest.approx(3 * d)
    assert first.details["string"] == "truth table"
    assert first.details["length"] == 128
    last = lempel_ziv_complexity(polynomial({(6,): 1.0}, x))
    assert float(last) == pytest.approx(3 * d)  # 1010...
    assert first.details["relative"] < 0.3


def test_a_random_table_is_as_complex_as_its_shuffles():
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.values = nn.Parameter(normal(128, 1))

        def forward(self, x):
            return self.values[((1 - x) / 2).long() @ (2 ** torch.arange(7))]

    x = points(7)
    result = lempel_ziv_complexity(Objective(Table(), nn.functional.mse_loss, (x, x[:, :1])))
    # One string of its kind: within the spread of single shuffles (4 sd; relative_error is that of their mean of 20).
    assert abs(result.details["relative"] - 1) <= 4 * math.sqrt(21) * result.details["relative_error"]
    assert result.details["random"] == pytest.approx(result.details["shuffled"], rel=0.1)


def test_negating_and_scaling_change_nothing():
    terms = {(0,): 1.0, (1, 2): 0.7, (0, 3): -0.8}
    values = [
        float(lempel_ziv_complexity(polynomial({s: f * c for s, c in terms.items()}, points(6))))
        for f in (1, -1, 50)
    ]
    assert values[0] == values[1] == values[2]


def test_zeros_and_ones_are_cut_at_one_half_and_logits_at_zero():
    bits = (points(4) + 1) / 2
    y = bits[:, :1]
    model = nn.Linear(4, 1).double()
    model.weight.data = torch.tensor([[0.4, 0.0, 0.0, 0.0]]).double()
    model.bias.data.fill_(0.2)  # 0.2 or 0.6
    cut = lempel_ziv_complexity(Objective(model, nn.functional.mse_loss, (bits, y)))
    logits = lempel_ziv_complexity(
        Objective(model, nn.functional.binary_cross_entropy_with_logits, (bits, y))
    )
    assert cut.details["alphabet"] == 2
    assert float(logits) == 4.0  # always above 0: a constant


def test_predictions_of_a_classifier():
    x = normal(50, 2)
    y = torch.arange(50) % 2
    model = nn.Linear(2, 2).double()
    model.weight.data.zero_()
    result = lempel_ziv_complexity(objective_of(x, y, model))
    assert result.details["string"] == "predictions"
    assert float(result) == pytest.approx(math.log2(50))


def test_cost_budget_not_applicable_refusals():
    objective = polynomial({(0,): 1.0}, points(5))
    assert lempel_ziv_complexity(objective).cost.forwards == pytest.approx(1)
    assert lempel_ziv_complexity(objective, budget=0).status.state is State.OUT_OF_BUDGET
    x = normal(20, 2)
    assert "not classes" in lempel_ziv_complexity(objective_of(x, x[:, :1])).status.sentence
    with pytest.raises(InputError, match="references is 1 and exact_up_to 12; allowed"):
        lempel_ziv_complexity(objective, references=1)

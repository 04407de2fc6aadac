"""Canary exposure: tables that know or do not know, the law of chance, repeats, forms of data, nothing changed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom
from tests.made import Next, normal, sequence_loss, words
from tests.training_toys import fingerprint
from torch import nn
from torch.nn import functional

from geartrain.errors import InputError
from geartrain.instruments import canary_exposure
from geartrain.instruments.data._tokens import token_form
from geartrain.instruments.data.canary_exposure import exposure_of
from geartrain.records import State
from geartrain.run import Run

UNSEEN = 1 / math.log(2)


class Bigrams(nn.Module):
    """Scores of the next token from a table of pairs; learns by heart what it is shown."""

    def __init__(self, vocabulary: int = 8) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(vocabulary**2, vocabulary, dtype=torch.float64))
        self.vocabulary = vocabulary

    def forward(self, tokens):
        before = torch.cat([tokens[:, :1], tokens[:, :-1]], dim=1)
        return self.table[before * self.vocabulary + tokens]


def run_on(model: nn.Module, data=None, lr: float = 1.0, **options) -> Run:
    data = words(60, 7, 8) if data is None else data
    return Run(model, sequence_loss, torch.optim.SGD(model.parameters(), lr), data, batch_size=10, **options)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_ranks_by_hand():
    own = np.array([1.0, 5.0, 2.0, 0.0])
    others = np.array([[2.0, 3.0, 4.0], [2.0, 3.0, 4.0], [1.0, 3.0, 4.0], [0.0, 0.0, 0.0]])
    # First, last, second of four; all four equal: rank 2½.
    assert exposure_of(own, others) == pytest.approx([2, 0, 1, 2 - math.log2(2.5)])


def test_chance_is_one_over_log_two():
    """Rank uniform on 1..n: log₂ n - mean log₂ rank, which tends to 1/ln 2 = 1.44 (not to 1)."""
    random, n = np.random.default_rng(0), 128
    draws = exposure_of(random.random(4000), random.random((4000, n - 1)))
    truth = math.log2(n) - math.lgamma(n + 1) / math.log(2) / n
    assert abs(draws.mean() - truth) <= 4 * draws.std() / math.sqrt(4000)
    assert truth == pytest.approx(UNSEEN, abs=0.06)


def test_the_error_covers_chance_over_seeds():
    random = np.random.default_rng(1)
    truth = math.log2(64) - math.lgamma(65) / math.log(2) / 64
    covered = 0
    for _ in range(200):
        e = exposure_of(random.random(30), random.random((30, 63)))
        covered += abs(e.mean() - truth) <= 2.05 * e.std(ddof=1) / math.sqrt(30)  # t with 29 degrees
    # The law is skewed (exponential), which costs a t interval of 30 about two percent of its coverage.
    assert covered >= binom.ppf(0.001, 200, 0.92)


def test_a_model_that_learns_by_heart_is_exposed():
    result = canary_exposure(run_on(Bigrams(), lr=20.0), canaries=2, steps=60, secret=3)
    assert float(result) > 5
    assert result.details["most"] == 7
    assert result.details["repeats"] == 30
    assert abs(result.details["before"] - UNSEEN) < 2


def test_a_model_that_cannot_learn_stays_at_chance():
    model = Bigrams()
    model.table.data = normal(64, 8)
    found = [
        canary_exposure(run_on(model, lr=1e-12), steps=2, canaries=8, candidates=31, generator=seeded(s))
        for s in range(4)
    ]
    exposures = np.concatenate([r.details["exposures"] for r in found])
    truth = 5 - math.lgamma(33) / math.log(2) / 32
    assert abs(exposures.mean() - truth) <= 4 * exposures.std(ddof=1) / math.sqrt(len(exposures))
    assert float(found[0]) == pytest.approx(found[0].details["before"], abs=1e-6)


def test_more_repeats_expose_more():
    values = []
    for steps in (3, 90):
        model = Bigrams()
        model.table.data = normal(64, 8)  # opinions that the canaries must overcome
        values.append(float(canary_exposure(run_on(model, lr=3.0), canaries=3, steps=steps)))
    assert values[1] > values[0] + 1


def test_canaries_of_the_users_are_ranked_as_the_model_stands():
    text = words(60, 7, 8)
    canary = torch.cat([text[0], text[1][:, -1:]], 1)[:1]
    model = Bigrams()
    run = run_on(model)
    blank = canary_exposure(run, canaries=canary)
    assert float(blank) == pytest.approx(7 - math.log2(64.5))  # all secrets are equally likely
    tokens = canary[0]
    for a, b, c in zip(tokens[:-2], tokens[1:-1], tokens[2:], strict=True):
        model.table.data[a * 8 + b, c] = 9.0
    known = canary_exposure(run, canaries=canary)
    assert float(known) == pytest.approx(7)
    assert known.cost.gradients == 0
    assert known.details["saturated"] == 1
    assert math.isnan(known.standard_error)


def test_all_secrets_are_tried_where_they_are_few():
    result = canary_exposure(run_on(Bigrams()), secret=1, steps=1)
    assert result.details["most"] == 3  # eight tokens


def test_forms_of_batches():
    inputs, targets = words(4, 5)
    assert token_form((inputs, targets)).form == "shifted"
    assert token_form({"input_ids": inputs, "labels": inputs, "mask": inputs}).form == "equal"
    assert token_form((inputs, targets.flip(1))) is None
    assert token_form((inputs.double(), targets.double())) is None
    form = token_form({"input_ids": inputs, "labels": targets})
    batch = form.batch(torch.arange(12).reshape(2, 6) % 7)
    assert batch["input_ids"].tolist() == [[0, 1, 2, 3, 4], [6, 0, 1, 2, 3]]
    assert batch["labels"].tolist() == [[1, 2, 3, 4, 5], [0, 1, 2, 3, 4]]


def test_the_run_is_put_back_and_the_answer_repeats():
    run = run_on(Next(8))
    run.advance(3)
    before = fingerprint(run)
    first, second = canary_exposure(run, steps=8), canary_exposure(run, steps=8)
    assert fingerprint(run) == before
    np.testing.assert_array_equal(first.details["exposures"], second.details["exposures"])


def test_cost_budget_not_applicable_refusals():
    run = run_on(Bigrams())
    result, price = canary_exposure(run, steps=10), canary_exposure.spec.price(run, steps=10)
    assert result.cost.gradients == price.gradients == 10
    assert result.cost.forwards == pytest.approx(price.forwards)
    assert canary_exposure(run, budget=0).status.state is State.OUT_OF_BUDGET
    x = normal(20, 2)
    other = Run(
        model := nn.Linear(2, 2).double(),
        functional.mse_loss,
        torch.optim.SGD(model.parameters(), 0.1),
        (x, x),
        batch_size=5,
    )
    assert "next tokens" in canary_exposure(other).status.sentence
    with pytest.raises(InputError, match="canaries is 0, secret 4"):
        canary_exposure(run, canaries=0)
    with pytest.raises(InputError, match=r"canaries have shape \(2, 5\); sequences here have 8 tokens"):
        canary_exposure(run, canaries=torch.zeros(2, 5, dtype=torch.long))
    run.model.table.data.fill_(math.nan)
    assert canary_exposure(run).status.state is State.NON_FINITE

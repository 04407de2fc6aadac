"""k-gram overlap: copies, disjoint alphabets, a naive twin, the law of chance, rows of numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom
from tests.made import Next, normal, run_of, sequence_loss, words

from geartrain.errors import InputError
from geartrain.instruments import kgram_overlap
from geartrain.instruments._answers import ratio_and_error
from geartrain.instruments.data.kgram_overlap import known_pieces
from geartrain.records import State


def text_run(train, validation):
    return run_of(train, validation, Next(), sequence_loss)


def test_copies_and_strangers():
    text = words(20, 12)
    assert float(kgram_overlap(text_run(text, text))) == 1
    strange = (text[0] * 0 + 5, text[1] * 0 + 5)
    inside = (text[0] % 5, text[1] % 5)
    result = kgram_overlap(text_run(inside, strange), k=2)
    assert float(result) == 0
    assert result.details["kind"] == "tokens"


def test_half_of_the_validation_set_is_copied():
    train, fresh = words(20, 12, seed=1), words(10, 12, seed=2)
    mixed = tuple(torch.cat([t[:10], f]) for t, f in zip(train, fresh, strict=True))
    result = kgram_overlap(text_run(train, mixed), k=10)
    assert float(result) == pytest.approx(0.5)
    assert result.standard_error == pytest.approx(0.5 / math.sqrt(19))
    assert set(result.details["examples"]) == set(range(10))
    assert result.details["by_chance"] < 0.01


def test_naive_twin():
    random = np.random.default_rng(0)
    train, validation = random.integers(3, size=(6, 11)), random.integers(3, size=(4, 9))
    for k in range(1, 9):
        known = {tuple(row[i : i + k]) for row in train for i in range(len(row) - k + 1)}
        truth = [[tuple(row[i : i + k]) in known for i in range(len(row) - k + 1)] for row in validation]
        np.testing.assert_array_equal(known_pieces(train, validation, k), truth)


def test_chance_has_its_law_and_the_error_covers():
    """A k-gram of uniform tokens is among m independent ones with 1 - (1 - V^-k)^m."""
    truth = 1 - (1 - 4.0**-4) ** 100
    shares, covered = [], 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        train, validation = random.integers(4, size=(100, 4)), random.integers(4, size=(80, 4))
        found = known_pieces(train, validation, 4)
        share, error = ratio_and_error(found.sum(1).astype(float), np.ones(80))
        # Given the training data the validation set samples the share of known pieces.
        given = len(np.unique(train @ 4 ** np.arange(4))) / 4**4
        covered += abs(share - given) <= 2 * error
        shares.append(share)
    assert abs(np.mean(shares) - truth) <= 4 * np.std(shares, ddof=1) / math.sqrt(200)
    assert covered >= binom.ppf(0.001, 200, 0.95)


def test_longer_pieces_overlap_less_and_names_of_tokens_do_not_matter():
    first, second = words(30, 40, seed=1), words(30, 40, seed=2)
    result = kgram_overlap(text_run(first, second))
    shares = list(result.details["by_k"].values())
    assert shares == sorted(shares, reverse=True)
    renamed = torch.tensor([3, 6, 0, 2, 1, 5, 4])
    other = kgram_overlap(text_run(tuple(renamed[t] for t in first), tuple(renamed[t] for t in second)))
    assert float(other) == float(result)


def test_short_sequences_and_the_last_target():
    text = torch.tensor([[1, 2, 3, 4], [4, 4, 4, 4]])
    other = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 5]])
    split = [(t[:, :-1], t[:, 1:]) for t in (text, other)]
    result = kgram_overlap(run_of(split[0], split[1], Next(), sequence_loss, batch_size=2), k=99)
    assert result.details["k"] == 4
    assert float(result) == 0.5


def test_rows_of_numbers():
    x, fresh = normal(100, 5), normal(40, 5, seed=7)
    mixed = torch.cat([x[:10], x[10:20] + 1e-3, fresh])
    result = kgram_overlap(run_of((x, x[:, :1]), (mixed, mixed[:, :1])))
    assert float(result) == pytest.approx(10 / 60)
    assert result.details["near"] == pytest.approx(20 / 60)
    assert result.details["kind"] == "rows"
    assert result.details["examples"] == tuple(range(10))


def test_not_applicable_and_refusals():
    x = normal(20, 2)
    assert "no validation data" in kgram_overlap(run_of((x, x))).status.sentence
    with pytest.raises(InputError, match="k is 0; it must be at least 1"):
        kgram_overlap(run_of((x, x), (x, x)), k=0)
    result = kgram_overlap(run_of((x, x), (x, x)), budget=0)
    assert result.status.state is State.ESTIMATE
    assert result.cost.forwards == kgram_overlap.spec.price(None).forwards == 0

"""Data order: sorted, shuffled and stratified data; loaders; nothing consumed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.made import Next, normal, run_of, seeded, sequence_loss, words
from torch.utils.data import DataLoader, TensorDataset

from geartrain.instruments import data_order
from geartrain.records import State

X, LABELS = normal(400, 2), torch.arange(400) // 100


def test_sorted_classes_give_the_batch_size():
    result = data_order(run_of((X, LABELS), shuffle=False, batch_size=20))
    # F = (n - 1) / (batches - 1) where every batch is pure.
    assert result.value == pytest.approx(399 / 19)
    assert result.details["intraclass_correlation"] == pytest.approx(1, abs=0.1)
    assert result.details["window"] == 20
    assert result.value > 1 + 20 * result.standard_error


def test_shuffled_classes_give_one():
    values = [data_order(run_of((X, LABELS), shuffle=True, batch_size=20, seed=s)) for s in range(40)]
    numbers = np.array([r.value for r in values])
    assert abs(numbers.mean() - 1) < 4 * numbers.std(ddof=1) / np.sqrt(40)
    z = (numbers - 1) / [r.standard_error for r in values]
    assert 0.6 < z.std() < 1.5


def test_alternating_classes_give_less():
    assert data_order(
        run_of((X, torch.arange(400) % 4), shuffle=False, batch_size=20)
    ).value == pytest.approx(0)


def test_single_examples_are_seen_in_windows():
    result = data_order(run_of((X, LABELS), shuffle=False, batch_size=1))
    assert result.details["window"] == pytest.approx(400 / 12)
    assert result.value > 20


def test_numbers_and_their_scale():
    y = torch.linspace(0, 1, 400, dtype=torch.float64)[:, None]
    value = data_order(run_of((X, y), shuffle=False, batch_size=20)).value
    assert value == pytest.approx(21, rel=0.01)
    assert data_order(run_of((X, 1e4 * y + 5), shuffle=False, batch_size=20)).value == pytest.approx(value)
    assert data_order(run_of((X, y), shuffle=True, batch_size=20)).value < 3


def test_sequences_by_their_words():
    text, targets = words(320, 12)
    run = run_of((text, targets), model=Next(), loss=sequence_loss, batch_size=16)
    assert abs(data_order(run).value - 1) < 4 * data_order(run).standard_error
    common = text.sort(dim=0).values
    ordered = run_of((common, common), model=Next(), loss=sequence_loss, batch_size=16, shuffle=False)
    assert data_order(ordered).value > 5


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_loader_is_left_as_it_was(shuffle):
    generator = seeded(3)
    loader = DataLoader(TensorDataset(X, LABELS), batch_size=20, shuffle=shuffle, generator=generator)
    run = run_of((X, LABELS))
    run.train_data = loader
    run.stream = type(run.stream)(loader, batch_size=20, shuffle=shuffle, seed=0)
    before, state = generator.get_state(), torch.get_rng_state()
    value = data_order(run).value
    assert (value > 10) is not shuffle
    assert torch.equal(generator.get_state(), before)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_stream_in_the_middle_stays_there():
    run = run_of((X, LABELS.clone()), batch_size=20)
    twin = run_of((X, LABELS.clone()), batch_size=20)
    for stream in (run.stream, twin.stream):
        stream.next()
    data_order(run)
    assert torch.equal(run.stream.next()[0], twin.stream.next()[0])


def test_not_applicable():
    assert data_order(run_of((X, LABELS), batch_size=400)).status.state is State.NOT_APPLICABLE
    constant = torch.zeros(400, dtype=torch.long)
    assert "vary" in data_order(run_of((X, constant), batch_size=20)).status.sentence

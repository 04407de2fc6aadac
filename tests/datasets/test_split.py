import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geartrain.datasets._split import Split, spread, standardised, stratified, tensors
from geartrain.errors import InputError


@given(st.integers(2, 120), st.integers(1, 5), st.integers(0, 2**31), st.data())
@settings(max_examples=60, deadline=None)
def test_stratified_deals_every_example_once_and_every_class_in_proportion(size, num_classes, seed, data):
    labels = np.random.default_rng(seed).integers(0, num_classes, size)
    num_train = data.draw(st.integers(1, size - 1))
    train, validation = stratified(labels, num_train, seed)
    assert len(train) == num_train
    assert sorted([*train, *validation]) == list(range(size))
    for label in range(num_classes):
        due = (labels == label).sum() * num_train / size
        assert abs((labels[train] == label).sum() - due) < 1


def test_stratified_repeats_itself_for_a_seed_and_differs_for_another():
    labels = np.arange(60) % 3
    first, again, other = (stratified(labels, 40, seed)[0] for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_stratified_mixes_the_classes():
    train, _ = stratified(np.repeat([0, 1], 50), 80, seed=0)
    assert 0 < (train[:40] < 50).sum() < 40


def test_spread_takes_the_same_share_of_every_tenth():
    targets = np.random.default_rng(0).normal(size=100)
    train, validation = spread(targets, 70, seed=0)
    assert sorted([*train, *validation]) == list(range(100))
    rank = np.argsort(np.argsort(targets))
    assert np.array_equal(np.bincount(rank[train] // 10), np.full(10, 7))


@pytest.mark.parametrize("num_train", [0, -1, 10, 11])
def test_a_split_must_leave_examples_on_both_sides(num_train):
    with pytest.raises(InputError, match=rf"got {num_train} of 10 examples. Choose 1 to 9"):
        stratified(np.zeros(10, dtype=int), num_train, seed=0)


def test_standardised_uses_the_training_part_alone_and_leaves_constant_columns_finite():
    train, validation = standardised(np.array([[1.0, 5.0], [3.0, 5.0]]), np.array([[5.0, 5.0]]))
    assert np.array_equal(train, [[-1, 0], [1, 0]])
    assert np.array_equal(validation, [[3, 0]])


def test_tensors_keep_labels_whole_and_everything_else_single_precision():
    inputs, labels = tensors(np.ones((2, 3)), np.array([0, 1]))
    assert (inputs.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert tensors(np.ones((2, 3)), np.array([0.5, 1.0]))[1].dtype == torch.float32


def test_a_split_unpacks_into_its_two_parts():
    part = (torch.zeros(1), torch.zeros(1))
    train, validation = Split(part, part, "description", "source")
    assert train is part
    assert validation is part

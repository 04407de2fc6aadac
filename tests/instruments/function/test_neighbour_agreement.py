"""Neighbour agreement: determined targets, unrelated targets, noise in between, relations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.made import normal, objective_of, seeded, words
from torch import nn

from geartrain import datasets
from geartrain.instruments import neighbour_agreement
from geartrain.records import State


def clusters(examples: int = 300, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.randint(3, (examples,), generator=seeded(seed))
    return normal(examples, 4, seed=seed + 100) + 20 * nn.functional.one_hot(labels, 4).double(), labels


def test_clusters_determine_their_labels():
    assert neighbour_agreement(objective_of(*clusters())).value == 1


def test_unrelated_labels_agree_by_chance_only():
    # 40 data sets, balanced and not: the mean within four standard errors of 0.
    for odds in ([1 / 3] * 3, [0.8, 0.1, 0.1]):
        values = []
        for seed in range(40):
            x = normal(200, 4, seed=seed)
            y = torch.multinomial(torch.tensor(odds), 200, replacement=True, generator=seeded(seed))
            values.append(neighbour_agreement(objective_of(x, y)).value)
        # Leaving an example out makes its own class rarer among the others, by 1/n.
        assert abs(np.mean(values)) < 4 * np.std(values, ddof=1) / math.sqrt(40) + 1 / 200


def test_flipped_labels_lower_it_by_their_share():
    x, y = clusters(1000)
    flip = torch.rand(1000, generator=seeded(205)) < 0.3
    noisy = torch.where(flip, (y + 1 + torch.randint(2, (1000,), generator=seeded(306))) % 3, y)
    result = neighbour_agreement(objective_of(x, noisy))
    # Neighbours are of the same cluster: five votes, each right with 0.7 and one of the two others else.
    votes = np.random.default_rng(0).choice(3, size=(100_000, 5), p=[0.7, 0.15, 0.15])
    counts = np.stack([(votes == c).sum(1) for c in range(3)], axis=1) + 0.1 * np.eye(3)[votes[:, 0]]
    right = float((counts.argmax(1) == 0).mean())
    truth = (0.7 * right + 0.15 * (1 - right) - 1 / 3) / (2 / 3)
    assert abs(result.value - truth) < 4 * result.standard_error


def test_numbers():
    x = normal(1000, 1)
    smooth = neighbour_agreement(objective_of(x, x.sin()))
    assert smooth.value > 0.99
    values = [
        neighbour_agreement(objective_of(normal(200, 2, seed=s), normal(200, 1, seed=99 + s))).value
        for s in range(30)
    ]
    assert abs(np.mean(values)) < 4 * np.std(values, ddof=1) / math.sqrt(30) + 0.01


def test_digits_and_their_shuffle():
    (x, y), _ = datasets.digits.load()
    assert neighbour_agreement(objective_of(x, y)).value > 0.9
    shuffled = y[torch.randperm(len(y), generator=seeded(0))]
    result = neighbour_agreement(objective_of(x, shuffled))
    assert abs(result.value) < 4 * result.standard_error


def test_scales_shifts_order_and_names_do_not_matter():
    x, y = clusters(150)
    x = x + 8 * normal(150, 4, seed=9)
    value = neighbour_agreement(objective_of(x, y)).value
    scaled = x * torch.tensor([1.0, 1e3, 1e-3, 5.0]).double() + 100
    assert 0.1 < value < 0.95
    assert neighbour_agreement(objective_of(scaled, y)).value == pytest.approx(value)
    assert neighbour_agreement(objective_of(x.flip(0), (y.flip(0) + 1) % 3)).value == pytest.approx(value)


def test_twins_that_disagree():
    x = normal(50, 3).repeat(2, 1)
    y = torch.cat([torch.zeros(50), torch.ones(50)]).long()
    assert neighbour_agreement(objective_of(x, y)).details["duplicate_disagreement"] == 1
    assert math.isnan(neighbour_agreement(objective_of(*clusters())).details["duplicate_disagreement"])


def test_not_applicable():
    objective = objective_of(*words(), nn.Embedding(7, 7), lambda f, y: f.mean())
    assert neighbour_agreement(objective).status.state is State.NOT_APPLICABLE
    few = objective_of(normal(8, 2), torch.arange(8) % 2)
    assert "few" in neighbour_agreement(few).status.sentence
    assert not neighbour_agreement(objective_of(normal(30, 2), torch.ones(30, 1).double())).status.usable

"""Feature neighbours: the input row is the data's own agreement, invariances, chance, coverage, manifold truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom
from tests.made import Next, linear, normal, objective_of, sequence_loss, words
from torch import nn

from geartrain.errors import InputError
from geartrain.instruments import feature_neighbours, neighbour_agreement
from geartrain.instruments.function._neighbours import (
    agreement_of_classes,
    agreement_of_numbers,
    from_products,
    graph_error,
    influence_of_classes,
    influence_of_numbers,
    nearest,
    squared_distances,
)
from geartrain.objective import Objective


def blobs(n: int = 120, seed: int = 0):
    labels = torch.arange(n) % 3
    return normal(n, 4, seed=seed) + 2 * nn.functional.one_hot(labels, 4).double(), labels


def test_the_input_row_is_neighbour_agreement():
    objective = objective_of(*blobs())
    result = feature_neighbours(objective)
    assert result.coords["layer"][0] == "input"
    assert result.value[0] == pytest.approx(neighbour_agreement(objective).value, rel=1e-12)
    numbers = objective_of(normal(90, 2), normal(90, 2).sin())
    assert feature_neighbours(numbers).value[0] == pytest.approx(neighbour_agreement(numbers).value, rel=1e-9)


def test_a_layer_that_sorts_and_one_that_forgets():
    x = torch.cat([0.05 * normal(80, 1), 30 * normal(80, 3, seed=1)], 1)
    labels = (x[:, 0] > 0).long()
    sorts = linear([100.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0])
    forgets = linear([0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0])
    good, bad = (feature_neighbours(objective_of(x, labels, m)) for m in (sorts, forgets))
    assert good.value[1] > 0.9
    assert good.value[1] > good.value[0] > bad.value[1] - 2 * bad.standard_error[1]
    assert abs(bad.value[1]) <= 3 * bad.standard_error[1]
    assert good.details["model_agreement"]["Linear"] > 0.9


def test_rotations_and_a_common_scale_are_no_difference():
    x, labels = blobs()
    turn = np.linalg.qr(normal(4, 4, seed=7).numpy())[0]
    values = [
        feature_neighbours(objective_of(x, labels, linear(*m.tolist()))).value[1]
        for m in (np.eye(4), 1e3 * turn, np.diag([1.0, 9.0, 9.0, 1.0]))
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-12)
    assert values[0] != pytest.approx(values[2], rel=1e-3)


@pytest.mark.parametrize("apart", [0.0, 1.0])
def test_coverage_for_classes(apart):
    values, errors = [], []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        y = rng.integers(2, size=100)
        x = rng.normal(size=(100, 2)) + apart * y[:, None]
        near, _ = nearest(squared_distances(x), 5)
        values.append(agreement_of_classes(y, near).value)
        errors.append(graph_error(influence_of_classes(y, near), near, np.arange(100)))
    truth = np.mean(values)
    if not apart:
        # A row's own class is rarer among the others by 1/n, and the value lower by as much.
        assert abs(truth) <= 4 * np.std(values) / math.sqrt(200) + 1 / 50
    # A variance from so few overlapping neighbourhoods is itself uncertain: 92 % are promised.
    assert (np.abs(np.array(values) - truth) <= 2 * np.array(errors)).sum() >= binom.ppf(0.001, 200, 0.92)
    assert np.mean(errors) <= 2 * np.std(values)


def test_numbers_on_a_manifold():
    # manifold-knn: on a flat torus of density ρ with a linear label, E[error²] = |g|²(k+1)/(4πρk).
    rho, g = 300, np.array([1.0, 2.0])
    for k in (1, 4):
        squares, values, errors = [], [], []
        for seed in range(40):
            x = np.random.default_rng(seed).random((rho, 2))
            gap = (x[:, None] - x[None] + 0.5) % 1 - 0.5
            distances = (gap**2).sum(2)
            np.fill_diagonal(distances, np.inf)
            near, _ = nearest(distances, k)
            reached = gap[np.arange(rho)[:, None], near] @ g
            squares.append((reached.mean(1) ** 2).mean())
            y = np.sin(2 * np.pi * x[:, :1]) + np.random.default_rng(seed + 99).normal(size=(rho, 1))
            values.append(agreement_of_numbers(y, near).value)
            errors.append(graph_error(influence_of_numbers(y, near), near, np.arange(rho)))
        truth = 5 * (k + 1) / (4 * np.pi * rho * k)
        assert abs(np.mean(squares) - truth) <= 4 * np.std(squares) / math.sqrt(40) + 0.01 * truth
        held = np.abs(np.array(values) - np.mean(values)) <= 2 * np.array(errors)
        assert held.sum() >= binom.ppf(0.001, 40, 0.95)


def test_distances_from_products():
    x = normal(20, 3).numpy()
    distances = from_products(x @ x.T)
    expected = ((x[:, None] - x[None]) ** 2).sum(2)
    np.fill_diagonal(expected, np.inf)
    np.testing.assert_allclose(distances, expected, rtol=1e-9)


def test_places_of_one_sequence_are_no_neighbours():
    # Each sequence repeats one token and one random answer: its own places would give the answer away.
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.integers(7, size=(60, 1))).repeat(1, 5)
    y = torch.from_numpy(rng.integers(7, size=(60, 1))).repeat(1, 5)
    result = feature_neighbours(Objective(Next(), sequence_loss, (x, y)))
    assert "input" not in result.coords["layer"]
    # With its own places each row would be at 1. The 60 answers hang on 7 tokens: 4 deviations of chance are 0.3.
    assert np.all(np.abs(result.value) < 0.3)


def test_cost_and_refusals():
    objective = objective_of(*blobs())
    result = feature_neighbours(objective, rows=60)
    assert result.details["rows"] == 60
    assert result.cost.forwards == pytest.approx(1)  # two passes over half of the data
    assert feature_neighbours.spec.price(objective, rows=60).forwards == pytest.approx(1)
    with pytest.raises(InputError, match="k is 0; allowed: 1 or more"):
        feature_neighbours(objective, 0)
    assert "too few" in feature_neighbours(objective_of(*blobs(9))).status.sentence
    same = objective_of(normal(30, 2), torch.zeros(30, 1).double())
    assert "all the same" in feature_neighbours(same).status.sentence
    assert not feature_neighbours(Objective(Next(), sequence_loss, words(1))).status.usable

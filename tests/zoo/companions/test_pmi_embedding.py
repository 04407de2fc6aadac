"""Skip-gram with negative samples: PMI - ln k entry by entry, its rank, every instrument."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tests.zoo.agreement import assert_agrees, assert_draws

from geartrain import zoo
from geartrain.errors import InputError
from geartrain.zoo.companions.pmi_embedding import PmiEmbedding

CHEAP = {"pmi", "pmi_of_a_corpus", "rank", "hessian_trace", "hessian_diagonal", "jacobian_rank", "ntk_drift"}


def test_the_optimum_is_pmi_less_the_logarithm_of_k():
    toy = PmiEmbedding(negatives=5)
    pmi = np.log(toy.table / np.outer(toy.frequencies, toy.frequencies))
    np.testing.assert_allclose(toy.optimum, pmi - math.log(5), atol=1e-12)
    np.testing.assert_allclose(toy.slope_at(toy.optimum), 0.0, atol=1e-15)


def test_words_and_contexts_are_as_frequent_as_zipf_says():
    toy = PmiEmbedding(zipf=1.0, size=4)
    assert toy.table.sum(1) == pytest.approx(np.array([12, 6, 4, 3]) / 25, abs=1e-13)
    assert toy.table.sum(0) == pytest.approx(np.array([12, 6, 4, 3]) / 25, abs=1e-13)


def test_without_meanings_words_stand_beside_each_other_by_chance():
    """As the meanings fade, PMI goes to 0 and every entry of the optimum to -ln k."""
    toy = PmiEmbedding(strength=0.1)
    assert np.abs(toy.optimum + math.log(5)).max() < 0.5
    assert np.abs(toy.optimum + math.log(5)).max() < 0.3 * np.abs(PmiEmbedding().optimum + math.log(5)).max()


def test_vectors_of_the_optimal_dimension_reach_the_optimum():
    toy = PmiEmbedding()
    u, v = np.split(toy.vectors(1.0), 2)
    np.testing.assert_allclose(u @ v.T, toy.optimum, atol=1e-12)


def test_the_gradient_is_that_of_differences():
    toy, step = PmiEmbedding(size=4), 1e-6
    flat = toy.vectors(toy.share).ravel()
    gradient = toy.gradient_at(flat)[1]
    for place in range(0, len(flat), 5):
        moved = step * (np.arange(len(flat)) == place)
        slope = (toy.gradient_at(flat + moved)[0] - toy.gradient_at(flat - moved)[0]) / (2 * step)
        assert gradient[place] == pytest.approx(slope, abs=1e-8)


def test_every_truth_is_met():
    assert_agrees(zoo.get("pmi-embedding"))


def test_truths_hold_for_random_parameters():
    draw = np.random.default_rng(0)
    toy = PmiEmbedding(
        seed=3,
        size=8,
        meanings=2,
        strength=draw.uniform(0.5, 1.5),
        negatives=int(draw.integers(1, 16)),
        zipf=draw.uniform(0, 1),
        share=draw.uniform(0.2, 0.8),
    )
    assert_agrees(toy, CHEAP)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": 11}, "size is 11, meanings 1; allowed: 4 to 10"),
        ({"meanings": 5}, "1 to size - 3"),
        ({"strength": 3.0}, "strength is 3.0, zipf 0.5; allowed: 0.1 to 2"),
        ({"negatives": 0}, "negatives is 0, share 0.4; allowed: 1 to 20"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        zoo.get("pmi-embedding", **wrong)


def test_it_can_be_drawn():
    assert_draws(zoo.get("pmi-embedding"))

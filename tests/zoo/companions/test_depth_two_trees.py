"""All small decision trees: their number, Rashomon sets by convolution and by enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part, assert_draws

from geartrain import zoo
from geartrain.errors import InputError
from geartrain.zoo.companions.depth_two_trees import DepthTwoTrees, answers, trees


def test_there_are_1622_trees_on_five_features():
    found = list(trees(tuple(range(5)), 2))
    assert len(found) == len(set(found)) == 5 * 18**2 + 2 == 1622


def test_two_features_give_every_function_of_two_bits():
    x = np.array(list(itertools.product((False, True), repeat=2)))
    assert len({answers(tree, x).tobytes() for tree in trees((0, 1), 2)}) == 16


def test_a_tree_answers_by_its_questions():
    x = np.array(list(itertools.product((False, True), repeat=2)))
    assert answers((0, (1, 0, 1), 1), x).tolist() == [False, True, True, True]


def test_without_noise_the_planted_tree_is_perfect_but_not_alone():
    toy = DepthTwoTrees(noise=0.0)
    assert toy.best == 0
    assert toy.histogram[0] >= 2  # either of the two features may be asked first


@pytest.mark.parametrize("seed", range(3))
def test_the_histogram_is_that_of_all_trees(seed):
    toy = DepthTwoTrees(features=4, examples=30, seed=seed)
    np.testing.assert_array_equal(toy.histogram, np.bincount(toy.errors, minlength=31))
    np.testing.assert_array_equal(toy.histogram, toy.histogram[::-1])  # flip all leaves


def test_every_truth_is_met():
    assert_agrees(zoo.get("depth-two-trees"))


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    features, examples = int(draw.integers(2, 6)), int(draw.integers(1, 80))
    noise, slack = float(draw.uniform(0, 0.5)), int(draw.integers(0, 8))
    assert_agrees_in_part(
        zoo.get("depth-two-trees", features=features, examples=examples, noise=noise, slack=slack, seed=seed)
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"features": 1}, "features is 1; allowed: 2 to 8"),
        ({"examples": 0}, "examples is 0; allowed: 1 to 1000"),
        ({"noise": 0.6}, "noise is 0.6; allowed: 0 to ½"),
        ({"slack": -1}, "slack is -1; allowed: 0 or more"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        zoo.get("depth-two-trees", **wrong)


def test_it_can_be_drawn():
    assert_draws(zoo.get("depth-two-trees"))

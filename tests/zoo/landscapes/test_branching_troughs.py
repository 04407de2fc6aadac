"""Branching troughs: leaves from starts, the product of choices, memory with and without waiting, every instrument."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part, assert_draws

from geartrain.errors import InputError
from geartrain.zoo.landscapes._bumps import descend
from geartrain.zoo.landscapes.branching_troughs import BranchingTroughs


@pytest.mark.parametrize("variant", ["tree", "merged"])
def test_leaf_of_a_start_is_known_and_the_counts_follow_the_product(variant):
    toy = BranchingTroughs.make(variant=variant, starts=10_000)
    starts = toy.drawn(torch.Generator().manual_seed(11))
    leaves = toy.ends(starts)
    assert (leaves == toy.predicted(starts)).double().mean() >= 0.999
    counts = torch.bincount(leaves[leaves >= 0], minlength=8).numpy()
    expected = toy.probabilities() * counts.sum()
    assert chisquare(counts, expected).pvalue > 0.01


def test_probabilities_are_products_and_add_up():
    toy = BranchingTroughs(variant="tree", depth=4)
    assert toy.probabilities().sum() == pytest.approx(1)
    barriers = toy.barriers
    first, second = float(barriers[0][0]), float(barriers[1][1])
    third, fourth = float(barriers[2][0b10]), float(barriers[3][0b100])
    expected = (1 - first) / 2 * (1 + second) / 2 * (1 + third) / 2 * (1 - fourth) / 2
    assert toy.probabilities()[0b1001] == pytest.approx(expected)


def test_the_start_is_forgotten_where_coordinates_wait_and_not_where_they_are_coupled():
    toy = BranchingTroughs(starts=10_000)
    starts = toy.drawn(torch.Generator().manual_seed(4))

    def memory(first: torch.Tensor, second: torch.Tensor) -> float:
        """z-score: how often x₂ goes up among starts of x₁ in the outer and in the inner half, given its end."""
        outer = (starts[:, 0] > 0.5)[first]
        up = second[first].double()
        p, q = up[outer].mean(), up[~outer].mean()
        error = math.sqrt(float(p * (1 - p)) / int(outer.sum()) + float(q * (1 - q)) / int((~outer).sum()))
        return abs(float(p - q)) / error

    leaves = toy.ends(starts)
    assert memory((leaves >> 2) == 1, ((leaves >> 1) % 2) == 1) < 3
    ends = descend(
        toy.coupled, starts[:, :2], 5.0, lambda x: torch.zeros(len(x), dtype=torch.bool), steps=400
    )
    assert memory(ends[:, 0] > 0.2, ends[:, 1] > 0.6 * ends[:, 0]) > 5


def test_wells_by_hand_are_autograds():
    toy = BranchingTroughs(leaf=(1, -1, 1), variant="tree")
    objective = toy.objective
    value, gradient, diagonal = toy.near(toy.start)
    assert float(objective.value()) == pytest.approx(value)
    np.testing.assert_allclose(objective.gradient().numpy(), gradient, atol=1e-12)
    np.testing.assert_allclose(objective.hvp(torch.eye(3).double()).numpy(), np.diag(diagonal), atol=1e-10)
    assert float(toy.at_leaf().gradient().norm()) < 1e-12


def test_every_instrument_meets_its_truth():
    assert_agrees(BranchingTroughs())


def test_the_tree_is_met_too():
    assert_agrees_in_part(BranchingTroughs(variant="tree"), count=16)


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    depth = int(draw.integers(2, 4))
    toy = BranchingTroughs.make(
        depth=depth,
        variant=str(draw.choice(["tree", "merged"])),
        spread=float(draw.uniform(0.1, 0.45)),
        leaf=tuple(int(s) for s in draw.choice([-1, 1], depth)),
        offset=float(draw.uniform(0.02, 0.09)),
        step=float(draw.uniform(0.1, 0.8)),
        starts=1000,
        seed=seed,
    )
    assert_agrees_in_part(toy)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"depth": 9}, "depth, variant and spread are 9, 'merged', 0.4; allowed"),
        ({"leaf": (1, 0, 1)}, "allowed: 3 choices, each -1 or 1"),
        ({"offset": 0.5}, "offset, step and starts are 0.5, 0.4, 4000; allowed"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        BranchingTroughs.make(**wrong)


def test_it_can_be_drawn():
    assert_draws(BranchingTroughs())

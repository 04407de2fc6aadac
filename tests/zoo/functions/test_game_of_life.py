"""The game of life: hand-built weights, the population loss, parameter counts, every instrument."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part, assert_draws

from geartrain import zoo
from geartrain.errors import InputError
from geartrain.zoo.functions.game_of_life import (
    PATTERNS,
    GameOfLife,
    exact_network,
    life,
    network,
    parameters,
)


def test_the_hand_built_network_is_right_on_all_512_with_a_margin_of_a_quarter():
    toy = GameOfLife(scale=1.0)
    logits = toy.objective.outputs()[:, 0].numpy()
    assert len(logits) == 512
    assert life(PATTERNS).sum() == 140
    np.testing.assert_array_equal(logits > 0, life(PATTERNS))
    assert np.abs(logits).min() == pytest.approx(0.25, abs=1e-12)


@pytest.mark.parametrize(("steps", "m", "count"), [(1, 1, 25), (2, 1, 48), (5, 1, 117), (2, 4, 453)])
def test_parameter_counts(steps, m, count):
    assert parameters(steps, m) == count
    assert sum(p.numel() for p in network(steps, m).parameters()) == count
    assert m > 1 or count == 23 * steps + 2


@pytest.mark.parametrize("steps", [1, 2, 8])
def test_a_network_of_the_least_width_computes_a_glider(steps):
    board = torch.zeros(1, 1, 12, 12, dtype=torch.float64)
    for row, column in ((0, 1), (1, 2), (2, 0), (2, 1), (2, 2)):
        board[0, 0, row, column] = 1
    answer = (exact_network(steps)(board) > 0).double()
    if steps % 4 == 0:  # it moves by one cell along the diagonal in four steps
        torch.testing.assert_close(answer, board.roll((steps // 4, steps // 4), (2, 3)))
    assert answer.sum() == 5


def test_probabilities_of_the_cases_add_up():
    toy = GameOfLife()
    for density in (0.1, 0.38, 0.5):
        assert toy.cases(density)[2].sum() == pytest.approx(1, abs=1e-12)
    _, label, weight = toy.cases(0.5)
    assert label @ weight == 140 / 512


def test_population_loss_is_that_of_the_objective_at_one_half():
    toy = GameOfLife(density=0.5)
    assert float(toy.objective.value()) == pytest.approx(toy.population_loss, rel=1e-12)


@pytest.mark.parametrize("scale", [2.0, 6.3])
def test_hessian_and_gradients_are_those_of_the_objective(scale):
    toy = GameOfLife(scale=scale)
    jacobian, rows, hessian = toy.derivatives
    np.testing.assert_allclose(toy.objective.gradient().numpy(), rows.mean(0), atol=1e-12)
    np.testing.assert_allclose(toy.objective.hvp(torch.eye(23).double()).numpy(), hessian, atol=1e-12)
    assert jacobian.shape == (512, 23)


def test_every_instrument_meets_its_truth():
    assert_agrees(zoo.get("game-of-life"))


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    density, scale = float(draw.uniform(0.05, 0.95)), float(draw.uniform(0.2, 8))
    assert_agrees_in_part(zoo.get("game-of-life", density=density, scale=scale, steps=seed + 1))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"density": 1.0}, "density is 1.0; allowed: above 0 and below 1"),
        ({"scale": 0.0}, "scale is 0.0; allowed: positive"),
        ({"samples": 1}, "samples is 1 and steps 3; allowed: 100 or more"),
        ({"steps": 0}, "and steps 0; allowed: 100 or more, and 1 or more"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        zoo.get("game-of-life", **wrong)


def test_it_can_be_drawn():
    assert_draws(zoo.get("game-of-life"))

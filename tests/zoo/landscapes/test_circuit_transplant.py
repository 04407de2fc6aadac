"""Transplanted circuits: the composed circuit, its controls, every instrument."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part, assert_draws

from geartrain.errors import InputError
from geartrain.zoo.landscapes.circuit_transplant import CircuitTransplant


@pytest.mark.parametrize("q", [2, 3])
def test_hand_built_upper_layers_make_no_error(q):
    toy = CircuitTransplant(q=q)
    assert float(toy.whole().value()) == 0.0
    np.testing.assert_array_equal(toy.objective.outputs().numpy()[:, 0], toy.targets)


@pytest.mark.parametrize("q", [2, 3])
def test_derivatives_by_hand_are_autograds(q):
    toy = CircuitTransplant(q=q)
    whole = toy.whole()
    hessian = whole.hvp(torch.eye(whole.num_params, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(toy.jacobian.T @ toy.jacobian / len(toy.points), hessian, atol=1e-10)
    assert toy.objective.num_params == toy.upper


@pytest.mark.parametrize("q", [2, 3])
def test_no_upper_layer_helps_without_both_circuits(q):
    toy = CircuitTransplant(q=q)
    for halves, floor in ((toy.halves, 0.0), (toy.others, 0.5), (toy.halves[1:], 0.5)):
        seen, y = toy.on_features(halves).batches[0]
        groups = torch.unique(seen, dim=0, return_inverse=True)[1]
        means = torch.zeros(int(groups.max()) + 1).double().index_add_(0, groups, y[:, 0]) / torch.bincount(
            groups
        )
        assert 0.5 * float(((y[:, 0] - means[groups]) ** 2).mean()) == floor


def test_training_with_frozen_halves_gets_there_and_moves_nothing_below():
    run = CircuitTransplant(seed=1).run
    below = next(run.model.parameters()).clone()
    run.advance(200)
    losses = run.history.columns["loss"]
    assert losses[-1] < 0.3 * losses[0]
    assert torch.equal(below, next(run.model.parameters()))


def test_every_instrument_meets_its_truth():
    assert_agrees(CircuitTransplant())


@pytest.mark.parametrize(("q", "width"), [(2, 24), (3, 8)])
def test_truths_hold_for_other_parameters(q, width):
    assert_agrees_in_part(CircuitTransplant(q=q, width=width, seed=width))


@pytest.mark.parametrize("wrong", [{"q": 4}, {"width": 2}])
def test_wrong_parameters_are_refused(wrong):
    with pytest.raises(InputError, match="allowed: 2 or 3, and 4 to 64"):
        CircuitTransplant.make(**wrong)


def test_it_can_be_drawn():
    assert_draws(CircuitTransplant())

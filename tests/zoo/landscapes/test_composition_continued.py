"""Composition, continued: the jump at the switch, who feels it, the control, every instrument."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part, assert_draws

from geartrain.errors import InputError
from geartrain.zoo.landscapes.composition_continued import CompositionContinued


@pytest.mark.parametrize("control", [False, True])
def test_the_loss_jumps_by_half_at_the_switch(control):
    toy = CompositionContinued(control=control)
    assert float(toy.before.objective().value()) == pytest.approx(0, abs=1e-24)
    assert float(toy.objective.value()) == pytest.approx(0.5)
    assert float(toy.finished.objective().value()) == pytest.approx(0, abs=1e-24)


@pytest.mark.parametrize("seed", range(3))
def test_gradient_and_hessian_by_hand_are_autograds(seed):
    toy = CompositionContinued(seed=seed)
    objective = toy.objective
    np.testing.assert_allclose(toy.path.gradients[0], objective.gradient().numpy(), atol=1e-12)
    hessian = objective.hvp(torch.eye(objective.num_params, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(toy.net.hessian, hessian, atol=1e-12)
    assert np.linalg.eigvalsh(toy.net.hessian)[0] < -1e-4  # through the spare units only
    kept = np.ones(objective.num_params, dtype=bool)
    hidden, d = toy.net.weight.shape
    kept[(hidden - 4) * d : hidden * d] = kept[hidden * d + hidden - 4 : hidden * d + hidden] = False
    kept[hidden * d + 2 * hidden - 4 : -1] = False
    assert np.linalg.eigvalsh(toy.net.hessian[kept][:, kept])[0] > -1e-9


def test_the_control_pulls_much_harder_though_the_jump_is_the_same():
    toys = [CompositionContinued(seed=seed) for seed in range(30)]
    near = np.mean([np.abs(replace(toy, control=True).pull).mean() for toy in toys])
    far = np.mean([np.abs(toy.pull).mean() for toy in toys])
    assert near > 3 * far


def test_training_goes_on_from_the_jump():
    run = CompositionContinued().run
    run.advance(100)
    losses = run.history.columns["loss"]
    assert losses[0] == pytest.approx(0.5)
    assert losses[-1] < losses[0]


def test_every_instrument_meets_its_truth():
    assert_agrees(CompositionContinued())


def test_the_control_is_met_too():
    assert_agrees_in_part(CompositionContinued(control=True), count=16)


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    toy = CompositionContinued(
        d=6 + (seed == 2),
        bias=float(draw.uniform(-0.8, 0.8)),
        control=bool(draw.integers(2)),
        step=float(draw.uniform(0.05, 0.6)),
        seed=seed,
    )
    assert_agrees_in_part(toy)


@pytest.mark.parametrize("wrong", [{"d": 12}, {"bias": 3.0}, {"step": 0.0}])
def test_wrong_parameters_are_refused(wrong):
    with pytest.raises(InputError, match="allowed: 6 or 7, -1 to 1, above 0 to"):
        CompositionContinued.make(**wrong)


def test_it_can_be_drawn():
    assert_draws(CompositionContinued())

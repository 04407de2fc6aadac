"""Rescaling a ReLU network: what moves with α by the law, what does not, every instrument."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part, assert_draws

from geartrain.errors import InputError
from geartrain.zoo.curvature.relu_rescaling import ReluRescaling


def dense(toy) -> np.ndarray:
    return toy.objective.hvp(torch.eye(toy.objective.num_params, dtype=torch.float64)).numpy()


@pytest.mark.parametrize("scale", [0.2, 3.0, 10.0])
def test_blocks_scale_by_the_law(scale):
    base, toy = ReluRescaling(scale=1.0), ReluRescaling(scale=scale)
    before, after = dense(base), dense(toy)
    one, two = toy.blocks
    for rows, columns, factor in ((one, one, scale**-2), (one, two, 1.0), (two, two, scale**2)):
        np.testing.assert_allclose(
            after[rows, columns], factor * before[rows, columns], rtol=1e-6, atol=1e-12
        )
    assert float(toy.objective.value()) == pytest.approx(float(base.objective.value()), rel=1e-12)


def test_the_sharpest_block_takes_over():
    toy = ReluRescaling(scale=10.0)
    top = np.linalg.eigvalsh(dense(toy))[-1]
    assert top >= 100 * toy.second_sharpness
    assert top / 100 == pytest.approx(toy.second_sharpness, rel=1e-3)


def test_curvature_in_units_of_the_parameters_stays():
    found = []
    for scale in (0.1, 1.0, 10.0):
        toy = ReluRescaling(scale=scale)
        theta = toy.objective.parameters().numpy()
        found.append(theta**2 @ np.diag(dense(toy)))
    np.testing.assert_allclose(found, found[0], rtol=1e-4)


def test_the_hessian_by_hand_is_autograds():
    toy = ReluRescaling(seed=3, hidden=5, inputs=2)
    np.testing.assert_allclose(toy.hessian, dense(toy), atol=1e-12)


def test_every_instrument_meets_its_truth():
    assert_agrees(ReluRescaling())


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    toy = ReluRescaling(
        seed=seed,
        scale=float(np.exp(draw.uniform(-2, 2))),
        inputs=int(draw.integers(2, 5)),
        hidden=int(draw.integers(2, 7)),
        examples=int(draw.integers(20, 80)),
    )
    assert_agrees_in_part(toy)
    assert replace(toy, scale=1.0).truth["example_losses"].value == pytest.approx(
        toy.truth["example_losses"].value
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"scale": 0.0}, "scale is 0.0; allowed: 0.001 to 1000"),
        ({"examples": 3}, "allowed: at least 1, at least 1, and 8"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        ReluRescaling(**wrong)


def test_it_can_be_drawn():
    assert_draws(ReluRescaling())

"""A posterior with a symmetry: moments by three routes, R-hat in three coordinates, every instrument."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part, assert_draws

from geartrain import zoo
from geartrain.errors import InputError
from geartrain.zoo.noise.symmetric_posterior import SymmetricPosterior


def test_the_reference_numbers():
    toy = SymmetricPosterior()
    assert toy.product == pytest.approx((0.993548, 0.067142), abs=5.1e-7)
    assert toy.island == pytest.approx((1.0916, 0.2312), abs=5.1e-5)
    assert toy.stuck_r_hat() == pytest.approx(2.81, abs=0.005)


def test_r_hat_of_the_function_and_of_the_quotient_are_small_and_that_of_the_weight_is_not():
    trial = SymmetricPosterior().truth["r_hat"].trial
    assert trial is not None
    weight, function, quotient = np.asarray(trial(torch.Generator().manual_seed(0)).value)
    assert weight == pytest.approx(2.81, abs=0.1)
    assert function < 1.01
    assert quotient < 1.02


def test_the_symmetries_change_nothing():
    toy = SymmetricPosterior()
    a, b = 0.7, 1.3
    same = [toy.loss(np.array(w)) for w in ((a, b), (b, a), (-a, -b), (-b, -a))]
    assert np.ptp(same) == 0


def test_the_bottom_is_a_minimum():
    toy = SymmetricPosterior(moment=-15.0)
    np.testing.assert_allclose(toy.gradient(toy.bottom), 0, atol=1e-10)
    assert (np.linalg.eigvalsh(toy.hessian(toy.bottom)) > 0).all()


def test_every_instrument_meets_its_truth():
    assert_agrees(SymmetricPosterior())


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    curvature = draw.uniform(10, 40)
    toy = SymmetricPosterior(
        seed=seed,
        curvature=curvature,
        moment=float(draw.choice([-1, 1])) * curvature * draw.uniform(0.5, 1.5),
        noise=draw.uniform(0.2, 0.5),
        place=(float(draw.uniform(0.5, 2)), float(draw.uniform(-1, 1))),
        step=draw.uniform(0.02, 0.1),
    )
    assert_agrees_in_part(toy)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"noise": 0.0}, "allowed: 1 to 1e4, and 0.05 to 2"),
        ({"moment": 0.0}, "so that the product is not 0"),
        ({"place": (0.0, 0.0)}, "not both 0"),
        ({"step": 0.5}, "step is 0.5; allowed"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        zoo.get("symmetric-posterior", **wrong)


def test_it_can_be_drawn():
    assert_draws(zoo.get("symmetric-posterior"))

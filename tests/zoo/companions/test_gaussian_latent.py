"""A Gaussian latent: informations, the chain rule that ties them, every instrument."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tests.zoo.agreement import assert_agrees, assert_draws

from geartrain import zoo
from geartrain.errors import InputError
from geartrain.zoo.companions.gaussian_latent import GaussianLatent

OWN = {"mutual_information", "redundancy_error", "mediation", "best_prediction"}
CHEAP = {"hessian_trace", "hessian_spectrum", "example_losses", "path_length", "jacobian_rank"}


@pytest.mark.parametrize("noise", [0.1, 0.7, 3.0])
def test_the_chain_rule_ties_the_informations_together(noise):
    told = GaussianLatent(noise=noise).information
    assert told["views"] == pytest.approx(2 * told["one"] - told["both"], rel=1e-12)


def test_half_the_logarithm_of_variance_over_error_is_the_information():
    toy = GaussianLatent(dimension=1)
    assert toy.information["views"] == pytest.approx(-0.5 * math.log(1 - toy.correlation**2))


def test_every_instrument_meets_its_truth():
    assert_agrees(GaussianLatent())


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    toy = GaussianLatent(
        seed=seed,
        dimension=int(draw.integers(1, 5)),
        noise=draw.uniform(0.2, 1.5),
        samples=int(draw.integers(100, 300)),
    )
    assert_agrees(toy, OWN | CHEAP)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dimension": 9}, "dimension is 9, samples 200; allowed: 1 to 8"),
        ({"noise": 0.0}, "allowed: 0.05 to 5"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        zoo.get("gaussian-latent", **wrong)


def test_it_can_be_drawn():
    assert_draws(zoo.get("gaussian-latent"))

"""The deep Gaussian chain: growth of signals and areas, every instrument."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import digamma
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part, assert_draws

from geartrain import zoo
from geartrain.errors import InputError
from geartrain.zoo.companions.deep_gaussian_chain import DeepGaussianChain

LAWS = {"log_growth", "log_growth_variance", "exponents"}


def test_the_formula_of_the_ledger():
    toy = DeepGaussianChain(width=8, scale=1.3)
    expected = math.log(1.3) + 0.5 * (digamma(4.0) + math.log(2 / 8))
    assert toy.exponents[0] == pytest.approx(expected, rel=1e-12)
    assert DeepGaussianChain(width=12).exponents[0] == pytest.approx(-1 / 24, rel=0.05)


@pytest.mark.parametrize(("width", "depth", "scale"), [(2, 3, 1.0), (6, 10, 0.8), (12, 5, 2.0)])
def test_growth_by_simulation(width, depth, scale):
    toy = DeepGaussianChain(width=width, depth=depth, scale=scale)
    for quantity in LAWS:
        trial = toy.truth[quantity].trial
        assert trial is not None
        result = trial(torch.Generator().manual_seed(1))
        z = (np.asarray(result.value) - toy.truth[quantity].value) / np.asarray(result.standard_error)
        assert np.abs(z).max() < 4


def test_the_mean_square_is_kept_although_the_typical_size_shrinks():
    toy, source = DeepGaussianChain(width=4, depth=6), torch.Generator().manual_seed(2)
    logs = toy._logs(source)
    assert logs.mean() < -0.5
    # E χ²/n = 1 per layer; the mean of so skewed a variable is known to some 30 % from 400 draws.
    assert np.exp(2 * logs).mean() == pytest.approx(1, abs=0.6)


def test_every_instrument_meets_its_truth():
    assert_agrees(DeepGaussianChain())


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    toy = DeepGaussianChain(
        seed=seed,
        depth=int(draw.integers(2, 6)),
        width=int(draw.integers(3, 7)),
        scale=float(draw.uniform(0.7, 1.5)),
        examples=int(draw.integers(8, 40)),
        step=float(draw.uniform(0.1, 0.5)),
    )
    assert_agrees_in_part(toy)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"depth": 1}, "depth is 1 and width 5; allowed: 2 to 20 layers"),
        ({"scale": 0.0}, "scale is 0.0 and step 0.3; allowed: 0.2 to 5"),
        ({"examples": 2}, "examples is 2; allowed: 5 to 100"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        zoo.get("deep-gaussian-chain", **wrong)


def test_it_can_be_drawn():
    assert_draws(DeepGaussianChain())

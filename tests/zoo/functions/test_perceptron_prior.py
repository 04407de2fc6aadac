"""The prior of the perceptron: a uniform number of ones under any symmetric law, every instrument."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part, assert_draws

from geartrain import zoo
from geartrain.errors import InputError
from geartrain.zoo.functions.perceptron_prior import LAWS, PerceptronPrior


@pytest.mark.parametrize("law", LAWS)
def test_the_number_of_ones_is_uniform(law):
    toy = PerceptronPrior(n=5, law=law, samples=200_000)
    counts = np.bincount(toy.counts(torch.Generator().manual_seed(1)), minlength=32)
    assert len(counts) == 32  # 32 ones are impossible: f(0) = 0
    assert stats.chisquare(counts).pvalue > 0.01


def test_a_law_that_is_not_symmetric_is_not_uniform():
    toy = PerceptronPrior(n=3)
    weights = np.abs(toy.weights(torch.Generator().manual_seed(0)))
    assert set((weights @ toy.points.T > 0).sum(1).tolist()) == {7}


@pytest.mark.parametrize("seed", range(5))
def test_every_count_occurs_once_among_all_signs(seed):
    toy = PerceptronPrior(n=2 + seed, law="uniform", samples=100)
    found = toy._all_signs(torch.Generator().manual_seed(seed)).value
    np.testing.assert_array_equal(found, np.ones(2**toy.n))


def test_moments_and_hessian_are_those_of_the_inputs():
    toy = PerceptronPrior(n=4)
    extended = np.column_stack([toy.points, np.ones(16)])
    values = np.linalg.eigvalsh(extended.T @ extended / 16)
    assert values[-1] == pytest.approx(toy.largest_moment, rel=1e-12)
    assert values[-1] / values[0] == pytest.approx(4 * toy.largest_moment**2, rel=1e-12)
    hessian = np.linalg.eigvalsh(toy.objective.hvp(torch.eye(4).double()).numpy())
    np.testing.assert_allclose(hessian, np.array([1, 1, 1, 5]) / 16, atol=1e-12)


def test_every_instrument_meets_its_truth():
    assert_agrees(zoo.get("perceptron-prior"))


@pytest.mark.parametrize(("n", "law", "seed"), [(2, "normal", 1), (4, "cauchy", 2), (7, "uniform", 3)])
def test_truths_hold_for_other_parameters(n, law, seed):
    assert_agrees_in_part(zoo.get("perceptron-prior", n=n, law=law, seed=seed))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n": 11}, "n is 11; allowed: 2 to 10"),
        ({"law": "poisson"}, "law is 'poisson'; allowed: 'normal', 'uniform', 'cauchy'"),
        ({"samples": 3}, "samples is 3; allowed: 100 or more"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        zoo.get("perceptron-prior", **wrong)


def test_it_can_be_drawn():
    assert_draws(zoo.get("perceptron-prior"))

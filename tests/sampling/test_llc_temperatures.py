"""λ and multiplicity from several temperatures, and learning coefficients along a run."""

import copy
import math

import numpy as np
import pytest
import torch
from tests.sampling.test_llc import regression

import geartrain as gt
from geartrain.errors import InputError
from geartrain.sampling import FunctionPotential, truths
from geartrain.sampling.learning_coefficient.temperatures import fit
from geartrain.sampling.llc import llc_temperatures, llc_trajectory

BETAS = np.geomspace(1e2, 1e6, 9)
CROSSINGS = {"w2": [2], "w4": [4], "x2y2": [2, 2], "x4y4": [4, 4], "x2y4": [2, 4]}


@pytest.mark.parametrize("powers", CROSSINGS.values(), ids=CROSSINGS)
def test_lambda_and_multiplicity_of_exact_values(powers):
    """From exact finite-temperature values the limit is found, which no single one of them is near."""
    exact = np.array([truths.normal_crossing_estimate(powers, b, 1.0) for b in BETAS])
    found = fit(BETAS, exact, np.full(9, 1e-3))
    truth = truths.normal_crossing(powers)
    assert found.interval[0] - 0.01 < truth.value < found.interval[1] + 0.01
    if truth.multiplicity == 2:
        assert abs(found.value - truth.value) < 0.3 * abs(exact[-1] - truth.value) + 2e-3
        assert found.multiplicity == 2 or found.probabilities[1] > 0.2
    if powers == [2]:
        assert found.multiplicity == 1


def test_coverage_of_the_fit():
    g = np.random.default_rng(0)
    for powers, most in (([2], 40), ([2, 2], 40)):
        exact = np.array([truths.normal_crossing_estimate(powers, b, 1.0) for b in BETAS])
        truth, hits = truths.normal_crossing(powers).value, 0
        for _ in range(most):
            found = fit(BETAS, exact + 0.01 * g.standard_normal(9), np.full(9, 0.01))
            hits += found.interval[0] < truth < found.interval[1]
        assert hits >= 34  # of 40; P = 0.01 at 95 %


def test_one_temperature_says_little():
    found = fit([100.0, 101.0, 102.0], [0.4] * 3, [0.02] * 3)
    assert max(found.probabilities) < 0.6
    assert found.interval[1] - found.interval[0] > 0.1


def test_from_draws():
    potential = FunctionPotential(lambda w: 0.5 * w.square().sum(1), 4, 100.0, 1.0)
    found = llc_temperatures(potential, [30.0, 300.0, 3000.0], chains=16, draws=100)
    assert found.interval[0] < 2.0 < found.interval[1]
    assert len(found.estimates) == 3
    assert found.estimates[1].n_beta == 300.0
    assert "n·beta 300" in str(found)
    assert "m = 1" in repr(found)
    assert all(w.name != "multiplicity_bias" for w in found.warnings)


def test_bad_temperatures():
    with pytest.raises(InputError, match="at least three"):
        fit([1.0, 2.0], [1.0, 1.0], [1.0, 1.0])
    with pytest.raises(InputError, match="positive error"):
        fit([1.0, 2.0, 3.0], [1.0, 1.0, 1.0], [1.0, 0.0, 1.0])
    with pytest.raises(InputError, match="at least three"):
        llc_temperatures(FunctionPotential(lambda w: w[:, 0] ** 2, 1), [1.0], draws=4, budget=0)


OPTIONS = {"kernel": "sgld", "step_size": 2e-3, "batch_size": 32, "draws": 100, "burn_in": 50}


def test_trajectory_has_common_random_numbers():
    """Differences between neighbours are far sharper than the values."""
    objective, *_ = regression()
    near = copy.deepcopy(objective.model)
    with torch.no_grad():
        near.weight += 0.01
    points = {"end": objective.model, "near": near.state_dict(), "far": objective.parameters() + 0.3}
    found = llc_trajectory(objective, points, **OPTIONS)
    assert found.labels == ("end", "near", "far")
    assert found.values.shape == (3,)
    value, error = found.difference(1, 0)
    assert error < 0.25 * math.hypot(*found.errors[:2])
    # Centre displaced by δ: the baseline rises by nβ δ'Hδ/2, and the localisation's centre moves along.
    x, _ = objective.batches[0]
    n_beta = found.estimates[0].n_beta
    h, v = torch.linalg.eigh(x.T @ x / len(x))
    d = v.T @ torch.full((4,), 0.01).double()
    truth = truths.quadratic_estimate(h, n_beta, 1.0, displacement=d) - truths.quadratic_estimate(
        h, n_beta, 1.0
    )
    assert abs(value - truth) < 4 * error + 0.02
    assert found.estimates[2].warned("still_training")
    assert "still_training" in str(found)
    measured = found.to_measurement()
    assert measured.dims == ("point",)
    assert list(measured.coords["point"]) == ["end", "near", "far"]


def test_trajectory_of_a_block_and_wrong_checkpoints():
    objective, *_ = regression(bias=True)
    block = objective.restrict("weight")
    found = llc_trajectory(block, [block.parameters(), objective.model], **OPTIONS)
    assert np.array_equal(found.estimates[0].trace, found.estimates[1].trace)
    assert repr(found).startswith("0: ")
    with pytest.raises(InputError, match="shape"):
        llc_trajectory(block, [torch.zeros(2)], **OPTIONS)
    with pytest.raises(InputError, match="a str"):
        llc_trajectory(block, ["end"], **OPTIONS)
    assert gt.llc(block, **OPTIONS).value == found.values[0]

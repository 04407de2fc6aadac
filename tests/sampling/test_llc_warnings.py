"""Every named warning of `gt.llc`: where it must speak, with the number that it tells, and where it must not."""

import math

import numpy as np
import pytest
import torch
from tests.sampling.test_llc import N_BETA, regression

import geartrain as gt
from geartrain.errors import InputError
from geartrain.records import State
from geartrain.sampling import FunctionPotential, truths
from geartrain.sampling.learning_coefficient import WARNINGS


def quadratic(n_beta=100.0, localisation=1.0, **options):
    return FunctionPotential(lambda w: 0.5 * w.square().sum(1), 3, n_beta, localisation, **options)


def crossing(n_beta, localisation):
    return FunctionPotential(lambda w: w.square().prod(1), 2, n_beta, localisation)


def test_nothing_to_say():
    assert gt.llc(quadratic()).warnings == ()


def test_not_a_minimum():
    """Off by δ the value falls by nβ h δ²/2, and the Newton step knows by how much."""
    centre = torch.tensor([0.5, 0.0, 0.0]).double()
    found = gt.llc(quadratic(localisation=0.01, centre=centre))
    assert found.value < 0
    assert found.warnings[0].name == "still_training"
    assert "negative" in str(found.warnings[0])
    assert "Warning, still training" in str(found)
    assert found.health.training_gain == pytest.approx(100 * 0.25 / 2, rel=1e-3)
    slight = gt.llc(quadratic(localisation=0.01, centre=centre / 3))
    assert slight.warned("still_training")
    assert "Newton step" in str(slight)


def test_objective_that_is_not_trained():
    objective, *_ = regression()
    with torch.no_grad():
        objective.model.weight += 0.3
    found = gt.llc(objective, draws=50)
    assert found.value < 0
    assert found.warnings[0].name == "still_training"


def test_saddle():
    potential = FunctionPotential(lambda w: w[:, 0] ** 4 - 0.1 * w[:, 0] ** 2 + w[:, 1] ** 2, 2, 200.0, 1.0)
    found = gt.llc(potential, draws=50)
    assert found.health.lowest_curvature == pytest.approx(-40.0)
    assert found.warned("still_training")


def test_localisation_too_strong():
    """The slope that is told is the derivative of the exact value."""
    found = gt.llc(crossing(100.0, 30.0), chains=16)
    up, down = (truths.normal_crossing_estimate([2, 2], 100.0, 30.0 * math.exp(s)) for s in (0.05, -0.05))
    slope, error = found.health.localisation_slope
    assert abs(slope - (up - down) / 0.1) < 4 * error
    assert found.warned("localisation_too_strong")
    assert not gt.llc(quadratic(localisation=5.0)).warned("localisation_too_strong")
    regular = gt.llc(quadratic(localisation=100.0), chains=16)
    assert regular.warned("localisation_too_strong")
    slope, error = regular.health.localisation_slope
    assert abs(slope + 3 / 8) < 4 * error  # 3 x nβhγ/(2Λ²)


def test_multiplicity_bias():
    """Likewise the derivative in log nβ; a regular minimum has none."""
    found = gt.llc(crossing(1000.0, 3.0), chains=32, draws=400)
    up, down = (truths.normal_crossing_estimate([2, 2], 1000.0 * math.exp(s), 3.0) for s in (0.05, -0.05))
    slope, error = found.health.temperature_slope
    assert abs(slope - (up - down) / 0.1) < 4 * error
    regular = gt.llc(quadratic(localisation=0.01), chains=16)
    slope, error = regular.health.temperature_slope
    assert abs(slope) < 4 * error
    assert not regular.warned("multiplicity_bias")
    assert gt.llc(crossing(100.0, 100.0), chains=16).warned("multiplicity_bias")


def test_too_stiff():
    found = gt.llc(quadratic(), kernel="sgld", step_size=0.02, draws=200)
    assert found.health.stiffness == pytest.approx(0.02 * 101, rel=1e-6)
    assert found.warned("too_stiff")
    assert found.predicted_bias > 0.5


def test_drifting():
    """A step far too small for the number of steps: the value still climbs."""
    found = gt.llc(quadratic(), kernel="sgld", step_size=1e-5, draws=300, burn_in=0, chains=64)
    assert found.warned("drifting")
    assert found.health.drift[0] > 0
    assert found.status.state is State.NOT_CONVERGED
    assert found.value < 0.5


def test_too_few_and_not_mixed():
    found = gt.llc(quadratic(), kernel="sgld", step_size=2e-4, draws=30, burn_in=2000)
    assert found.warned("too_few_draws")
    assert found.warned("not_mixed")


def test_chains_that_diverge_are_left_out():
    """Beyond a wall the loss is NaN: chains that reach it stop, are counted, and no number uses them."""

    def loss(w):
        return torch.where(w[:, 0] > 0.27, torch.nan, 0.5 * w.square().sum(1))

    found = gt.llc(
        FunctionPotential(loss, 3, 100.0, 1.0), kernel="sgld", step_size=5e-3, chains=40, draws=60, burn_in=20
    )
    assert 0 < found.health.excluded < 40
    assert found.health.chains + found.health.excluded == 40 == len(found.trace) + found.health.excluded
    assert np.isfinite(found.trace).all()
    assert math.isfinite(found.value)
    assert found.warned("diverged_chains")
    assert f"{found.health.excluded} of 40 chains" in str(found)


def test_all_chains_diverge():
    found = gt.llc(quadratic(), kernel="sgld", step_size=1.0, draws=500)
    assert found.status.state is State.NON_FINITE
    assert math.isnan(found.value)
    assert "step size 1.00 is too large. Pass step_size='auto'" in found.status.sentence
    with pytest.raises(
        InputError, match="There is no trace, since no draws were made: All 8 chains became NaN"
    ):
        _ = found.trace
    assert found.warned("diverged_chains")


def test_a_step_of_its_own_never_leaves_chains_behind():
    """Langevin steps on a quartic run away if they are too large; where the step was ours, all chains start anew."""
    potential = FunctionPotential(lambda w: w[:, 0] ** 4, 1, 100.0, 1.0)
    found = gt.llc(potential, kernel="sgld", draws=1000, chains=16)
    assert found.health.excluded == 0
    truth = truths.normal_crossing_estimate([4], 100.0, 1.0)
    assert abs(found.corrected - truth) < 4 * found.standard_error + 0.05 * truth


def test_names_are_the_documented_ones():
    assert {"still_training", "drifting", "too_stiff", "localisation_too_strong", "multiplicity_bias"} <= set(
        WARNINGS
    )
    assert N_BETA > 1

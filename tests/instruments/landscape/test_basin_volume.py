"""Volume of a basin: ellipsoids, boxes and wells in closed form, coverage, invariances, budget and sentences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom
from tests.bowls import bowl, generator
from tests.instruments.landscape.systems import potential, wells
from tests.made import same, state_of
from tests.training_toys import classifier

from geartrain.errors import InputError
from geartrain.instruments import basin_volume
from geartrain.records import Cost, State


def ball(n: int) -> float:
    return 0.5 * n * math.log(math.pi) - math.lgamma(0.5 * n + 1)


def ellipsoid(eigenvalues, rise: float) -> float:
    """Log volume of ½ Σ λ x² < rise: half-axes √(2 rise/λ)."""
    values = np.asarray(eigenvalues, dtype=float)
    return ball(len(values)) + 0.5 * float(np.sum(np.log(2 * rise / values)))


class Quadratic:
    """½ Σ λ x² without a network around it, for many repetitions."""

    def __init__(self, eigenvalues) -> None:
        self.eigenvalues = torch.as_tensor(np.asarray(eigenvalues, dtype=float))
        self.num_params, self.dtype, self.device = len(self.eigenvalues), torch.float64, torch.device("cpu")
        self.work = Cost()

    def parameters(self):
        return torch.zeros(self.num_params, dtype=torch.float64)

    def value(self, x=None):
        return 0.5 * self.eigenvalues @ (self.parameters() if x is None else x) ** 2


def test_an_ellipsoid_is_a_ball_to_its_own_hessian():
    values = [4.0, 1.0, 0.25, 10.0]
    result = basin_volume(bowl(values, np.zeros(4)), cutoff=0.5, max_radius=100.0)
    # A thousandth of a nat is what the search for the rim may leave.
    assert float(result) == pytest.approx(ellipsoid(values, 0.5), abs=2e-3)
    assert result.details["effective_samples"] == pytest.approx(64)
    assert result.standard_error < 0.01
    assert result.details["capped"] == 0
    assert result.details["effective_radius"] == pytest.approx(math.exp((float(result) - ball(4)) / 4))


def test_a_large_ellipsoid_with_few_sharp_directions():
    values = np.concatenate([np.linspace(5, 100, 15), np.full(85, 0.5)])
    result = basin_volume(bowl(values, np.zeros(100)), cutoff=1.0, max_radius=1e3)
    # Eigenvectors found to residuals of 3 % of the largest curvature leave their directions slightly mixed.
    assert abs(float(result) - ellipsoid(values, 1.0)) < 4 * result.standard_error + 0.1
    assert result.cost.products <= 61


def test_scales_of_the_parameters_as_preconditioner():
    values = np.array([4.0, 1.0, 0.25, 10.0])
    result = basin_volume(
        bowl(values, np.zeros(4)), cutoff=0.5, max_radius=100.0, preconditioner=torch.tensor(values**-0.5)
    )
    assert float(result) == pytest.approx(ellipsoid(values, 0.5), abs=2e-3)
    assert result.cost.products == 0


def test_away_from_the_minimum_the_volume_is_that_of_the_same_ellipsoid():
    # An ellipse is convex: all of it is seen from every point inside. Here from (1/2, 0) in x² + y² < 1.
    result = basin_volume(
        bowl([2.0, 2.0], [0.5, 0.0]), cutoff=1.0, samples=150, max_radius=9.0, preconditioner="none"
    )
    assert abs(float(result) - math.log(math.pi)) <= 4 * result.standard_error
    assert result.standard_error < 0.1


def test_a_box():
    objective = potential(lambda x: x.abs().max(), [0.0, 0.0, 0.0])
    result = basin_volume(objective, cutoff=2.0, samples=200, max_radius=50.0, preconditioner="none")
    assert abs(float(result) - 3 * math.log(4)) <= 4 * result.standard_error
    assert result.standard_error < 0.1


def test_only_what_is_seen_counts():
    # (x² - 1)² < 1/4 is two intervals; from x = 1 the right one, √(1/2) to √(3/2).
    objective = potential(wells, [1.0])
    result = basin_volume(objective, cutoff=0.25, samples=40, max_radius=1.0, preconditioner="none")
    left, right = 1 - 0.5**0.5, 1.5**0.5 - 1
    # Only two radii exist; the drawn share of either decides.
    rays = np.sort(np.unique(result.details["radii"].round(3)))
    np.testing.assert_allclose(rays, sorted((left, right)), atol=1e-3)
    assert abs(float(result) - math.log(left + right)) <= 4 * result.standard_error


@pytest.mark.parametrize("values", [[1.0, 2.0, 4.0], [1.0, 0.5, 1 / 3, 0.25, 0.2]])
def test_coverage_over_seeds(values):
    objective, truth = Quadratic(values), ellipsoid(values, 0.5)
    found = [
        basin_volume(
            objective, cutoff=0.5, samples=32, max_radius=1e3, preconditioner="none", generator=generator(s)
        )
        for s in range(200)
    ]
    z = np.array([(float(r) - truth) / r.standard_error for r in found])
    # Never too rarely; the error is meant to be wide, so no limit above.
    assert np.sum(np.abs(z) <= 2) >= binom.ppf(0.001, 200, 0.95)
    assert abs(np.mean([float(r) for r in found]) - truth) < 0.1 * np.std([float(r) for r in found]) + 0.05


def test_many_dimensions_without_a_preconditioner_are_called_what_they_are():
    values = np.logspace(0, 2, 60)
    result = basin_volume(Quadratic(values), cutoff=0.5, max_radius=1e3, preconditioner="none")
    truth = ellipsoid(values, 0.5)
    assert result.status.state is State.NOT_CONVERGED
    assert "Dominated by few samples" in result.status.sentence
    assert abs(float(result) - truth) <= 2 * result.standard_error
    assert result.standard_error > 3
    assert result.details["mean_log"] - 4 * result.details["mean_log_error"] < truth
    assert result.details["mean_log"] < float(result)


def test_stretching_the_parameters_and_scaling_the_loss():
    values = np.array([1.0, 2.0, 4.0])
    plain = basin_volume(Quadratic(values), cutoff=0.5, max_radius=1e3, preconditioner="none")
    wide = basin_volume(Quadratic(values / 9), cutoff=0.5, max_radius=1e4, preconditioner="none")
    assert float(wide) == pytest.approx(float(plain) + 3 * math.log(3), abs=2e-3)
    dear = basin_volume(Quadratic(7 * values), cutoff=3.5, max_radius=1e3, preconditioner="none")
    assert float(dear) == pytest.approx(float(plain), abs=2e-3)


def test_directions_without_an_end_are_cut():
    # x² < 1 in the plane is a strip; within radius 2 its area is 4 (asin(1/2) + (1/2)√(3/4)).
    objective = potential(lambda x: x[0] ** 2, [0.0, 0.0])
    result = basin_volume(objective, cutoff=1.0, samples=300, max_radius=2.0, preconditioner="none")
    area = 2 * 4 * (math.asin(0.5) + 0.5 * 0.75**0.5)
    assert abs(float(result) - math.log(area)) <= 4 * result.standard_error
    assert result.details["capped"] == pytest.approx(1 / 3, abs=0.1)  # |x|/r < 1/2 on a third of the circle
    assert "before they met the rim" in result.status.sentence
    flat = basin_volume(potential(lambda x: 0 * x.sum() + 1.0, [3.0, 4.0]))
    assert float(flat) == pytest.approx(ball(2) + 2 * math.log(5), abs=2e-3)
    assert flat.details["capped"] == 1


def test_on_a_network():
    run = classifier(epochs=100, lr=0.3)
    run.advance(600)
    objective = run.objective()
    before = state_of(objective.model)
    first, second = (basin_volume(objective, samples=16, generator=generator(1)) for _ in range(2))
    assert same(before, state_of(objective.model))
    assert float(first) == float(second)
    assert first.details["cutoff"] == pytest.approx(1.1 * first.details["loss"])
    plain = basin_volume(objective, samples=16, preconditioner="none", generator=generator(1))
    # The nearer the rim is to a sphere, the less the bound of Jensen loses.
    assert first.details["mean_log"] > plain.details["mean_log"] + 10


def test_walls_are_rims():
    result = basin_volume(
        potential(lambda x: -(1 - x[0] ** 2).log(), [0.0]), cutoff=50.0, max_radius=9.0, samples=4
    )
    assert float(result) == pytest.approx(math.log(2.0), abs=1e-2)


def test_cost_and_budget():
    objective = bowl([1.0, 2.0, 4.0], np.zeros(3))
    result = basin_volume(objective, samples=20, preconditioner="none")
    assert result.cost.forwards == result.details["evaluations"]
    assert result.cost.products == 0
    price = basin_volume.spec.price(objective, samples=20, preconditioner="none")
    assert price.forwards / 2 <= result.cost.forwards <= 2 * price.forwards
    cut = basin_volume(objective, samples=200, preconditioner="none", budget=5)
    assert cut.status.state is State.OUT_OF_BUDGET
    assert 2 <= cut.details["samples"] < 200
    assert f"allowed {cut.details['samples']} of 200 rays" in cut.status.sentence
    assert basin_volume(objective, budget=0).status.state is State.OUT_OF_BUDGET


def test_not_finite():
    run = classifier()
    with torch.no_grad():
        next(run.model.parameters()).fill_(float("nan"))
    assert basin_volume(run.objective()).status.state is State.NON_FINITE


def test_refusals():
    objective = bowl([1.0, 2.0])
    with pytest.raises(InputError, match="samples is 1; allowed: 2 or more"):
        basin_volume(objective, samples=1)
    with pytest.raises(InputError, match="max_radius is 0; allowed: positive"):
        basin_volume(objective, max_radius=0)
    with pytest.raises(
        InputError, match=r"cutoff is 1.0, and the loss here is 1.5; allowed: cutoffs above it"
    ):
        basin_volume(objective, cutoff=1.0)
    with pytest.raises(InputError, match="preconditioner is 'adam'; allowed: 'hessian', 'none'"):
        basin_volume(objective, preconditioner="adam")
    with pytest.raises(InputError, match=r"tensor of shape \(2,\); allowed: \(2,\) positive"):
        basin_volume(objective, preconditioner=torch.tensor([1.0, -1.0]))


@pytest.mark.parametrize("max_radius", [1.0, 3.0, 30.0])
def test_a_plateau_just_above_the_rim_is_not_taken_for_it(max_radius):
    """A(1 - exp(-r²/s²)) reaches the cutoff at r = 3s, and beyond it is higher by no more than 0.01 %."""
    scale = 0.1
    objective = potential(lambda x: 1 - torch.exp(-(x @ x) / scale**2), np.zeros(2))
    result = basin_volume(objective, cutoff=1 - math.exp(-9), max_radius=max_radius, preconditioner="none")
    assert float(result) == pytest.approx(math.log(math.pi * (3 * scale) ** 2), abs=4e-3)

"""Volume scaling: quadratics, singular potentials against quadrature, coverage, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from tests.bowls import bowl, generator
from tests.made import normal, objective_of, same, state_of
from torch import nn

import geartrain as gt
from geartrain.errors import InputError
from geartrain.instruments import volume_scaling
from geartrain.instruments.degeneracy.volume_scaling import scaling
from geartrain.records import State


class Point(nn.Module):
    def __init__(self, dimension):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(dimension, dtype=torch.float64))

    def forward(self, x):
        return self.w


def potential(function, dimension=2, offset=0.0):
    return gt.Objective(
        Point(dimension), batch_loss=lambda m, b: function(*m.w) + offset, data=[torch.ones(1, 1).double()]
    )


@pytest.mark.parametrize("eigenvalues", [[1.0, 1.0], [1.0, 3.0, 10.0], np.logspace(-1, 1, 6)])
def test_a_quadratic_has_half_its_dimension(eigenvalues):
    """Every ray scales as √ε exactly, whatever its weight, as long as none leaves the ball."""
    objective = bowl(eigenvalues, np.zeros(len(eigenvalues)))
    found = volume_scaling(objective, 16, levels=(1e-10, 1e-9))
    assert float(found) == pytest.approx(len(eigenvalues) / 2, rel=1e-9)
    assert found.details["half_dimension"] == len(eigenvalues) / 2


@pytest.mark.parametrize(
    ("function", "exponent"), [(lambda x: x**2, 1 / 2), (lambda x: x**4, 1 / 4), (lambda x: x**6, 1 / 6)]
)
def test_powers(function, exponent):
    found = volume_scaling(potential(function, 1), 4, radius=1.0, levels=(1e-5, 1e-3))
    assert float(found) == pytest.approx(exponent, rel=1e-9)
    assert np.allclose(found.details["local_exponents"], exponent)


def test_a_valley_counts_its_walls_only():
    """x² in the plane: one direction has walls. The ball cuts the valley off; the volume is a strip of width √ε."""
    found = volume_scaling(
        potential(lambda x, y: x**2 + 0 * y), 60, radius=1.0, num_radii=12, levels=(1e-4, 1e-2)
    )
    assert abs(float(found) - 0.5) <= 4 * found.standard_error + 0.02


def rises_of(function, angles, radii):
    x, y = np.cos(angles)[:, None] * radii, np.sin(angles)[:, None] * radii
    return function(x, y)


def volume(function_reach, epsilon):
    return quad(
        lambda t: min(function_reach(t, epsilon), 1.0) ** 2 / 2, 0, np.pi / 2, limit=500, points=[1e-3, 1.5]
    )[0]


EPSILONS = np.geomspace(1e-3, 1e-5, 5)
SINGULAR = {  # along a ray the loss is a power of the radius: where it reaches ε is known
    "(xy)^2": (
        lambda x, y: (x * y) ** 2,
        lambda t, e: (e / max(np.cos(t) * np.sin(t), 1e-12) ** 2) ** 0.25,
        EPSILONS,
    ),
    "x^2": (
        lambda x, y: x**2,
        lambda t, e: (e / max(np.cos(t), 1e-12) ** 2) ** 0.5,
        np.geomspace(0.3, 1e-2, 5),
    ),
    "x^2 y^4": (
        lambda x, y: x**2 * y**4,
        lambda t, e: (e / max(np.cos(t) ** 2 * np.sin(t) ** 4, 1e-30)) ** (1 / 6),
        EPSILONS,
    ),
}


@pytest.mark.parametrize("name", SINGULAR)
def test_singular_potentials_against_quadrature_and_coverage(name):
    """The slope at the same levels, not its limit: for (xy)² it nears 1/2 only like 1/ln(1/ε)."""
    function, reach, epsilons = SINGULAR[name]
    logs = np.log([volume(reach, e) for e in epsilons])
    truth = np.polyfit(np.log(epsilons), logs, 1)[0]
    radii, rng = np.logspace(-4, 0, 20), np.random.default_rng(0)
    found = [
        scaling(rises_of(function, rng.uniform(0, 2 * np.pi, 400), radii), radii, epsilons, 2)
        for _ in range(200)
    ]
    values, errors = np.array([f.exponent for f in found]), np.array([f.error for f in found])
    # Heavy-tailed weights make intervals of two errors a little short of 95 %.
    assert abs(values.mean() - truth) <= 4 * values.std(ddof=1) / np.sqrt(200)
    covered = (np.abs(values - truth) <= 2 * errors).mean()
    assert 0.90 <= covered <= 0.99


def test_the_logarithm_is_seen():
    _, reach, _ = SINGULAR["(xy)^2"]
    found = volume_scaling(
        potential(lambda x, y: (x * y) ** 2),
        80,
        radius=1.0,
        num_radii=12,
        levels=(1e-5, 1e-3),
        generator=generator(1),
    )
    truth = np.polyfit(np.log(EPSILONS), np.log([volume(reach, e) for e in EPSILONS]), 1)[0]
    assert truth < 0.45  # well below the limit of 1/2
    assert abs(float(found) - truth) <= 4 * found.standard_error


def test_relations():
    first = volume_scaling(bowl([1.0, 4.0], [0, 0]), 6, num_radii=20)
    scaled = volume_scaling(bowl([1.0, 4.0], [0, 0], factor=50.0), 6, num_radii=20)
    assert float(first) == pytest.approx(float(scaled), rel=1e-9)
    lifted = volume_scaling(potential(lambda x, y: x**2 + y**2, offset=3.0), 6, num_radii=20, radius=1.0)
    assert float(lifted) == pytest.approx(1.0, rel=1e-3)


def test_not_a_minimum_stops_at_once():
    objective = bowl([1.0, 2.0], [1.0, 1.0])
    found = volume_scaling(objective)
    assert "not a minimum: the loss falls" in found.status.sentence
    assert found.cost.forwards < 500
    flat = potential(lambda x, y: 0 * x + 1)
    assert "does not rise" in volume_scaling(flat, 4).status.sentence


def test_too_many_dimensions_are_said():
    found = volume_scaling(bowl(np.logspace(0, 4, 60), np.zeros(60)), 16, levels=(1e-10, 1e-9))
    assert found.status.state is State.NOT_CONVERGED
    assert "count" in found.status.sentence
    assert found.details["effective_directions"] < 8


def test_price_budget_traces_and_refusals():
    objective = bowl([1.0, 2.0], [0, 0])
    before = state_of(objective.model)
    found = volume_scaling(objective, 6, num_radii=20)
    assert found.cost.forwards == volume_scaling.spec.price(objective, 6, num_radii=20).forwards == 121
    assert same(before, state_of(objective.model))
    cut = volume_scaling(objective, 60, num_radii=20, budget=100)
    assert cut.status.state is State.OUT_OF_BUDGET
    assert cut.cost.forwards <= 302
    assert volume_scaling(objective, budget=0).status.state is State.OUT_OF_BUDGET
    assert "needs more" in volume_scaling(objective, budget=3).status.sentence
    for options, words in [
        ({"num_directions": 1}, "num_directions is 1; it must be at least 2"),
        ({"num_radii": 3}, "num_radii is 3; it must be at least 10"),
        ({"radius": -1.0}, "radius is -1.0; it must be positive"),
        ({"levels": (2.0, 1.0)}, "must be .smallest, largest."),
    ]:
        with pytest.raises(InputError, match=words):
            volume_scaling(objective, **options)
    broken = objective_of(normal(5, 2), normal(5, 1), nn.Linear(2, 1).double())
    broken.model.weight.data[0, 0] = float("nan")
    assert volume_scaling(broken).status.state is State.NON_FINITE

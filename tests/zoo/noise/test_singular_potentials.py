"""Singular potentials: learning coefficients at finite n, free energy, volumes, every instrument."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import gamma, gammainc
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part, assert_draws

from geartrain import zoo
from geartrain.errors import InputError
from geartrain.zoo.noise.singular_potentials import KINDS, SingularPotentials


def test_the_reference_numbers():
    expected = {
        "w2": 0.5,
        "w4": 0.25,
        "w6": 0.16667,
        "x2+y2": 1.0,
        "x2y2": 0.41051,
        "x2y4": 0.23715,
        "x4+y2": 0.75,
    }
    for kind, target in expected.items():
        assert SingularPotentials(kind=kind).mean_energy == pytest.approx(target, abs=6e-6)


@pytest.mark.parametrize("samples", [3.0, 30.0, 1e4])
@pytest.mark.parametrize("kind", ["w2", "w4", "w6"])
def test_a_single_power_is_an_incomplete_gamma_function(kind, samples):
    toy = SingularPotentials(kind=kind, samples=samples)
    lam = toy.coefficient
    below = gammainc(lam, samples) * gamma(lam)
    assert toy.mean_energy == pytest.approx(lam - samples**lam * math.exp(-samples) / below, rel=1e-7)


@pytest.mark.parametrize("samples", [50.0, 1e4, 1e8])
def test_multiplicity_costs_one_over_the_logarithm(samples):
    toy = SingularPotentials(kind="x2y2", samples=samples)
    limit = 0.5 - 1 / (math.log(samples) + np.euler_gamma + 2 * math.log(2))
    assert toy.mean_energy == pytest.approx(limit, abs=1e-6)


def test_sums_of_separate_variables_add_their_coefficients_at_every_n():
    for samples in (10.0, 1e3):
        parts = [SingularPotentials(kind=k, samples=samples).mean_energy for k in ("w4", "w2")]
        assert SingularPotentials(kind="x4+y2", samples=samples).mean_energy == pytest.approx(
            sum(parts), rel=1e-8
        )


def test_the_free_energy_grows_as_theory_says():
    for kind, (_, lam, multiplicity) in KINDS.items():
        toy = SingularPotentials(kind=kind)
        low, high = 1e8, 1e10
        slope = (toy.free_energy(high) - toy.free_energy(low)) / math.log(high / low)
        logs = (multiplicity - 1) * math.log(math.log(high) / math.log(low)) / math.log(high / low)
        assert slope == pytest.approx(lam - logs, abs=0.01)


def test_every_instrument_meets_its_truth():
    assert_agrees(SingularPotentials())


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != SingularPotentials().kind])
def test_every_kind_meets_its_exponent(kind):
    assert_agrees(SingularPotentials(kind=kind), ["learning_coefficient", "volume", "volume_scaling"])


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    toy = SingularPotentials(
        seed=seed,
        kind=str(draw.choice(["w4", "x2y2", "x2y4", "x4+y2"])),
        samples=float(np.exp(draw.uniform(np.log(10), np.log(1e6)))),
        place=(float(draw.uniform(0.3, 0.95)), float(draw.uniform(-0.95, -0.3))),
        step=draw.uniform(0.005, 0.04),
    )
    assert_agrees_in_part(toy, set(toy.truth) - {"volume_scaling"})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kind": "w3"}, "kind is 'w3'; allowed: 'w2', 'w4'"),
        ({"samples": 1.0}, "allowed: 2 to 1e12"),
        ({"place": (0.0, 0.5)}, "no gradient to measure"),
        ({"step": 1.0}, "step is 1.0; allowed"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        zoo.get("singular-potentials", **wrong)


def test_it_can_be_drawn():
    assert_draws(zoo.get("singular-potentials"))

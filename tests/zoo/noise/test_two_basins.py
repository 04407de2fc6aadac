"""Two basins: masses, stuck chains, tempering, every instrument."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part, assert_draws

from geartrain import zoo
from geartrain.errors import InputError
from geartrain.zoo.noise.two_basins import TwoBasins


def test_the_reference_numbers():
    toy = TwoBasins()
    assert toy.mass == pytest.approx(81 / 82)
    assert toy.stuck_r_hat == pytest.approx(3.0, abs=1e-12)


def test_tempering_finds_the_mass_within_a_hundredth():
    trial = TwoBasins().truth["tempered_mass"].trial
    assert trial is not None
    found = trial(torch.Generator().manual_seed(0))
    assert float(found.value) == pytest.approx(81 / 82, abs=0.01)
    assert float(np.asarray(found.standard_error)) < 0.005


def test_both_bottoms_are_equally_deep():
    toy = TwoBasins()
    assert toy.energy(toy.bottom) == pytest.approx(toy.energy(-toy.bottom), abs=1e-10)


def test_the_mass_is_that_of_a_fine_grid_in_two_dimensions():
    toy = TwoBasins(dimension=2)
    axis = np.linspace(-6, 4, 1001)
    q = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1)
    density = np.exp(-toy.energy(q))
    assert density[toy.in_wide(q)].sum() / density.sum() == pytest.approx(toy.mass, abs=1e-4)


def test_every_instrument_meets_its_truth():
    assert_agrees(TwoBasins())


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    toy = TwoBasins(
        seed=seed,
        dimension=int(draw.integers(2, 6)),
        narrow=draw.uniform(0.2, 0.35),
        wide=draw.uniform(0.35, 0.6),
        centre=draw.uniform(1.5, 1.8),
        place=draw.uniform(-0.9, 0.9),
    )
    assert_agrees_in_part(toy, set(toy.truth) - {"tempered_mass"})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dimension": 0}, "dimension is 0; allowed: 1 to 10"),
        ({"narrow": 1.0}, "the narrow one first"),
        ({"centre": 0.2}, "Nearer, they are one basin"),
        ({"place": 0.0}, "so that it has a slope"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        zoo.get("two-basins", **wrong)


def test_it_can_be_drawn():
    assert_draws(zoo.get("two-basins"))

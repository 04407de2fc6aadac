"""Crater and valley: one neighbourhood, three basins; membership point by point, every instrument."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part, assert_draws

from geartrain import instruments
from geartrain.errors import InputError
from geartrain.zoo.landscapes.crater_valley import CraterValley

KINDS = ("needle", "half", "staircase")
FORMS = ("matched", "plain")


@pytest.mark.parametrize(("kind", "form"), [*itertools.product(KINDS, FORMS)])
def test_the_end_of_a_start_is_known_beforehand(kind, form):
    toy = CraterValley.make(kind=kind, form=form)
    starts = toy.drawn(torch.Generator().manual_seed(5), 8000)
    assert (toy.arrived(starts) == toy.inside(starts)).double().mean() >= 0.999


@pytest.mark.parametrize(
    ("k", "volumes"),
    [(2, (0.1225, 0.35, 0.35)), (4, (0.01501, 0.1225, 0.35)), (6, (0.001838, 0.04288, 0.35))],
)
def test_volumes_of_the_basins(k, volumes):
    for kind, volume in zip(KINDS, volumes, strict=True):
        toy = CraterValley.make(kind=kind, k=k, starts=1500)
        assert toy.reach == pytest.approx(volume, rel=5e-4)
        assert_agrees(toy, [f"reach.{kind}"])


@pytest.mark.parametrize("k", [2, 4, 6])
def test_matched_kinds_are_one_function_near_the_bottom(k):
    points = torch.rand(4000, k, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    near, mid = (2 * points - 1) * 0.15, (2 * points - 1) * 0.34
    losses = [CraterValley.make(kind=kind, k=k).loss for kind in KINDS]
    for other in losses[1:]:
        assert (losses[0](near) - other(near)).abs().max() <= 1e-12
        assert (losses[0](mid) - other(mid)).abs().max() > 0.5  # further out they are not


def test_local_observables_agree_bit_by_bit_while_basins_differ():
    toys = [CraterValley.make(kind=kind) for kind in KINDS]
    for name in ("hessian_diagonal", "hessian_spectrum", "curvature_along_gradient", "negative_curvature"):
        read = [np.asarray(instruments.get(name)(toy.objective).value) for toy in toys]
        for other in read[1:]:
            np.testing.assert_allclose(other, read[0], rtol=1e-12)
    for name in ("hessian_spectrum", "hessian_trace", "volume_scaling", "basin_volume_near"):
        told = [toys[0].truth[f"{name}.{kind}"].value for kind in KINDS]
        assert np.ptp(np.array(told), axis=0).max() == 0
    assert np.ptp([float(toys[0].truth[f"reach.{kind}"]) for kind in KINDS]) > 0.3


def test_basins_shrink_exponentially():
    reach = {(kind, k): CraterValley.make(kind=kind, k=k).reach for kind in KINDS for k in (2, 4, 6, 8)}
    for kind, share in zip(KINDS, (1, 0.5, 0), strict=True):
        slope = np.polyfit((2, 4, 6, 8), [math.log(reach[kind, k]) for k in (2, 4, 6, 8)], 1)[0]
        assert slope == pytest.approx(share * math.log(0.35), abs=1e-12)
    assert reach["staircase", 6] / reach["needle", 6] == pytest.approx((1 / 0.35) ** 5)


@pytest.mark.parametrize(("kind", "form"), [*itertools.product(KINDS, FORMS)])
def test_derivatives_by_hand_are_autograds(kind, form):
    toy = CraterValley.make(kind=kind, form=form, k=4)
    for x in torch.rand(4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 0.6 - 0.3:
        value, gradient, hessian = toy.derivatives(x.numpy())
        place = toy.at(x)
        assert float(place.value()) == pytest.approx(value, abs=1e-12)
        np.testing.assert_allclose(place.gradient().numpy(), gradient, atol=1e-11)
        np.testing.assert_allclose(place.hvp(torch.eye(4).double()).numpy(), hessian, atol=1e-9)


def test_plain_bottoms_differ_as_the_formula_says():
    r, k = 0.35, 4
    hessian = np.zeros((k, k))
    for kind, first in (("needle", 1), ("half", 2), ("staircase", k)):
        toy = CraterValley.make(kind=kind, form="plain", k=k)
        hessian = toy.derivatives(np.zeros(k))[2]
        np.testing.assert_allclose(hessian, np.diag(toy.bottom_curvatures), atol=1e-9)
        assert hessian[0, 0] == pytest.approx(first * math.pi**2 / (2 * r**2))
    assert hessian[3, 3] == pytest.approx(math.pi**2 / 2)


def test_every_instrument_meets_its_truth():
    assert_agrees(CraterValley())


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    toy = CraterValley.make(
        kind=KINDS[seed],
        form=str(draw.choice(FORMS)),
        k=2 + 2 * (seed == 1),
        rho=float(draw.uniform(0.05, 0.2)),
        r=float(draw.uniform(0.25, 0.6)),
        offset=float(draw.uniform(0.3, 0.95)),
        step=float(draw.uniform(0.2, 0.8)),
        starts=500,
    )
    assert_agrees_in_part(toy)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kind": "pit"}, "kind is 'pit' and form 'matched'; allowed: needle, half, staircase"),
        ({"k": 3}, "k is 3; allowed: 2, 4, 6, 8"),
        ({"rho": 0.4}, "rho is 0.4 and r 0.35; allowed"),
        ({"starts": 3}, "offset, step and starts are 0.8, 0.5, 3; allowed"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        CraterValley.make(**wrong)


def test_it_can_be_drawn():
    assert_draws(CraterValley())

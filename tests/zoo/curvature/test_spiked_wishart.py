"""The spiked Wishart matrix: the transition, its fluctuations, every instrument."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part, assert_draws

from geartrain import instruments, zoo
from geartrain.errors import InputError
from geartrain.zoo.curvature.spiked_wishart import SpikedWishart


def many(toy: SpikedWishart, draws: int) -> dict[str, np.ndarray]:
    generator = torch.Generator().manual_seed(1)
    looks = [toy.look(generator) for _ in range(draws)]
    return {name: np.array([look[name] for look in looks]) for name in looks[0]}


def test_the_reference_numbers():
    toy = SpikedWishart(dimension=400, samples=1600)
    assert toy.outlier == pytest.approx(3.375)
    assert toy.overlap == pytest.approx((1 - 0.0625) / 1.125)
    assert toy.outlier_spread * math.sqrt(1600 / 4000) == pytest.approx(0.065, abs=5e-4)
    assert (1 + math.sqrt(toy.ratio)) ** 2 == pytest.approx(2.25)
    assert 2.22 < toy.edge[0] < 2.25  # on its way there, by Tracy and Widom's n^(-2/3)


def test_the_mean_over_samples():
    toy = SpikedWishart(dimension=250, samples=1000)
    found = many(toy, 40)
    for name, truth in (("outlier", toy.outlier), ("overlap", toy.overlap), ("edge", toy.edge[0])):
        error = found[name].std(ddof=1) / math.sqrt(40)
        assert abs(found[name].mean() - truth) < 3 * error + truth / 1000  # corrections of order 1/n
    # The scatter of a standard deviation from 40 draws is 1/√78.
    assert found["outlier"].std(ddof=1) == pytest.approx(toy.outlier_spread, rel=3 / math.sqrt(78))
    assert found["edge"].std(ddof=1) == pytest.approx(toy.edge[1], rel=3.5 / math.sqrt(78))


def test_below_the_threshold_nothing_is_to_be_seen():
    toy = SpikedWishart(strength=0.3, dimension=250, samples=1000)
    assert not toy.visible
    found = many(toy, 20)
    assert found["outlier"].mean() == pytest.approx(toy.edge[0], rel=0.01)
    assert found["overlap"].mean() < 0.1
    assert instruments.marchenko_pastur_outliers(toy.as_weights()).value.tolist() == [0.0]


def test_every_instrument_meets_its_truth():
    assert_agrees(SpikedWishart())


@pytest.mark.parametrize(
    ("strength", "dimension", "samples", "seed"),
    [(0.25, 80, 320, 1), (0.0, 60, 100, 2), (0.8, 50, 90, 5)],
)
def test_truths_hold_for_other_parameters(strength, dimension, samples, seed):
    toy = SpikedWishart(strength=strength, dimension=dimension, samples=samples, seed=seed)
    assert_agrees_in_part(toy, set(toy.truth) - {"loss_plane"})
    assert ("marchenko_pastur_outliers" in toy.truth) == (strength != 0.8)  # there, luck decides


@pytest.mark.parametrize("seed", range(6))
def test_one_sample_is_within_its_deviations(seed):
    toy = SpikedWishart(seed=seed, dimension=100, samples=400)
    assert_agrees(
        toy,
        {
            "hessian_spectrum.outlier",
            "hessian_spectrum.edge",
            "weight_rank.stable_rank",
            "weight_rank.participation_ratio",
            "marchenko_pastur_outliers",
            "marchenko_pastur_outliers.strength",
        },
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"strength": -1.0}, "strength is -1.0; allowed: 0 .pure noise. to 100"),
        ({"dimension": 5}, "allowed: 20 to 400 dimensions"),
        ({"samples": 100}, "as many samples at least"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        zoo.get("spiked-wishart", **wrong)


def test_it_can_be_drawn():
    assert_draws(SpikedWishart())

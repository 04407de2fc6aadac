"""The product saddle: the time on the plateau, its leading order, every instrument."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part, assert_draws

from geartrain.errors import InputError
from geartrain.zoo.landscapes.product_saddle import ProductSaddle


@pytest.mark.parametrize(
    ("k", "start", "gain", "time"),
    [
        (2, 1e-3, 1.0, 6.9078),
        (3, 0.01, 1.0, 99.150),
        (4, 0.03, 1.0, 555.289),
        (6, 0.03, 1.0, 308_642.0),
        (4, 0.03, 2.0, 277.683),
    ],
)
def test_times_of_reference(k, start, gain, time):
    toy = ProductSaddle(k=k, start=start, gain=gain)
    assert toy.half_time == pytest.approx(time, rel=1e-5)
    assert toy.leading == pytest.approx(toy.half_time, rel=0.01)
    assert_agrees(toy, ["half_time"])


def test_two_parts_take_a_logarithm_exactly():
    for start, gain in ((0.01, 1.0), (0.2, 3.0)):
        toy = ProductSaddle(k=2, start=start, gain=gain)
        assert toy.half_time == pytest.approx(math.log((gain - start**2) / start**2) / (2 * gain))


@pytest.mark.parametrize("k", [2, 3, 5])
def test_one_direction_leads_down_and_all_are_flat_near_the_origin(k):
    toy = ProductSaddle(k=k, start=0.02)
    values = np.linalg.eigvalsh(toy.loss.hessian(toy.place))
    assert (values < 0).sum() == 1
    assert np.abs(values).max() < k * 0.02 ** (k - 2)


def test_every_instrument_meets_its_truth():
    assert_agrees(ProductSaddle())


@pytest.mark.parametrize("k", [k for k in (2, 3, 4) if k != ProductSaddle().k])
def test_other_numbers_of_factors_are_met_too(k):
    assert_agrees_in_part(ProductSaddle(k=k))


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    assert_agrees_in_part(
        ProductSaddle(
            k=int(draw.integers(2, 8)),
            gain=float(draw.uniform(0.3, 3)),
            start=float(draw.uniform(0.1, 0.4)),
            at=[None, float(draw.uniform(0.3, 0.95))][seed % 2],
            step=float(draw.uniform(0.05, 0.5)),
        )
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"k": 1}, "k is 1; allowed: 2 to 8"),
        ({"start": 0.9}, "gain is 1.0 and start 0.9; allowed: a positive gain"),
        ({"at": 1.5}, "at is 1.5 and step 0.3; allowed"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        ProductSaddle.make(**wrong)


def test_it_can_be_drawn():
    assert_draws(ProductSaddle())

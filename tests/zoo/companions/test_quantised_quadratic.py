"""Rounding a quadratic: bits for a given rise, what uneven steps save, every instrument."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part, assert_draws

from geartrain import zoo
from geartrain.errors import InputError
from geartrain.zoo.companions.quantised_quadratic import QuantisedQuadratic


def test_equal_shares_give_the_rise_that_was_asked_for():
    toy = QuantisedQuadratic(condition=1000.0)
    assert (toy.curvatures * toy.steps**2).sum() / 24 == pytest.approx(toy.rise, rel=1e-12)
    np.testing.assert_allclose(toy.curvatures * toy.steps**2, 24 * toy.rise / 32, rtol=1e-12)
    mean_bits = np.log2(toy.range / toy.steps).mean()
    assert mean_bits == pytest.approx(toy.bits - toy.saved, rel=1e-12)


def test_no_other_steps_need_fewer_bits():
    toy, draw = QuantisedQuadratic(), np.random.default_rng(0)
    best = np.log2(toy.range / toy.steps).mean()
    for _ in range(50):
        steps = toy.steps * np.exp(0.3 * draw.normal(size=32))
        steps *= np.sqrt(24 * toy.rise / (toy.curvatures * steps**2).sum())
        assert np.log2(toy.range / steps).mean() > best


def test_even_curvatures_save_nothing():
    assert QuantisedQuadratic(condition=1.0).saved == pytest.approx(0, abs=1e-12)
    assert QuantisedQuadratic(condition=1e4).saved > 1


def test_the_objective_rises_by_what_the_formula_says():
    toy = QuantisedQuadratic(rise=1e-3)
    source = torch.Generator().manual_seed(0)
    shifts = torch.rand(400, 32, generator=source, dtype=torch.float64) * torch.from_numpy(toy.steps)
    grid, weights = torch.from_numpy(toy.steps), torch.from_numpy(toy.weights)
    rises = [float(toy.objective.value(((weights - s) / grid).round() * grid + s)) for s in shifts]
    assert np.mean(rises) == pytest.approx(1e-3, abs=float(np.std(rises)) / 5)


def test_every_instrument_meets_its_truth():
    assert_agrees(QuantisedQuadratic())


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    toy = QuantisedQuadratic(
        seed=seed,
        dimension=int(draw.integers(10, 40)),
        condition=float(np.exp(draw.uniform(0.5, 5))),
        rise=float(np.exp(draw.uniform(-12, -6))),
    )
    assert_agrees_in_part(toy)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dimension": 2}, "dimension is 2 and condition 100.0; allowed: 8 to 40"),
        ({"rise": 10.0}, "rise is 10.0, which takes .* bits; allowed: what 2 to 14 bits give"),
        ({"rise": 0.0}, "takes inf bits"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        zoo.get("quantised-quadratic", **wrong)


def test_it_can_be_drawn():
    assert_draws(QuantisedQuadratic())

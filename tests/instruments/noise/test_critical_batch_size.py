"""Critical batch size: half the progress of the best step, on quadratics with known noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.made import normal, seeded
from tests.noisy import shaken_bowl

from geartrain.errors import InputError
from geartrain.instruments import critical_batch_size, gradient_noise_scale, hessian_noise_scale
from geartrain.records import State

CURVATURES = torch.tensor([3.0, 1.0, 0.1]).double()
AT = torch.tensor([0.5, 1.0, 2.0]).double()
NOISE = torch.tensor([1.0, 2.0, 3.0]).double()


def truth() -> tuple[float, float, float]:
    """B_crit, the simple noise scale, and the best noiseless step."""
    gradient = CURVATURES * AT
    curved = float((CURVATURES * gradient**2).sum())
    squared = float((gradient**2).sum())
    return (
        float((CURVATURES * NOISE**2).sum()) / curved,
        float((NOISE**2).sum()) / squared,
        squared / curved,
    )


def bowl(examples: int = 8_000):
    return shaken_bowl(CURVATURES, AT, NOISE * normal(examples, 3, seed=1))


def test_a_quadratic_with_known_noise():
    critical, simple, step = truth()
    result = critical_batch_size(bowl(), groups=40)
    assert abs(result.value - critical) <= 4 * result.standard_error
    assert abs(result.details["simple"] - simple) <= 4 * result.details["simple_error"]
    assert result.details["max_step"] == pytest.approx(step, rel=0.1)
    # Here noise is strongest where curvature is weakest: the simple scale asks for four times the batch.
    assert simple / critical == pytest.approx(14 / 3.29 * 7.754 / 7.9, rel=1e-3)
    assert result.details["simple_over_weighted"] == pytest.approx(simple / critical, rel=0.5)


def test_half_the_progress_at_the_critical_batch():
    # Steps are really taken: 20,000 gradients of B examples, the best of many step sizes, the loss written out.
    critical, _, step = truth()
    rng = np.random.default_rng(0)
    h, w = CURVATURES.numpy(), AT.numpy()

    def best_decrease(batch: float) -> tuple[float, float]:
        gradients = h * w + NOISE.numpy() * rng.normal(size=(20_000, 3)) / math.sqrt(batch)
        slope = (gradients @ (h * w)).mean()
        bend = (gradients**2 @ h).mean()
        return slope**2 / (2 * bend), slope / bend

    most, longest = best_decrease(1e12)
    assert longest == pytest.approx(step, rel=1e-5)
    for batch, share in ((critical, 0.5), (3 * critical, 0.75), (critical / 3, 0.25)):
        decrease, best = best_decrease(batch)
        # The slope has a relative error of |noise|/(|G| √(20,000 B)), below 1 % here.
        assert decrease / most == pytest.approx(share, rel=0.05)
        assert best / longest == pytest.approx(share, rel=0.05)


def test_it_is_made_of_both_noise_scales():
    objective = bowl(640)
    result = critical_batch_size(objective, groups=16, generator=seeded(4))
    weighted = hessian_noise_scale(objective, groups=16, generator=seeded(4))
    simple = gradient_noise_scale(objective, groups=16, generator=seeded(4))
    assert result.value == weighted.value
    assert result.standard_error == pytest.approx(weighted.standard_error)
    assert result.details["simple"] == pytest.approx(simple.value, rel=1e-9)
    assert result.details["simple_interval"] == pytest.approx(simple.details["interval"], rel=1e-9)


def test_what_a_batch_achieves():
    objective = bowl(640)
    result = critical_batch_size(objective, batch_size=10)
    share = 10 / (10 + result.value)
    assert result.details["progress"] == pytest.approx(share)
    assert result.details["efficiency"] == pytest.approx(1 - share)
    assert result.details["best_step"] == pytest.approx(share * result.details["max_step"])
    assert "progress" not in critical_batch_size(objective).details


def test_cost_budget_and_refusals():
    objective = bowl(64)
    result = critical_batch_size(objective, groups=8)
    assert result.cost.products == pytest.approx(8)
    assert critical_batch_size.spec.price(objective, groups=8).products == 8
    cut = critical_batch_size(objective, groups=8, budget=4)
    assert cut.status.state is State.OUT_OF_BUDGET
    assert "reached 4 of 8" in cut.status.sentence
    assert critical_batch_size(objective, budget=0).status.state is State.OUT_OF_BUDGET
    assert "3 examples are too few" in critical_batch_size(bowl(3)).status.sentence
    with pytest.raises(InputError, match="batch_size is 0; it must be at least 1"):
        critical_batch_size(objective, batch_size=0)


def test_a_saddle_has_none():
    downhill = shaken_bowl(-torch.ones(1).double(), torch.ones(1).double(), 0.1 * normal(32, 1, seed=2))
    result = critical_batch_size(downhill, batch_size=8)
    assert result.value == math.inf
    assert "no batch is critical; the simple noise scale is" in result.status.sentence
    assert math.isnan(result.details["simple_over_weighted"])

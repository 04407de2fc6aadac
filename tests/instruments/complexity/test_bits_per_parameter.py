"""Bits per parameter: the law of quadratics, its error over seeds, curvature-aware steps, relations, cost."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom
from tests.bowls import bowl, generator
from tests.made import linear, objective_of
from tests.training_toys import classifier

import geartrain as gt
from geartrain._torch.flat import Layout
from geartrain.budget import Budget
from geartrain.errors import InputError
from geartrain.instruments import bits_per_parameter
from geartrain.instruments.complexity._quantise import Quantiser, crossing
from geartrain.records import State


def valley(curvatures: np.ndarray, seed: int = 0, factor: float = 1.0) -> tuple[gt.Objective, float]:
    """½ Σ H_i (x_i - x*_i)² in its minimum x*, and the range of x*."""
    x = torch.tensor(np.random.default_rng(seed).uniform(-1, 1, len(curvatures)))
    root = torch.tensor(curvatures).sqrt()[None]
    model = bowl(curvatures, x=x.numpy()).model
    loss = lambda out, y: factor * 0.5 * ((out - y) ** 2).sum()  # noqa: E731
    return gt.Objective(model, loss, (root, root * x)), float(x.max() - x.min())


@pytest.mark.parametrize("bits", [3.0, 6.5, 9.0])
def test_the_law_of_a_quadratic(bits):
    """Mean rise Σ H_i Δ²/24 with Δ = range / 2^bits."""
    curvatures = 1 / np.arange(1, 301)
    objective, width = valley(curvatures)
    rise = curvatures.sum() * (width / 2**bits) ** 2 / 24
    result = bits_per_parameter(objective, rise=rise, generator=generator())
    assert abs(float(result) - bits) <= 4 * result.standard_error + 0.01
    assert result.standard_error < 0.1
    assert result.status.state is State.ESTIMATE


class Parabola:
    """What the search needs of an objective, without the price of a model."""

    def __init__(self, curvatures: torch.Tensor, x: torch.Tensor) -> None:
        self.curvatures, self.x = curvatures, x
        self.layout = Layout(("x",), (x.shape,), (x.dtype,))

    def parameters(self) -> torch.Tensor:
        return self.x.clone()

    def value(self, params: torch.Tensor) -> torch.Tensor:
        return 0.5 * (self.curvatures * (params - self.x) ** 2).sum()


def test_the_error_covers_over_seeds():
    curvatures = torch.linspace(0.1, 2, 40).double()
    x = torch.tensor(np.random.default_rng(0).uniform(-1, 1, 40))
    rise = float(curvatures.sum()) * (float(x.max() - x.min()) / 2**6) ** 2 / 24
    found = [
        crossing(Quantiser(Parabola(curvatures, x), "uniform", generator(s)), 5, rise, Budget().start())
        for s in range(200)
    ]
    values = np.array([c.bits for c in found])
    # The logarithm of a mean is low by half its relative variance.
    assert abs(values.mean() - 6) <= 4 * values.std(ddof=1) / math.sqrt(200) + values.var()
    covered = sum(abs(c.bits - 6) <= 2.78 * c.error for c in found)  # t with 4 degrees of freedom, 95 %
    assert covered >= binom.ppf(0.001, 200, 0.93)


def test_curvature_aware_steps_save_half_the_spread_of_the_logarithms():
    """Δ_i = √(24 δ / (d H_i)): mean log₂(range/Δ_i), against log₂(range/Δ) of one step for all."""
    curvatures = np.logspace(-2, 2, 200)
    objective, width = valley(curvatures)
    rise = 1e-3
    each = np.mean(np.log2(width / np.sqrt(24 * rise / (200 * curvatures))))
    common = math.log2(width / math.sqrt(24 * rise / curvatures.sum()))
    aware = bits_per_parameter(objective, rise=rise, method="curvature", generator=generator())
    plain = bits_per_parameter(objective, rise=rise, generator=generator())
    assert abs(float(aware) - each) <= 4 * aware.standard_error + 0.02
    assert abs(float(plain) - common) <= 4 * plain.standard_error + 0.02
    assert float(aware) < float(plain) - 1
    assert aware.cost.products == 8


def test_a_codebook_is_exact_for_few_values():
    weights = [0.0, 1.0, 0.0, 5.0, 5.0, 1.0, -3.0, 0.0]
    x = torch.eye(8).double()
    objective = objective_of(x, x @ torch.tensor(weights).double()[:, None], linear(weights))
    result = bits_per_parameter(objective, rise=1e-6, method="codebook")
    assert float(result) <= 3
    assert result.status.state is State.EXACT


def test_four_times_the_rise_is_one_bit_and_scales_do_not_matter():
    curvatures = np.ones(200)
    objective, _ = valley(curvatures)
    first, second = (
        float(bits_per_parameter(objective, rise=r, generator=generator(3))) for r in (1e-3, 4e-3)
    )
    assert first - second == pytest.approx(1, abs=0.15)
    scaled, _ = valley(curvatures, factor=9.0)
    assert float(bits_per_parameter(scaled, rise=9e-3, generator=generator(3))) == pytest.approx(first)


def test_a_trained_network_needs_a_few_bits():
    run = classifier()
    run.advance(60)
    result = bits_per_parameter(run.objective(), generator=generator())
    assert 1 < float(result) < 10
    rises = result.details["rises"]
    assert rises[0] > 10 * abs(rises[-1])


def test_cost_budget_refusals():
    objective, _ = valley(np.ones(5))
    result = bits_per_parameter(objective, generator=generator())
    assert result.cost.forwards == bits_per_parameter.spec.price(objective).forwards
    assert bits_per_parameter(objective, budget=0).status.state is State.OUT_OF_BUDGET
    cut = bits_per_parameter(objective, budget=10)
    assert cut.status.state is State.OUT_OF_BUDGET
    assert "At most" in cut.status.sentence
    assert "Even 16 bits" in bits_per_parameter(objective, rise=1e-300).status.sentence
    with pytest.raises(InputError, match="method is 'log'; allowed: 'uniform', 'codebook', 'curvature'"):
        bits_per_parameter(objective, method="log")
    with pytest.raises(InputError, match="samples is 1; at least 2"):
        bits_per_parameter(objective, samples=1)
    objective.model.x.data[0] = float("nan")
    assert bits_per_parameter(objective).status.state is State.NON_FINITE

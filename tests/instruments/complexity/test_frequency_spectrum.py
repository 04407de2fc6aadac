"""Frequency spectrum: cosines and ramps of known power, relations, coverage, cost."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom
from tests.made import Next, linear, normal, objective_of, seeded, sequence_loss, words
from torch import nn

from geartrain.errors import InputError
from geartrain.instruments import frequency_spectrum
from geartrain.objective import Objective
from geartrain.records import State


class Wave(nn.Module):
    """Σ_k a_k cos(π k x)."""

    def __init__(self, powers: dict[int, float]) -> None:
        super().__init__()
        self.k = torch.tensor(list(powers)).double()
        self.a = nn.Parameter(torch.tensor(list(powers.values())).double())

    def forward(self, x):
        return (torch.cos(math.pi * self.k * x) * self.a).sum(1, keepdim=True)


def on_unit_segment(model: nn.Module) -> Objective:
    x = torch.tensor([[0.0], [1.0]]).double()
    return Objective(model, nn.functional.mse_loss, (x, x))


def test_cosines_are_found_at_their_frequencies():
    result = frequency_spectrum(on_unit_segment(Wave({0: 9.0, 1: 1.0, 3: 2.0, 10: 1.0})), low=3)
    # From 0 to 1 (or back) cos(πkt) is a basis function, so the shares are those of the squares; k = 0 is left out.
    assert float(result) == pytest.approx(5 / 6)
    power = result.details["power"]
    assert power[[0, 2, 9]] == pytest.approx([1 / 6, 4 / 6, 1 / 6])
    assert np.delete(power, [0, 2, 9]) == pytest.approx(0, abs=1e-12)
    assert result.details["mean"] == pytest.approx((1 + 12 + 10) / 6)
    assert result.details["variation"] == pytest.approx((1 + 4 + 1) / 2)


def test_a_straight_line():
    x = normal(40, 3)
    power = frequency_spectrum(objective_of(x, x[:, :1]), points=512).details["power"]
    # ½ - t = (4/π²) Σ_odd cos(πkt)/k²; powers 96/(π⁴ k⁴). The grid of 512 points changes it by about 1/512².
    for k in (1, 3, 5):
        assert power[k - 1] == pytest.approx(96 / (math.pi * k) ** 4, rel=1e-3)
    assert power[1] == pytest.approx(0, abs=1e-20)


def test_steeper_functions_have_higher_frequencies():
    x = normal(60, 4)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 40), nn.Tanh(), nn.Linear(40, 1)).double()
    values = []
    for _ in range(3):
        values.append(float(frequency_spectrum(objective_of(x, x[:, :1], model))))
        model[0].weight.data *= 4
    assert values[0] > values[1] > values[2]


def test_scale_offset_and_order_of_outputs_do_not_matter():
    x = normal(30, 2)
    first = objective_of(x, x, linear([1.0, 2.0], [0.0, 1.0]))
    second = objective_of(x, x, linear([0.0, -5.0], [-5.0, -10.0], bias=[3.0, 4.0]))
    assert float(frequency_spectrum(first)) == pytest.approx(float(frequency_spectrum(second)), rel=1e-10)


def test_the_error_covers_over_draws_of_pairs():
    """f = tanh(3x): the share differs from pair to pair; truth over all pairs of a large set."""
    x = normal(2000, 1)
    objective = objective_of(x, x, nn.Sequential(linear([3.0]), nn.Tanh()))
    truth = float(frequency_spectrum(objective, segments=1000, points=32, low=1))
    draws = [
        frequency_spectrum(objective, segments=40, points=32, low=1, generator=seeded(s)) for s in range(200)
    ]
    values = np.array([float(r) for r in draws])
    assert abs(values.mean() - truth) <= 4 * values.std(ddof=1) / math.sqrt(200) + 1 / 40 * values.std()
    covered = sum(abs(float(r) - truth) <= 2.02 * r.standard_error for r in draws)  # t with 39 degrees
    assert covered >= binom.ppf(0.001, 200, 0.93)


def test_cost_and_budget():
    x = normal(64, 2)
    objective = objective_of(x, x)
    result = frequency_spectrum(objective)
    assert result.cost.forwards == pytest.approx(32 * 64 / 64)
    assert frequency_spectrum.spec.price(objective).forwards == pytest.approx(32)
    assert frequency_spectrum(objective, budget=0).status.state is State.OUT_OF_BUDGET
    cut = frequency_spectrum(objective, budget=2)
    assert cut.status.state is State.OUT_OF_BUDGET
    assert cut.details["segments"] == 12  # two products are twelve forward passes


def test_not_applicable_and_refusals():
    assert (
        "tensor of numbers"
        in frequency_spectrum(objective_of(*words(), Next(), sequence_loss)).status.sentence
    )
    x = normal(20, 2)
    assert "do not vary" in frequency_spectrum(objective_of(x, x[:, :1], linear([0.0, 0.0]))).status.sentence
    assert "no other one" in frequency_spectrum(objective_of(x[:1], x[:1])).status.sentence
    hidden = Objective(linear([1.0, 1.0]), batch_loss=lambda m, b: m(b[0]).mean(), data=(x, x))
    assert "hides" in frequency_spectrum(hidden).status.sentence
    with pytest.raises(InputError, match="points 4, low 2; allowed"):
        frequency_spectrum(objective_of(x, x), points=4)

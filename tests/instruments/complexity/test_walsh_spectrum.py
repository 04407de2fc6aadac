"""Walsh spectrum: written-down polynomials by enumeration and by sampling, relations, cost, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.cubes import points, polynomial, random_points
from tests.made import normal, objective_of
from torch import nn

from geartrain.errors import InputError
from geartrain.instruments import walsh_spectrum
from geartrain.objective import Objective
from geartrain.records import State

TERMS = {(): 0.5, (1,): -1.0, (0, 2): 2.0, (0, 1, 2, 3): 0.25}


def test_coefficients_are_those_written_down():
    result = walsh_spectrum(polynomial(TERMS, points(6)))
    power = 0.25 + 1 + 4 + 0.0625
    np.testing.assert_allclose(result.value, np.array([0.25, 1, 4, 0, 0.0625, 0, 0]) / power, atol=1e-14)
    found = dict(zip(result.details["sets"], result.details["coefficients"], strict=True))
    assert {s: found[s] for s in TERMS} == pytest.approx(TERMS, abs=1e-12)
    assert result.details["power"] == pytest.approx(power)
    assert result.details["mean_degree"] == pytest.approx((1 + 8 + 0.25) / power)
    assert result.status.state is State.EXACT


@pytest.mark.parametrize("k", [1, 3, 5])
def test_a_parity_lies_at_its_degree(k):
    value = walsh_spectrum(polynomial({tuple(range(k)): 3.0}, random_points(10, 6))).value
    np.testing.assert_allclose(value, np.eye(7)[k], atol=1e-14)


def test_majority_of_three():
    """maj = ½(x₀ + x₁ + x₂) - ½x₀x₁x₂: ¾ at degree 1, ¼ at degree 3."""
    terms = {(0,): 1.0, (1,): 1.0, (2,): 1.0}
    value = walsh_spectrum(polynomial(terms, points(3)), sign=True).value
    np.testing.assert_allclose(value, [0, 0.75, 0, 0.25], atol=1e-14)


def test_sampling_agrees_with_enumeration_within_its_error():
    objective = polynomial(TERMS, random_points(50, 12))
    exact = walsh_spectrum(objective)
    result = walsh_spectrum(
        objective, exact_up_to=5, samples=1000, generator=torch.Generator().manual_seed(1)
    )
    assert result.status.state is State.ESTIMATE
    assert result.coords["degree"][-1] == "above 4"
    truth = np.append(exact.value[:5], exact.value[5:].sum())
    assert np.all(np.abs(result.value - truth) <= 4 * result.standard_error)
    found = dict(zip(result.details["sets"], result.details["coefficients"], strict=True))
    errors = dict(zip(result.details["sets"], result.details["coefficient_errors"], strict=True))
    for s in [(), (1,), (0, 2)]:
        assert abs(found[s] - TERMS[s]) <= 4 * errors[s]


def test_thirty_bits():
    objective = polynomial({(0, 1): 1.0, (2, 3): 1.0, (0, 1, 2, 3): 1.0}, random_points(64, 30))
    result = walsh_spectrum(objective, samples=2048, max_degree=3)
    truth = np.array([0, 0, 2 / 3, 0, 1 / 3])
    assert np.all(np.abs(result.value - truth) <= 4 * result.standard_error)
    assert set(result.details["sets"][:2]) == {(0, 1), (2, 3)}


def test_zeros_and_ones_two_scores_and_the_scale_do_not_matter():
    bits = (points(4) + 1) / 2
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    labels = (bits.sum(1) > 2).long()
    value = walsh_spectrum(Objective(model, nn.functional.cross_entropy, (bits, labels))).value

    class Difference(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x):
            scores = self.inner((x + 1) / 2)
            return 7 * (scores[:, 1:] - scores[:, :1])

    other = Objective(Difference(), nn.functional.mse_loss, (points(4), labels[:, None].double()))
    np.testing.assert_allclose(value, walsh_spectrum(other).value, atol=1e-12)


def test_permuting_coordinates_and_flipping_signs_keeps_every_share():
    moved = {(): 0.5, (3,): 1.0, (0, 1): -2.0, (0, 1, 2, 3): -0.25}
    first, second = (walsh_spectrum(polynomial(t, points(4))).value for t in (TERMS, moved))
    np.testing.assert_allclose(first, second, atol=1e-14)


def test_cost_and_budget():
    objective = polynomial(TERMS, random_points(16, 8))
    result = walsh_spectrum(objective)
    assert result.cost.forwards == pytest.approx(256 / 16)
    assert walsh_spectrum.spec.price(objective).forwards == pytest.approx(256 / 16)
    assert walsh_spectrum(objective, budget=0).status.state is State.OUT_OF_BUDGET
    assert walsh_spectrum(objective, budget=1).status.state is State.OUT_OF_BUDGET
    assert walsh_spectrum(objective, budget=3).status.state is State.EXACT


def test_other_inputs_and_levels():
    x = normal(20, 3)
    objective = objective_of(x, x[:, :1])
    assert "hypercube" in walsh_spectrum(objective).status.sentence
    assert walsh_spectrum(objective, levels=(-1, 1)).value[2:] == pytest.approx([0, 0], abs=1e-12)
    hidden = Objective(nn.Linear(3, 1), batch_loss=lambda m, b: m(b[0]).mean(), data=(points(3).float(),))
    assert "hides" in walsh_spectrum(hidden).status.sentence
    zero = polynomial({(0,): 0.0}, points(2))
    assert "zero everywhere" in walsh_spectrum(zero).status.sentence


def test_refusals_and_nan():
    objective = polynomial(TERMS, points(4))
    with pytest.raises(InputError, match="samples is 3 and exact_up_to 14; allowed"):
        walsh_spectrum(objective, samples=3)
    with pytest.raises(InputError, match=r"levels is \(1, 0\); it must be"):
        walsh_spectrum(objective, levels=(1, 0))
    objective.model.c.data.fill_(float("nan"))
    assert walsh_spectrum(objective).status.state is State.NON_FINITE

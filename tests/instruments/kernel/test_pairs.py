"""Drift, lazy index and linearised error: products of two numbers by hand, and the dial between lazy and rich."""

from __future__ import annotations

import copy
import functools

import numpy as np
import pytest
import torch
from tests.made import normal, objective_of, same, state_of
from torch import nn
from torch.nn import functional

import geartrain as gt
from geartrain.errors import InputError
from geartrain.instruments import lazy_index, linearised_error, ntk_drift
from geartrain.records import State


class Product(nn.Module):
    """f = a b x: the kernel is (a² + b²) x x'."""

    def __init__(self, a, b):
        super().__init__()
        self.ab = nn.Parameter(torch.tensor([a, b], dtype=torch.float64))

    def forward(self, x):
        return self.ab.prod() * x


def product(a, b, x=None, y=2.0):
    x = normal(6, 1) if x is None else x
    return gt.Objective(Product(a, b), functional.mse_loss, (x, y * x))


@pytest.mark.parametrize(("a", "b"), [(2.0, 1.0), (0.5, -3.0), (1.0, 1.0)])
def test_a_product_by_hand(a, b):
    before, after = product(1.0, 1.0), product(a, b)
    drift = abs(a * a + b * b - 2) / 2
    found = ntk_drift(after, before)
    assert float(found) == pytest.approx(drift, abs=1e-14)
    assert found.details["kernel_distance"] == pytest.approx(0, abs=1e-12)  # only the scale changed
    assert found.details["parameter_movement"] == pytest.approx(np.hypot(a - 1, b - 1) / np.sqrt(2))
    if (a, b) == (1.0, 1.0):
        assert "not moved" in linearised_error(after, before).status.sentence
        assert "nothing was learnt" in lazy_index(after, before).status.sentence
        return
    loss_change = abs((a * b - 2) ** 2 - 1)
    if loss_change:
        assert float(lazy_index(after, before)) == pytest.approx(drift / loss_change)
    moved, first = a * b - 1, (a - 1) + (b - 1)
    error = linearised_error(after, before)
    assert float(error) == pytest.approx(abs(moved - first) / abs(moved))
    assert error.details["share_of_first_order"] == pytest.approx(abs(first / moved))


def network(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def test_models_linear_in_the_parameters_are_lazy():
    x, y = normal(8, 4), normal(8, 2, seed=1)
    before = objective_of(x, y, nn.Linear(4, 2).double())
    after = before.of(nn.Linear(4, 2).double())
    for instrument in (ntk_drift, lazy_index, linearised_error):
        assert float(instrument(after, before)) == pytest.approx(0, abs=1e-12)


def test_the_linearised_model_against_finite_differences():
    objective = objective_of(normal(8, 4), torch.arange(8) % 3, network())
    direction = normal(objective.num_params, seed=5)
    start = objective.parameters()
    errors = [
        float(linearised_error(objective.of(moved(objective, start + h * direction)), objective))
        for h in (1e-2, 5e-3)
    ]
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.05)  # second order over first: linear in the step


def moved(objective, params):
    model = copy.deepcopy(objective.model)
    torch.nn.utils.vector_to_parameters(params, model.parameters())
    return model


def test_what_other_may_be():
    objective = objective_of(normal(8, 4), torch.arange(8) % 3, network())
    past = network(1)
    vector = torch.nn.utils.parameters_to_vector(past.parameters()).detach()
    for instrument in (ntk_drift, lazy_index, linearised_error):
        values = {
            round(float(instrument(objective, other)), 10) for other in (past, objective.of(past), vector)
        }
        assert len(values) == 1
        with pytest.raises(InputError, match="other is a str"):
            instrument(objective, "init")


def test_scaling_the_outputs_of_both_changes_nothing():
    class Scaled(nn.Module):
        def __init__(self, model, factor):
            super().__init__()
            self.model, self.factor = model, factor

        def forward(self, x):
            return self.factor * self.model(x)

    data = normal(8, 4), normal(8, 3, seed=1)
    for instrument in (ntk_drift, linearised_error):
        values = [
            float(instrument(objective_of(*data, Scaled(network(1), f)), Scaled(network(), f)))
            for f in (1.0, 7.0)
        ]
        assert values[0] == pytest.approx(values[1])


class Dial(nn.Module):
    """f = α (h_w - h_w₀): large α trains lazily."""

    def __init__(self, alpha):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.now = nn.Sequential(nn.Linear(5, 50), nn.Tanh(), nn.Linear(50, 1)).double()
        self.start = copy.deepcopy(self.now).requires_grad_(False)
        self.alpha = alpha

    def forward(self, x):
        return self.alpha * (self.now(x) - self.start(x))


@functools.cache
def dialled(alpha):
    x, y = normal(20, 5, seed=1), normal(20, 1, seed=2)
    model = Dial(alpha)
    objective = gt.Objective(model, lambda f, t: 0.5 * ((f - t) ** 2).mean() / alpha**2, (x, y))
    past = copy.deepcopy(model)
    with torch.no_grad():
        for _ in range(150):
            step = torch.autograd.grad(
                torch.enable_grad()(lambda: objective.loss_fn(model(x), y))(), list(model.now.parameters())
            )
            for p, g in zip(model.now.parameters(), step, strict=True):
                p -= 0.3 * g
    return objective, past


@pytest.mark.parametrize("instrument", [ntk_drift, lazy_index, linearised_error])
def test_the_lazy_dial(instrument):
    """Kernel change, index and second-order error fall as 1/α at equal fit (Chizat, Oyallon, Bach 2019)."""
    alphas = np.array([30.0, 100.0, 300.0])
    values = [float(instrument(*dialled(a))) for a in alphas]
    slope = np.polyfit(np.log(alphas), np.log(values), 1)[0]
    assert slope == pytest.approx(-1, abs=0.1)  # the tolerance of the toy's own check
    rich = float(lazy_index(*dialled(1.0)))
    assert rich > 10 * float(lazy_index(*dialled(100.0)))


def test_price_budget_and_traces():
    objective = objective_of(normal(8, 4), torch.arange(8) % 3, network())
    before = state_of(objective.model)
    for instrument in (ntk_drift, lazy_index, linearised_error):
        price, cost = instrument.spec.price(objective), instrument(objective, network(1)).cost
        assert (price.forwards, price.gradients) == pytest.approx((cost.forwards, cost.gradients))
        assert instrument(objective, network(1), budget=0).status.state is State.OUT_OF_BUDGET
    assert same(before, state_of(objective.model))


def test_where_there_is_none():
    objective = objective_of(normal(8, 4), torch.arange(8) % 3, network())
    other = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    assert "different parameters" in linearised_error(objective, other).status.sentence
    found = ntk_drift(objective, other)
    assert found.exact
    assert "parameter_movement" not in found.details
    more = nn.Linear(4, 5).double()
    for instrument in (ntk_drift, lazy_index):
        assert "3 outputs per example, the other 5" in instrument(objective, more).status.sentence
    still = product(0.0, 0.0)
    assert "kernel to compare with is zero" in ntk_drift(product(1.0, 1.0), still).status.sentence
    perfect = product(2.0, 1.0)
    assert "needs a positive one" in lazy_index(product(1.0, 1.0), perfect).status.sentence


def test_broken_parameters():
    broken = network()
    broken[0].weight.data[0, 0] = float("inf")
    objective = objective_of(normal(8, 4), torch.arange(8) % 3, network())
    broken_now = objective_of(normal(8, 4), torch.arange(8) % 3, broken)
    for instrument in (ntk_drift, lazy_index, linearised_error):
        assert instrument(broken_now, objective).status.state is State.NON_FINITE

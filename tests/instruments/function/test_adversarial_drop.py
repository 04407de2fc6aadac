"""Adversarial drop: the closed form of linear networks, budgets, masked gradients, coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom, norm
from tests.made import Next, linear, normal, objective_of, sequence_loss, words
from torch import nn

from geartrain.errors import InputError
from geartrain.instruments import adversarial_drop, margin_distribution
from geartrain.instruments.function._errors import difference_of
from geartrain.records import State

W = torch.tensor([3.0, -1.0, 0.5, 0.0]).double()


def linear_case(n: int = 400, seed: int = 0):
    x = normal(n, 4, seed=seed)
    y = (x @ W + 0.5 * normal(n, seed=seed + 1) > 0).long()
    return x, y, objective_of(x, y, linear([0.0] * 4, W.tolist()))


@pytest.mark.parametrize(("norm_name", "steps"), [("linf", 1), ("linf", 7), ("l2", 1), ("l2", 7)])
def test_linear_networks_lose_what_lies_within_reach(norm_name, steps):
    x, y, objective = linear_case()
    result = adversarial_drop(objective, steps, radius=0.3, norm=norm_name)
    spread = math.sqrt(float(((x - x.mean(0)) ** 2).mean()))
    epsilon = 0.3 * spread * (1 if norm_name == "linf" else math.sqrt(4))
    reach = epsilon * float(W.norm(p=1 if norm_name == "linf" else 2))
    margin = (x @ W) * (2 * y - 1)
    assert result.details["epsilon"] == pytest.approx(epsilon)
    assert result.details["accuracy_before"] == pytest.approx(float((margin > 0).double().mean()))
    assert result.details["accuracy_after"] == pytest.approx(float((margin > reach).double().mean()))
    assert result.value == pytest.approx(float(((margin > 0) & (margin <= reach)).double().mean()))
    losses = torch.log1p(torch.exp(-(margin - reach)))
    assert result.details["loss_after"] == pytest.approx(float(losses.mean()), rel=1e-6)


def test_input_margins_say_the_same():
    _, _, objective = linear_case(2000)
    quantiles = margin_distribution(objective, "input").value
    result = adversarial_drop(objective, radius=float(quantiles[2]), norm="l2")
    assert result.details["accuracy_after"] == pytest.approx(0.5, abs=1e-3)


def test_coverage_of_the_paired_difference():
    # x ~ N(0, 1), y = [x + ½N > 0], the network says [x > 0]: right with margin up to ε.
    epsilon = 0.3
    z = np.linspace(0, epsilon, 4001)
    truth = 2 * np.trapezoid(norm.pdf(z) * norm.cdf(2 * z), z)
    held = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=80)
        margin = x * np.where(x + 0.5 * rng.normal(size=80) > 0, 1, -1)
        value, error = difference_of((margin > 0) * 1.0, (margin > epsilon) * 1.0, np.arange(80))
        held += abs(value - truth) <= 2 * error
    assert held >= binom.ppf(0.001, 200, 0.95)


def test_more_steps_and_larger_radii_find_no_less():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3)).double()
    x = normal(150, 4)
    objective = objective_of(x, model(x).argmax(1), model)
    losses = [adversarial_drop(objective, 5, radius=r).details["loss_after"] for r in (0.05, 0.1, 0.2, 0.4)]
    assert losses == sorted(losses)
    before = adversarial_drop(objective, 5).details["loss_before"]
    assert losses[0] > before


def test_numbers_lose_by_the_slope():
    # f = 2x, y = 2x + 1: the worst change raises the residual from 1 to 1 + 2ε; 1 - 1/(1 + 2ε)².
    x = normal(50, 1)
    result = adversarial_drop(objective_of(x, 2 * x + 1, linear([2.0])), radius=0.5)
    epsilon = result.details["epsilon"]
    assert result.value == pytest.approx(1 - 1 / (1 + 2 * epsilon) ** 2, rel=1e-9)
    assert result.standard_error < 1e-9


def test_dead_gradients_are_told():
    x = torch.cat([normal(30, 1) + 5, normal(30, 1) - 5])
    y = (x[:, 0] > 0).long()
    sure = objective_of(x, y, linear([-1e6], [1e6]))
    result = adversarial_drop(sure, radius=0.01)
    assert result.details["masked"] == 1
    assert "no gradient" in result.status.sentence
    assert adversarial_drop(objective_of(x, y, linear([-1.0], [1.0])), radius=0.01).details["masked"] == 0


def test_cost_budget_and_refusals():
    x, y, objective = linear_case(50)
    result = adversarial_drop(objective, 4)
    price = adversarial_drop.spec.price(objective, 4)
    assert result.cost.gradients == price.gradients == 4
    assert result.cost.forwards == pytest.approx(price.forwards)
    cut = adversarial_drop(objective, 10, budget=3)
    assert cut.status.state is State.OUT_OF_BUDGET
    assert cut.details["steps"] == cut.cost.gradients == 3
    assert "3 of 10 steps" in cut.status.sentence
    assert adversarial_drop(objective, budget=0).status.state is State.OUT_OF_BUDGET
    with pytest.raises(InputError, match="norm 'l1'; allowed"):
        adversarial_drop(objective, norm="l1")
    text = objective_of(*words(), Next(), sequence_loss)
    assert "cannot be moved" in adversarial_drop(text).status.sentence
    assert torch.equal(x, objective.batches[0][0])
    assert y is objective.batches[0][1] or torch.equal(y, objective.batches[0][1])

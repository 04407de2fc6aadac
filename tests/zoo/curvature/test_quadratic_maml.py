"""Learning to learn on quadratics: gradients through a step, two fixed points, every instrument."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.zoo.agreement import assert_agrees, assert_agrees_in_part, assert_draws

from geartrain import zoo
from geartrain.errors import InputError
from geartrain.zoo.curvature.quadratic import Halves
from geartrain.zoo.curvature.quadratic_maml import QuadraticMaml


@pytest.mark.parametrize("seed", range(3))
def test_the_gradient_through_the_step(seed):
    toy = QuadraticMaml(seed=seed, inner=0.1 + 0.2 * seed, dimension=3 + seed)
    exact = toy.rows(toy.start).mean(0)
    np.testing.assert_allclose(toy.objective.gradient().numpy(), exact, rtol=1e-12, atol=1e-12)
    dense = toy.objective.hvp(torch.eye(toy.dimension, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(dense, toy.hessian, rtol=1e-12, atol=1e-12)


def test_the_first_order_variant_lacks_one_factor():
    toy = QuadraticMaml()
    model = Halves(torch.from_numpy(toy.start))
    loss = toy.first_order_loss(model, toy.data())
    found = np.concatenate([g.numpy() for g in torch.autograd.grad(loss, list(model.parameters()))])
    exact = np.einsum("tij,tj->ti", toy.firsts, toy.start - toy.centres).mean(0)
    np.testing.assert_allclose(found, exact, rtol=1e-12, atol=1e-12)
    assert float(loss.detach()) == pytest.approx(float(toy.objective.value()), rel=1e-14)


def test_the_fixed_points_differ_when_the_tasks_do():
    apart = [
        np.linalg.norm(t.optimum - t.first_order_point) for t in (QuadraticMaml(), QuadraticMaml(spread=0.0))
    ]
    assert apart[0] > 0.01
    assert apart[1] < 1e-12
    plain = QuadraticMaml(inner=0.0)
    np.testing.assert_allclose(plain.optimum, plain.first_order_point, atol=1e-12)


def test_one_step_helps_most_from_the_optimum():
    toy = QuadraticMaml()
    best = toy.losses(toy.optimum).mean()
    others = [toy.first_order_point, replace(toy, inner=0.0).optimum, toy.optimum + 0.1]
    assert all(toy.losses(theta).mean() > best for theta in others)


def test_every_instrument_meets_its_truth():
    assert_agrees(QuadraticMaml())


@pytest.mark.parametrize("seed", range(2))
def test_truths_hold_for_random_parameters(seed):
    draw = np.random.default_rng(seed)
    toy = QuadraticMaml(
        seed=seed,
        inner=float(draw.uniform(0, 0.5)),
        tasks=int(draw.integers(3, 30)),
        dimension=int(draw.integers(2, 9)),
        spread=float(draw.uniform(0, 1)),
        step=float(draw.uniform(0.2, 1.8)),
    )
    assert_agrees_in_part(toy)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"inner": 0.7}, "inner is 0.7; allowed: 0 to 0.6. Near 0.67"),
        ({"dimension": 1}, "allowed: 2 to 50 dimensions, 3 to 200 tasks"),
        ({"spread": 2.0}, "allowed: a spread from 0 to 1"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        zoo.get("quadratic-maml", **wrong)


def test_it_can_be_drawn():
    assert_draws(QuadraticMaml())

"""Preconditioned sharpness: the sharpness of SGD, the one of Adam, and its agreement with the edge."""

from __future__ import annotations

import pytest
import torch
from tests.training_toys import bowl_run, classifier, sgd_bowl

from geartrain import instruments
from geartrain.records import State

CURVATURES = [5.0, 2.0, 0.5, 0.1]


def test_for_sgd_it_is_the_sharpness():
    result = instruments.preconditioned_sharpness(sgd_bowl(CURVATURES, lr=0.3), tol=1e-8)
    assert float(result) == pytest.approx(5.0)
    assert result.details["threshold"] == pytest.approx(2 / 0.3)
    momentum = instruments.preconditioned_sharpness(sgd_bowl(CURVATURES, lr=0.3, momentum=0.9), tol=1e-8)
    assert float(momentum) == pytest.approx(5.0)
    assert momentum.details["threshold"] == pytest.approx(3.8 / 0.3)


def test_for_adam_it_is_that_of_the_preconditioned_hessian():
    run = bowl_run(CURVATURES, lambda p: torch.optim.Adam(p, lr=0.02))
    run.advance(2000)
    result = instruments.preconditioned_sharpness(run, tol=1e-8)
    root = (run.optimizer.state[run.model.weight]["exp_avg_sq"][0] / (1 - 0.999**2000)).sqrt() + 1e-8
    assert float(result) == pytest.approx(float((torch.tensor(CURVATURES).double() / root).max()), rel=1e-6)
    assert result.details["threshold"] == pytest.approx(38 / 0.02)


def test_over_its_threshold_it_is_the_edge_of_stability():
    run = classifier(lr=0.1)
    sharp = instruments.preconditioned_sharpness(run, generator=torch.Generator().manual_seed(1))
    edge = instruments.edge_of_stability(run, generator=torch.Generator().manual_seed(1))
    assert float(sharp) / sharp.details["threshold"] == pytest.approx(float(edge))
    assert sharp.details["ratio"] == float(edge)
    assert sharp.standard_error == pytest.approx(float(edge.standard_error) * sharp.details["threshold"])
    top = instruments.hessian_spectrum(run.objective(), k=1, tol=1e-6).value[0]
    assert float(sharp) == pytest.approx(top, rel=0.03)


def test_endings_and_cost():
    run = classifier(width=32)
    assert instruments.preconditioned_sharpness(run, budget=3).cost.products <= 3
    price = instruments.preconditioned_sharpness.spec.price(run, max_products=5)
    assert price.products == 5
    adam = bowl_run(CURVATURES, lambda p: torch.optim.Adam(p, lr=0.02))
    early = instruments.preconditioned_sharpness(adam)
    assert early.status.state is State.NOT_APPLICABLE
    assert "not taken a step" in early.status.sentence
    assert instruments.preconditioned_sharpness(run, budget=0).status.state is State.OUT_OF_BUDGET
    still = instruments.preconditioned_sharpness(sgd_bowl(CURVATURES, lr=0.0))
    assert "step size is zero" in still.status.sentence

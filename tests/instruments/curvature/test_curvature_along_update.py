"""Curvature along the updates: parabolas in closed form, agreement with the gradient, nothing disturbed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.training_toys import bowl_run, classifier, fingerprint, fragile_run, sgd_bowl

from geartrain.errors import InputError
from geartrain.instruments import curvature_along_gradient, curvature_along_update
from geartrain.records import State

VALUES = np.array([5.0, 2.0, 0.5, 0.1])


def test_gradient_descent_on_a_parabola():
    run = sgd_bowl(VALUES.tolist(), lr=0.1)
    result = curvature_along_update(run, steps=5)
    # From w = 1 step t moves each coordinate by -η λ (1 - ηλ)^t.
    updates = np.array([0.1 * VALUES * (1 - 0.1 * VALUES) ** t for t in range(5)])
    truth = (updates**2 * VALUES).sum(1) / (updates**2).sum(1)
    np.testing.assert_allclose(result.details["curvatures"], truth, rtol=1e-9)
    assert float(result) == pytest.approx((updates**2 * VALUES).sum() / (updates**2).sum())
    assert result.details["along_gradient"] == pytest.approx(truth[0])
    assert result.details["ratio"] == pytest.approx(float(result) / truth[0])


def test_the_first_step_of_gradient_descent_is_along_the_gradient():
    run = sgd_bowl(VALUES.tolist(), lr=0.01)
    first = curvature_along_update(run, steps=1)
    assert float(first) == pytest.approx(float(curvature_along_gradient(run.objective())))
    assert np.isnan(first.standard_error)


def test_sign_steps_see_the_mean_of_the_curvatures():
    run = bowl_run(VALUES.tolist(), lambda p: torch.optim.Adam(p, lr=1e-6))
    # The first steps of Adam are ±lr in every coordinate.
    assert float(curvature_along_update(run, steps=3)) == pytest.approx(VALUES.mean(), rel=1e-4)


def test_it_does_not_depend_on_the_step_size_of_one_step():
    one, two = (
        float(curvature_along_update(sgd_bowl(VALUES.tolist(), lr=lr), steps=1)) for lr in (1e-3, 0.1)
    )
    assert one == pytest.approx(two)


def test_the_run_is_left_alone_and_the_work_is_counted():
    run = fragile_run()
    run.advance(3)
    before = fingerprint(run)
    result = curvature_along_update(run, steps=4)
    assert fingerprint(run) == before
    assert result.status.usable
    price = curvature_along_update.spec.price(classifier(), steps=4)
    cost = curvature_along_update(classifier(), steps=4).cost
    spent, quoted = (c.forwards / 3 + c.gradients + 2 * c.products for c in (cost, price))
    assert 0.5 <= quoted / spent <= 2
    assert cost.products == 5


def test_endings():
    run = classifier()
    cut = curvature_along_update(run, budget=3)
    assert cut.status.state is State.OUT_OF_BUDGET
    assert cut.cost.products <= 3
    assert curvature_along_update(run, budget=0).status.state is State.OUT_OF_BUDGET
    still = curvature_along_update(sgd_bowl(VALUES.tolist(), lr=0.0))
    assert still.status.state is State.NOT_APPLICABLE
    assert "moved the parameters" in still.status.sentence
    with pytest.raises(InputError, match="operator is 'kfac'"):
        curvature_along_update(run, operator="kfac")
    broken = classifier()
    with torch.no_grad():
        next(broken.model.parameters()).fill_(float("nan"))
    assert curvature_along_update(broken).status.state is State.NON_FINITE

import pytest
import torch
from tests.training_toys import classifier, sgd_bowl
from torch import nn

import geartrain as gt
from geartrain import instruments


def bowl(curvatures, start, floor=0.0):
    run = sgd_bowl(curvatures, lr=0.1, start=start)
    plain = run.batch_loss
    run.batch_loss = lambda model, batch: plain(model, batch) + floor
    return run.objective()


def test_on_a_parabola_the_gain_is_the_whole_gap():
    result = instruments.endpoint_certificate(bowl([4.0, 1.0, 0.3], [1.0, -1.0, 2.0], floor=5.0), damping=0.0)
    gap = 0.5 * (4 + 1 + 0.3 * 4)
    assert float(result) == pytest.approx(gap / (gap + 5.0), rel=1e-5)
    assert result.details["actual_gain"] == pytest.approx(float(result), rel=1e-5)
    assert result.details["newton_length"] == pytest.approx(6**0.5, rel=1e-3)
    assert not result.details["is_minimum"]


def test_damping_discounts_flat_directions():
    curvatures, start, damping = [4.0, 1.0, 1e-3], [1.0, 1.0, 30.0], 0.01
    result = instruments.endpoint_certificate(bowl(curvatures, start), damping=damping, tol=1e-9)
    pairs = zip(curvatures, start, strict=True)
    gains = sum(0.5 * (c * s) ** 2 / (c + damping * 4.0) for c, s in pairs)
    loss = sum(0.5 * c * s**2 for c, s in zip(curvatures, start, strict=True))
    assert float(result) == pytest.approx(gains / loss, rel=1e-6)


def test_the_optimum_passes_and_a_run_stopped_early_does_not():
    there = instruments.endpoint_certificate(bowl([4.0, 1.0], [0.0, 0.0], floor=1.0))
    assert float(there) == 0.0
    assert there.details["is_minimum"]
    assert "A minimum to second order" in there.status.sentence
    early = instruments.endpoint_certificate(bowl([4.0, 1e-2], [0.0, 10.0], floor=1.0))
    # The gradient is a hundredth of what moves it, the gain is a third.
    assert early.details["gradient_norm"] == pytest.approx(0.1)
    assert float(early) == pytest.approx(0.5 / 1.5, rel=0.05)
    assert "Not at a stationary point" in early.status.sentence


def test_a_saddle_is_stationary_but_no_minimum():
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1e-6)
    data = torch.ones(1, 1).double(), torch.ones(1, 1).double()
    objective = gt.Objective(model, lambda o, y: 0.5 * ((o - y) ** 2).mean(), data)
    result = instruments.endpoint_certificate(objective)
    # At (0, 0) the Hessian of ½(ab - 1)² is [[0, -1], [-1, 0]].
    assert result.details["most_negative"] == pytest.approx(-1.0, rel=1e-4)
    assert not result.details["is_minimum"]
    assert "Stationary but not a minimum" in result.status.sentence


def test_scaling_the_loss_changes_no_verdict():
    run = classifier()
    run.advance(20)
    one = instruments.endpoint_certificate(run)
    plain = run.loss_fn
    run.set_loss(lambda outputs, targets: 100 * plain(outputs, targets))
    hundred = instruments.endpoint_certificate(run)
    # Single precision along some dozens of products.
    assert float(hundred) == pytest.approx(float(one), rel=0.05)
    assert hundred.details["gradient_norm_relative"] == pytest.approx(
        one.details["gradient_norm_relative"], rel=1e-3
    )


def test_it_keeps_its_budget():
    run = classifier(width=32)
    assert instruments.endpoint_certificate(run.objective(), budget=12).cost.products <= 12


def test_a_slope_without_curvature_is_no_minimum():
    run = classifier()
    run.set_loss(lambda outputs, targets: 10.0 + outputs.sum(1).mean())
    result = instruments.endpoint_certificate(run.objective(parameters="2.*"))
    assert result.details["gradient_norm"] > 1
    assert not result.details["is_minimum"]
    assert float(result) > 1


def test_negative_curvature_counts_by_its_size():
    # ½(ab - 1)² at (s, s) near 0: gradient -(s, s), curvature -1 along it, so the gain is s² of a loss of ½.
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1e-3)
    data = torch.ones(1, 1).double(), torch.ones(1, 1).double()
    objective = gt.Objective(model, lambda o, y: 0.5 * ((o - y) ** 2).mean(), data)
    result = instruments.endpoint_certificate(objective, damping=0.0)
    assert result.details["negative_curvature"]
    assert float(result) == pytest.approx(2e-6, rel=1e-2)

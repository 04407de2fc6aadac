import math

import pytest
import torch
from tests.training_toys import classifier, fragile_run, sgd_bowl
from torch.nn import functional

from geartrain import instruments


def test_a_clean_loop_uses_the_gradient_of_its_batch():
    for run in (classifier(), classifier(clip_grad_norm=1e-3), fragile_run()):
        run.advance(3)
        result = instruments.gradient_fidelity(run)
        assert float(result) == pytest.approx(1.0, abs=1e-5)
        assert result.details["norm_ratio"] == pytest.approx(1.0, rel=1e-5)
        assert result.details["uncleared"] == 0.0


def test_gradients_that_are_never_cleared_add_up():
    run = classifier(zero_grad=False, batch_size=4, lr=1e-6)
    result = instruments.gradient_fidelity(run, steps=20)
    assert result.details["accumulation"] == pytest.approx(1.0, abs=1e-6)
    assert result.details["uncleared"] > 0.9
    assert float(result) < 0.95
    assert result.details["norm_ratio_growth"] > 0.03


def test_the_growth_is_that_of_a_sum_of_equal_gradients():
    run = sgd_bowl([1.0], lr=1e-9)
    run.zero_grad = False
    result = instruments.gradient_fidelity(run, steps=9)
    # Ratios 1, 2, ..., 9: mean 5, slope 1.
    assert result.details["norm_ratio"] == pytest.approx(5.0, rel=1e-6)
    assert result.details["uncleared"] == pytest.approx(8 / 9)  # the first step had nothing left over
    assert result.details["norm_ratio_growth"] == pytest.approx(0.2, rel=1e-6)


def test_a_step_that_minimises_something_else_is_seen():
    run = classifier()

    def step(batch):
        run.optimizer.zero_grad()
        loss = -functional.cross_entropy(run.model(batch[0]), batch[1])
        loss.backward()
        run.optimizer.step()
        return -loss

    run.user_step, run.zero_grad = step, None
    assert float(instruments.gradient_fidelity(run)) == pytest.approx(-1.0, abs=1e-5)


def test_an_edited_gradient_has_the_angle_of_its_edit():
    run = sgd_bowl([1.0, 1.0], lr=1e-6, start=[1.0, 0.0])
    run.model.weight.register_hook(lambda g: g @ torch.tensor([[0.0, 1.0], [-1.0, 0.0]]).double())
    # The hook acts on the fresh gradient as well: it is part of how this loss is differentiated.
    assert float(instruments.gradient_fidelity(run)) == pytest.approx(1.0)
    run = sgd_bowl([1.0, 1.0], lr=1e-6, start=[1.0, 0.0])
    angle = math.pi / 3
    turn = torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]).double()

    def edit(optimizer, args, kwargs):
        run.model.weight.grad = run.model.weight.grad @ turn

    def step(batch):
        run.optimizer.zero_grad()
        loss = run.batch_loss(run.model, batch)
        loss.backward()
        edit(None, None, None)
        run.optimizer.step()
        return loss

    run.user_step, run.zero_grad = step, None
    assert float(instruments.gradient_fidelity(run)) == pytest.approx(math.cos(angle), rel=1e-6)


def test_optimizers_that_evaluate_the_loss_themselves_are_left_out():
    run = classifier()
    run.replace_optimizer(torch.optim.LBFGS(run.model.parameters()))
    assert "LBFGS" in instruments.gradient_fidelity(run).status.sentence

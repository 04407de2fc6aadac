import pytest
import torch
from tests.training_toys import bowl_run, classifier, sgd_bowl

from geartrain import instruments


@pytest.mark.parametrize("lr", [1e-4, 0.25, 0.5, 0.75, 1.1])
def test_on_one_mode_it_is_step_times_curvature_minus_one(lr):
    result = instruments.step_length_gauge(sgd_bowl([2.0], lr=lr), steps=4)
    assert float(result) == pytest.approx(2.0 * lr - 1.0, abs=1e-9)
    assert result.details["curvature"] == pytest.approx(2.0)
    assert result.details["share_beyond"] == (1.0 if lr > 0.5 + 1e-9 else 0.0) or lr == 0.5


def test_on_parabolas_it_is_one_minus_twice_the_predicted_decrease():
    run = bowl_run([3.0, 1.0, 0.1], lambda p: torch.optim.SGD(p, lr=0.4, momentum=0.5))
    gauge, decrease = instruments.step_length_gauge(run), instruments.predicted_decrease(run)
    assert float(gauge) == pytest.approx(1 - 2 * float(decrease), abs=1e-9)


def test_it_does_not_depend_on_the_unit_of_the_loss():
    run = classifier()
    value = float(instruments.step_length_gauge(run))
    plain = run.batch_loss
    run.batch_loss = lambda model, batch: 10 * plain(model, batch)
    run.optimizer.param_groups[0]["lr"] /= 10
    assert float(instruments.step_length_gauge(run)) == pytest.approx(value, abs=1e-3)

import pytest
import torch
from tests.training_toys import classifier
from torch import nn

from geartrain import instruments
from geartrain.budget import Budget
from geartrain.records import State


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))


def test_a_run_that_trains_everything_freezes_nothing():
    result = instruments.frozen_parameters(classifier())
    assert float(result) == 0.0
    assert result.details["gradient_share"] == 0.0


def test_parameters_without_gradients_are_counted():
    model = network()
    model[0].requires_grad_(False)
    result = instruments.frozen_parameters(classifier(model=model))
    assert float(result) == pytest.approx(48 / 75)
    assert result.details["reasons"] == dict.fromkeys(["0.weight", "0.bias"], "requires_grad is False")
    assert result.details["layers"] == ["0"]
    assert 0 < result.details["gradient_share"] < 1
    assert not any(p.requires_grad for p in model[0].parameters())


def test_the_gradient_share_is_that_of_the_whole_gradient():
    model = network()
    model[0].requires_grad_(False)
    run = classifier(model=model)
    share = instruments.frozen_parameters(run).details["gradient_share"]
    model[0].requires_grad_(True)
    objective = run.objective()
    whole, part = objective.gradient(), objective.restrict("0.*").gradient()
    assert share == pytest.approx(float((part @ part) / (whole @ whole)), rel=1e-5)


def test_parameters_that_the_optimizer_never_got_are_counted():
    model = network()
    run = classifier(model=model, optimizer=torch.optim.SGD(model[2].parameters(), lr=0.1))
    result = instruments.frozen_parameters(run)
    assert float(result) == pytest.approx(48 / 75)
    assert set(result.details["reasons"].values()) == {"not in the optimizer"}


def test_a_group_with_step_size_zero_is_counted_unless_all_rest():
    model = network()
    groups = [{"params": model[0].parameters(), "lr": 0.0}, {"params": model[2].parameters(), "lr": 0.1}]
    run = classifier(model=model, optimizer=torch.optim.SGD(groups))
    assert set(instruments.frozen_parameters(run).details["reasons"].values()) == {"step size 0"}
    run.optimizer.param_groups[1]["lr"] = 0.0
    assert float(instruments.frozen_parameters(run)) == 0.0


def test_steps_below_rounding_are_no_steps():
    result = instruments.frozen_parameters(classifier(lr=1e-30))
    assert float(result) == 1.0
    assert set(result.details["reasons"].values()) == {"no update"}


def test_parameters_that_nothing_depends_on_are_unused_not_frozen():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(5, 3), nn.Linear(5, 3)

        def forward(self, x):
            return self.used(x)

    result = instruments.frozen_parameters(classifier(model=Idle()))
    assert float(result) == 0.0
    assert result.details["unused"] == ["idle.weight", "idle.bias"]


def test_without_time_only_declared_reasons_are_known_and_it_says_so():
    found = instruments.frozen_parameters(classifier(), budget=Budget(seconds=1e-9))
    assert found.status.state is State.OUT_OF_BUDGET
    assert "Only declared reasons were looked at" in str(found.status)
    assert found.cost.gradients == 0

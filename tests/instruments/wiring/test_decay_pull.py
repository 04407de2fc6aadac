import pytest
import torch
from tests.training_toys import bowl_run, classifier, sgd_bowl

from geartrain import instruments


def test_it_is_the_ratio_of_the_two_forces():
    run = sgd_bowl([2.0, 2.0], lr=0.1, weight_decay=0.5)
    result = instruments.decay_pull(run)
    assert float(result) == pytest.approx(0.5 / 2.0)
    assert result.details["along"] == pytest.approx(-2.0 / 0.5)
    assert result.details["shrinkage"] == pytest.approx(0.05)
    assert not result.details["decoupled"]


def test_forces_balance_at_the_minimum_of_the_regularised_loss():
    inputs, targets = torch.eye(3).double() * 3**0.5, torch.ones(3, 1).double()
    run = sgd_bowl([1.0, 1.0, 1.0], lr=0.1, weight_decay=0.3)
    run.train_data = (inputs, targets)
    run._probes.clear()
    run.stream.source.data = (inputs, targets)
    run.advance(2000)
    result = instruments.decay_pull(run)
    assert float(result) == pytest.approx(1.0, rel=1e-6)
    assert result.details["along"] == pytest.approx(1.0, rel=1e-6)


def test_no_decay_no_pull():
    result = instruments.decay_pull(classifier())
    assert float(result) == 0.0
    assert result.exact


def test_decoupled_decay_is_compared_with_the_preconditioned_gradient():
    run = bowl_run([2.0, 2.0], lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.5))
    run.advance(1)
    result = instruments.decay_pull(run)
    state = run.optimizer.state[run.model.weight]
    root = ((state["exp_avg_sq"] / (1 - 0.999)).sqrt() + 1e-8) * (1 - 0.9)
    weight = run.model.weight.detach()
    expected = (0.5 * weight).norm() / (2.0 * weight / root).norm()
    assert float(result) == pytest.approx(float(expected), rel=1e-9)
    assert result.details["equilibrium_norm"] == pytest.approx((0.01 * 2 / (2 * 0.5)) ** 0.5)


def test_before_any_step_of_adamw_there_is_nothing_to_compare():
    run = bowl_run([2.0], lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.5))
    assert "not taken a step" in instruments.decay_pull(run).status.sentence


def test_only_decaying_groups_count():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3))
    groups = [{"params": model[0].parameters(), "weight_decay": 0.1}, {"params": model[2].parameters()}]
    run = classifier(model=model, optimizer=torch.optim.SGD(groups, lr=0.1))
    objective = run.objective(parameters="0.*")
    expected = 0.1 * objective.parameters().norm() / objective.gradient().norm()
    assert float(instruments.decay_pull(run)) == pytest.approx(float(expected), rel=1e-5)


def test_it_is_proportional_to_the_decay():
    values = [float(instruments.decay_pull(sgd_bowl([2.0], lr=0.1, weight_decay=d))) for d in (0.1, 0.3)]
    assert values[1] == pytest.approx(3 * values[0])

import math

import pytest
import torch
from tests.training_toys import classifier
from torch import nn
from torch.nn import functional

import geartrain as gt
from geartrain import instruments
from geartrain.run import Run


def scaled(factor):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
    with torch.no_grad():
        for parameter in model[2].parameters():
            parameter.mul_(factor)
    return classifier(model=model)


def test_outputs_of_zero_are_exactly_calm():
    result = instruments.initial_scale(scaled(0.0))
    assert float(result) == pytest.approx(1.0, rel=1e-6)
    assert result.details["reference"] == pytest.approx(math.log(3))
    assert result.details["output_std"] == result.details["logit_std"] == 0.0


def test_loud_outputs_are_far_above_one_and_grow_with_their_scale():
    values = [instruments.initial_scale(scaled(f)) for f in (1.0, 100.0, 1000.0)]
    assert float(values[0]) < 1.5
    assert float(values[1]) > 5
    assert float(values[2]) == pytest.approx(10 * float(values[1]), rel=0.05)
    assert values[2].details["logit_std"] == pytest.approx(10 * values[1].details["logit_std"], rel=1e-4)


def test_a_regression_is_compared_with_the_output_zero():
    torch.manual_seed(0)
    inputs, targets = torch.randn(64, 2), 50 + torch.randn(64, 1)
    model = nn.Linear(2, 1)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    run = Run(model, functional.mse_loss, torch.optim.SGD(model.parameters(), lr=0.1), (inputs, targets))
    result = instruments.initial_scale(run)
    assert float(result) == pytest.approx(1.0)
    assert result.details["num_classes"] == 0


def test_yes_or_no_answers_say_nothing_at_one_half():
    torch.manual_seed(0)
    data = (torch.randn(64, 2), torch.randint(0, 2, (64, 1)).float())
    for head, loss in [
        ([], functional.binary_cross_entropy_with_logits),
        ([nn.Sigmoid()], functional.binary_cross_entropy),
    ]:
        result = instruments.initial_scale(gt.Objective(nn.Sequential(nn.Linear(2, 1), *head), loss, data))
        assert result.details["reference"] == pytest.approx(math.log(2))


def test_a_run_past_its_start_remembers_its_first_loss():
    run = scaled(100.0)
    run.advance(10)
    result = instruments.initial_scale(run)
    assert float(result) == pytest.approx(run.history.columns["loss"][0] / math.log(3))
    assert not result.details["at_start"]
    run.history = gt.run.History()
    assert "was not recorded" in instruments.initial_scale(run).status.sentence

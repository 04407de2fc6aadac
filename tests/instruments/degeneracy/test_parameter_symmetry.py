import pytest
import torch
from tests.training_toys import classifier
from torch import nn

import geartrain as gt
from geartrain import instruments


def network(init=None):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))
    if init is not None:
        with torch.no_grad():
            for parameter in model.parameters():
                init(parameter)
    return model


def test_random_weights_have_no_copies():
    result = instruments.parameter_symmetry(classifier(model=network()))
    assert float(result) == 0.0
    assert result.details["num_units"] == 14


@pytest.mark.parametrize("value", [0.0, 0.1, 1.0])
def test_constant_weights_make_every_hidden_unit_a_copy(value):
    result = instruments.parameter_symmetry(classifier(model=network(lambda p: p.fill_(value))))
    assert float(result) == 1.0


def test_and_training_keeps_them_copies():
    run = classifier(model=network(lambda p: p.fill_(0.1)))
    run.advance(30)
    assert float(instruments.parameter_symmetry(run)) == 1.0


def test_planted_copies_are_counted():
    model = network()
    with torch.no_grad():
        for unit in (3, 6):
            model[0].weight[unit] = model[0].weight[1]
            model[0].bias[unit] = model[0].bias[1]
            model[2].weight[:, unit] = model[2].weight[:, 1]
    result = instruments.parameter_symmetry(classifier(model=model))
    assert float(result) == pytest.approx(3 / 14)
    assert result.details["layers"]["0"] == pytest.approx(3 / 8)


def test_equal_weights_with_different_readers_part_at_once():
    model = network()
    nn.init.zeros_(model[2].weight)
    nn.init.zeros_(model[2].bias)
    result = instruments.parameter_symmetry(classifier(model=model))
    assert result.details["copies"] == pytest.approx(6 / 14)
    assert float(result) == 0.0


def test_the_order_of_the_units_does_not_matter():
    model = network(lambda p: p.fill_(0.1))
    with torch.no_grad():
        model[0].weight[:4] = torch.randn(4, 5)
    value = float(instruments.parameter_symmetry(classifier(model=model)))
    order = torch.randperm(8)
    with torch.no_grad():
        model[0].weight.copy_(model[0].weight[order])
        model[0].bias.copy_(model[0].bias[order])
        model[2].weight.copy_(model[2].weight[:, order])
    assert float(instruments.parameter_symmetry(classifier(model=model))) == value


def test_a_single_layer_has_no_hidden_units():
    model = nn.Linear(5, 3)
    data = torch.randn(12, 5), torch.randint(0, 3, (12,))
    result = instruments.parameter_symmetry(gt.Objective(model, nn.functional.cross_entropy, data))
    assert "no hidden layer" in result.status.sentence

import pytest
import torch
from torch import nn

import geartrain as gt
from geartrain import instruments


def objective(model, shape=(20, 4), classes=3):
    torch.manual_seed(0)
    inputs, labels = torch.randn(*shape), torch.randint(0, classes, (shape[0],))
    return gt.Objective(model, nn.functional.cross_entropy, (inputs, labels))


def test_layers_without_bias_are_counted_and_named():
    model = nn.Sequential(
        nn.Linear(4, 6, bias=False), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3, bias=False)
    )
    result = instruments.missing_biases(objective(model))
    assert float(result) == pytest.approx(2 / 3)
    assert result.details["names"] == ["0", "4"]
    assert result.details["output_layer"]


def test_a_shift_directly_behind_replaces_the_bias():
    for norm, missing in [
        (nn.BatchNorm1d(6), 0),
        (nn.LayerNorm(6), 0),
        (nn.RMSNorm(6), 1),
        (nn.LayerNorm(6, bias=False), 1),
    ]:
        model = nn.Sequential(nn.Linear(4, 6, bias=False), nn.Dropout(0.1), norm, nn.ReLU(), nn.Linear(6, 3))
        assert float(instruments.missing_biases(objective(model))) == pytest.approx(missing / 2)
    model = nn.Sequential(nn.Linear(4, 6, bias=False), nn.ReLU(), nn.LayerNorm(6), nn.Linear(6, 3))
    assert float(instruments.missing_biases(objective(model))) == pytest.approx(1 / 2)


def test_the_gradient_is_that_of_a_bias_of_zeros():
    torch.manual_seed(1)
    bare = nn.Sequential(nn.Linear(4, 6, bias=False), nn.Tanh(), nn.Linear(6, 3, bias=False))
    whole = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    with torch.no_grad():
        for mine, theirs in ((whole[0], bare[0]), (whole[2], bare[2])):
            mine.weight.copy_(theirs.weight)
            mine.bias.zero_()
    result = instruments.missing_biases(objective(bare))
    biases = objective(whole).restrict("*.bias")
    gradient = biases.gradient()
    assert result.details["gradients"]["0"] == pytest.approx(float(gradient[:6].norm()), rel=1e-5)
    assert result.details["gradients"]["2"] == pytest.approx(float(gradient[6:].norm()), rel=1e-5)
    total = float(objective(whole).gradient().norm()) ** 2
    assert result.details["gradient_share"] == pytest.approx(float(gradient.norm()) ** 2 / total, rel=1e-5)


def test_convolutions_count_too():
    model = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    result = instruments.missing_biases(objective(model, (6, 1, 4, 4)))
    assert result.details["names"] == ["0"]
    assert result.details["gradients"]["0"] > 0


def test_a_model_without_such_layers_is_refused_in_a_sentence():
    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(4, 3))

        def forward(self, x):
            return x @ self.weight

    result = instruments.missing_biases(objective(Table()))
    assert "No linear" in result.status.sentence

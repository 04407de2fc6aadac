"""Activation flow: Gaussian layers, names and order, relations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import digamma
from tests.made import linear, normal, objective_of
from torch import Tensor, nn
from torch.nn import functional

from geartrain.errors import NonFiniteError
from geartrain.instruments import activation_flow
from geartrain.objective import Objective


def gaussian_stack(width: int, depth: int, scale: float, seed: int) -> nn.Sequential:
    layers = [nn.Linear(width, width, bias=False, dtype=torch.float64) for _ in range(depth)]
    for i, layer in enumerate(layers):
        layer.weight.data = normal(width, width, seed=1000 * seed + i) * scale / math.sqrt(width)
    return nn.Sequential(*layers)


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.5])
def test_growth_of_gaussian_layers(scale):
    # Standard deviation of a step is about 1/sqrt(2n) = 0.18; 24 x 39 steps leave 0.006.
    width, depth = 16, 40
    growths = []
    for seed in range(24):
        stack, x = gaussian_stack(width, depth, scale, seed), normal(1, width, seed=77 + seed)
        growths.append(activation_flow(objective_of(x, x, stack)).details["growth_per_layer"])
    truth = math.log(scale) + 0.5 * (digamma(width / 2) + math.log(2 / width))
    error = np.std(growths, ddof=1) / math.sqrt(len(growths))
    assert abs(np.mean(growths) - truth) < min(3 * error, 0.02)


def test_rms_mean_and_std_of_known_activations():
    model = nn.Sequential(linear([2.0]), nn.ReLU(), linear([-3.0]))
    x = torch.tensor([[-1.0], [1.0], [3.0]]).double()
    result = activation_flow(objective_of(x, x, model))
    assert result.dims == ("layer",)
    assert result.coords["layer"] == ["0", "1", "2"]
    np.testing.assert_allclose(result.value, np.sqrt([44 / 3, 40 / 3, 120]))
    assert result.details["mean"]["1"] == pytest.approx(8 / 3)
    assert result.details["std"]["0"] == pytest.approx(math.sqrt(44 / 3 - 4))
    assert result.details["matrix_layers"] == ("0", "2")
    assert result.details["growth_per_layer"] == pytest.approx(0.5 * math.log(120 / (44 / 3)))


def test_scaling_one_layer_scales_what_follows():
    stack = gaussian_stack(8, 4, 1.0, 0)
    x = normal(20, 8)
    before = activation_flow(objective_of(x, x, stack)).value
    stack[1].weight.data *= 3
    after = activation_flow(objective_of(x, x, stack)).value
    np.testing.assert_allclose(after / before, [1, 3, 3, 3], rtol=1e-12)


def test_batches_are_pooled():
    stack, x = gaussian_stack(4, 3, 1.0, 0), normal(30, 4)
    whole = activation_flow(objective_of(x, x, stack))
    parts = activation_flow(Objective(stack, functional.mse_loss, [(x[:7], x[:7]), (x[7:], x[7:])]))
    np.testing.assert_allclose(parts.value, whole.value, rtol=1e-12)
    np.testing.assert_allclose(parts.standard_error, whole.standard_error, rtol=1e-9)


def test_a_module_called_twice_and_recurrent_outputs():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)
            self.act = nn.Tanh()
            self.memory = nn.LSTM(3, 3, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            x = self.act(self.layer(x))
            x = self.act(self.layer(x))
            return self.memory(x[:, None])[0][:, 0]

    x = normal(5, 3, dtype=torch.float32)
    result = activation_flow(objective_of(x, x, Twice()))
    assert result.coords["layer"] == ["layer", "act", "layer#2", "act#2", "memory"]


def test_attention_is_one_layer():
    model = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    x = normal(4, 5, 8, dtype=torch.float32)
    names = activation_flow(objective_of(x, x, model, training=False)).coords["layer"]
    assert names[0] == "self_attn"
    assert "linear2" in names


def test_a_single_layer_has_no_growth():
    x = normal(4, 2)
    result = activation_flow(objective_of(x, x, linear([1.0, 0.0], [0.0, 1.0])))
    assert math.isnan(result.details["growth_per_layer"])
    assert result.value == pytest.approx([float(x.square().mean().sqrt())])


def test_nan_is_refused_with_its_layer():
    stack = gaussian_stack(3, 3, 1.0, 0)
    objective = objective_of(normal(4, 3), normal(4, 3), stack)
    stack[1].weight.data[0, 0] = math.nan
    with pytest.raises(NonFiniteError, match=r"1 \(Linear\)"):
        activation_flow(objective)

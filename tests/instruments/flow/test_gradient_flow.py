"""Gradient flow: Gaussian layers, sigmoid stacks, time, in-place code, relations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import digamma
from tests.made import linear, normal, objective_of
from torch import Tensor, nn

from geartrain.errors import NonFiniteError
from geartrain.instruments import gradient_flow
from geartrain.objective import Objective
from geartrain.records import State


def mean_output(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs * targets).sum(1).mean()


@pytest.mark.parametrize("scale", [0.7, 1.2])
def test_growth_of_gaussian_layers(scale):
    # The transposes act on the error signal: the same law as for activations.
    width, depth, growths = 16, 40, []
    for seed in range(24):
        layers = [nn.Linear(width, width, bias=False, dtype=torch.float64) for _ in range(depth)]
        for i, layer in enumerate(layers):
            layer.weight.data = normal(width, width, seed=1000 * seed + i) * scale / math.sqrt(width)
        x, direction = normal(1, width, seed=5 + seed), normal(1, width, seed=900 + seed)
        result = gradient_flow(Objective(nn.Sequential(*layers), mean_output, (x, direction)))
        growths.append(result.details["growth_per_layer"])
    truth = math.log(scale) + 0.5 * (digamma(width / 2) + math.log(2 / width))
    error = np.std(growths, ddof=1) / math.sqrt(len(growths))
    assert abs(np.mean(growths) - truth) < min(3 * error, 0.02)


def test_known_gradients():
    model = nn.Sequential(linear([2.0]), linear([3.0]))
    x, y = torch.tensor([[1.0], [2.0]]).double(), torch.zeros(2, 1).double()
    result = gradient_flow(Objective(model, lambda f, y: 0.5 * (f - y).square().mean(), (x, y)))
    # f = 6x: errors 6 and 12 at the output, three times that below; dL/dw2 = mean(f 2x), dL/dw1 = mean(f 3x).
    np.testing.assert_allclose(result.value, [3 * math.sqrt(90), math.sqrt(90)])
    assert result.details["growth_per_layer"] == pytest.approx(math.log(3))
    assert result.details["weight_gradient_rms"] == pytest.approx({"0": 45.0, "1": 30.0})
    assert result.details["relative_weight_gradient"] == pytest.approx({"0": 22.5, "1": 10.0})
    assert result.details["first_to_last"] == pytest.approx(2.25)


def test_deep_sigmoids_vanish_and_relus_do_not():
    def stack(activation: type[nn.Module], gain: float) -> nn.Sequential:
        layers: list[nn.Module] = []
        for i in range(8):
            layer = nn.Linear(16, 16, dtype=torch.float64)
            layer.weight.data, layer.bias.data = normal(16, 16, seed=i) * gain / 4, torch.zeros(16).double()
            layers += [layer, activation()]
        return nn.Sequential(*layers, nn.Linear(16, 4, dtype=torch.float64))

    data = normal(50, 16), normal(50, 4, seed=1)
    vanishing = gradient_flow(objective_of(*data, stack(nn.Sigmoid, 1.0))).details
    healthy = gradient_flow(objective_of(*data, stack(nn.ReLU, math.sqrt(2)))).details
    assert vanishing["growth_per_layer"] < math.log(0.4)
    assert vanishing["first_to_last"] < 1e-4
    assert abs(healthy["growth_per_layer"]) < 0.35
    assert healthy["first_to_last"] > 0.005


def test_rescaling_the_loss_rescales_all_but_ratios():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    x, y = normal(20, 3), normal(20, 2, seed=1)
    one = gradient_flow(Objective(model, nn.functional.mse_loss, (x, y)))
    ten = gradient_flow(Objective(model, lambda f, t: 10 * nn.functional.mse_loss(f, t), (x, y)))
    np.testing.assert_allclose(ten.value, 10 * one.value, rtol=1e-10)
    for key in ("growth_per_layer", "first_to_last"):
        assert ten.details[key] == pytest.approx(one.details[key], rel=1e-9)


def test_splitting_and_shuffling_the_data_changes_nothing():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    x, y = normal(20, 3), normal(20, 2, seed=1)
    whole = gradient_flow(objective_of(x, y, model))
    parts = gradient_flow(Objective(model, nn.functional.mse_loss, [(x[12:], y[12:]), (x[:12], y[:12])]))
    np.testing.assert_allclose(parts.value, whole.value, rtol=1e-10)
    assert parts.details["first_to_last"] == pytest.approx(whole.details["first_to_last"])


def test_in_place_activations_hide_nothing():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)).double()
    hasty = nn.Sequential(plain[0], nn.ReLU(inplace=True), plain[2])
    x, y = normal(20, 3), normal(20, 2, seed=1)
    np.testing.assert_allclose(
        gradient_flow(objective_of(x, y, hasty)).value, gradient_flow(objective_of(x, y, plain)).value
    )


@pytest.mark.parametrize("radius", [0.8, 1.1])
def test_a_linear_recurrence_grows_by_its_spectral_radius(radius):
    class Recurrence(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.turn = linear([1.0, 0.0], [0.0, 1.0]), linear([0.0, -radius], [radius, 0.0])

        def forward(self, x: Tensor) -> Tensor:
            hidden = torch.zeros(len(x), 2, dtype=x.dtype)
            for t in range(x.shape[1]):
                hidden = self.turn(hidden + self.enter(x[:, t]))
            return hidden

    result = gradient_flow(
        Objective(Recurrence(), nn.functional.mse_loss, (normal(4, 12, 2), normal(4, 2, seed=1)))
    )
    assert result.details["recurrent_growth"] == pytest.approx(math.log(radius), abs=1e-6)


def test_an_elman_layer_near_zero_is_linear_too():
    model = nn.RNN(2, 2, batch_first=True, bias=False).double()
    model.weight_ih_l0.data = torch.eye(2).double()
    model.weight_hh_l0.data = 0.7 * torch.eye(2).double()

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.memory = model

        def forward(self, x: Tensor) -> Tensor:
            return self.memory(x)[0][:, -1]

    result = gradient_flow(Objective(Last(), nn.functional.mse_loss, (1e-4 * normal(4, 10, 2), normal(4, 2))))
    assert result.details["recurrent_growth"] == pytest.approx(math.log(0.7), abs=1e-4)


def test_frozen_layers_are_left_out():
    model = nn.Sequential(linear([1.0]), linear([1.0]), linear([1.0]))
    model[0].requires_grad_(False)
    x = torch.ones(3, 1).double()
    result = gradient_flow(objective_of(x, 0 * x, model))
    assert result.coords["layer"] == ["1", "2"]
    assert result.details["first_to_last"] == pytest.approx(1.0)


def test_nothing_that_depends_on_parameters():
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))
            self.still = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.still(x) * self.scale

    result = gradient_flow(objective_of(torch.ones(3, 1), torch.zeros(3, 1), Odd()))
    assert result.status.state is State.NOT_APPLICABLE


def test_nan_is_refused():
    model = nn.Sequential(linear([1.0]), linear([1.0]))
    objective = objective_of(torch.ones(3, 1).double(), torch.zeros(3, 1).double(), model)
    model[1].weight.data[:] = math.inf
    with pytest.raises(NonFiniteError, match="gradient"):
        gradient_flow(objective)

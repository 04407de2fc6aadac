"""Which networks are of first degree in every single parameter, read off the graph."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from geartrain._torch.piecewise import obstacle


class Of(nn.Module):
    """A network of two layers whose outputs ``join`` puts together."""

    def __init__(self, join) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.join = join

    def forward(self, x):
        return self.join(self, x)


class Squash(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, *grads):
        return 2 * ctx.saved_tensors[0] * grads[0]


def chain(*middle: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), *middle, nn.Linear(4, 3))


FINE = {
    "relu": chain(nn.ReLU()),
    "in place": chain(nn.ReLU(inplace=True)),
    "leaky, hard, clipped": chain(nn.LeakyReLU(), nn.Hardtanh(), nn.ReLU6()),
    "prelu": chain(nn.PReLU()),
    "batch norm, evaluated": chain(nn.BatchNorm1d(4)).eval(),
    "dropout": chain(nn.Dropout(0.5)),
    "residual": Of(lambda m, x: m.b(x + functional.relu(m.a(x)))),
    "gates of separate weights": Of(lambda m, x: functional.relu(m.a(x)) * m.b(x)),
    "maximum": Of(lambda m, x: torch.maximum(m.a(x), m.b(x)).abs().mean(1, keepdim=True)),
}
NOT = {
    "tanh": (chain(nn.Tanh()), "computes a Tanh"),
    "gelu": (chain(nn.GELU()), "computes a Gelu"),
    "layer norm": (chain(nn.LayerNorm(4)), "computes a NativeLayerNorm"),
    "batch norm, training": (chain(nn.BatchNorm1d(4)).train(), "batch normalisation is in training mode"),
    "weight used twice": (Of(lambda m, x: m.a(functional.relu(m.a(x)))), r"a\.weight stands on both sides"),
    "a gate of itself": (Of(lambda m, x: m.b(m.a(x) * functional.relu(m.a(x)))), "stands on both sides"),
    "division": (Of(lambda m, x: m.a(x) / (1 + m.b(x).abs())), "divides by something"),
    "power": (Of(lambda m, x: m.a(x) ** 2), "computes a Pow"),
    "a function of one's own": (Of(lambda m, x: Squash.apply(m.a(x))), "computes a Squash"),
}


def obstacle_of(model: nn.Module) -> str | None:
    torch.manual_seed(0)
    return obstacle([model(torch.randn(5, 4))], dict(model.named_parameters()))


@pytest.mark.parametrize("name", list(FINE))
def test_piecewise_linear(name):
    assert obstacle_of(FINE[name]) is None
    second = _second_derivatives(FINE[name])
    assert float(second.abs().max()) < 1e-9


@pytest.mark.parametrize("name", list(NOT))
def test_not_piecewise_linear(name):
    model, why = NOT[name]
    with pytest.raises(AssertionError, match=why):
        assert obstacle_of(model) is None, obstacle_of(model)
    assert float(_second_derivatives(model).abs().max()) > 1e-9


def test_parameters_that_do_not_count_are_left_out():
    model, _ = NOT["weight used twice"]
    outputs = model(torch.randn(5, 4))
    assert obstacle([outputs], {"b.weight": model.b.weight}) is None


def test_convolutions_and_pooling():
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.AvgPool2d(2), nn.Flatten()
    )
    assert obstacle([model(torch.randn(2, 1, 8, 8))], dict(model.named_parameters())) is None


def _second_derivatives(model: nn.Module) -> torch.Tensor:
    """∂²(a random sum of outputs)/∂θ² for every single parameter."""
    import copy

    torch.manual_seed(0)
    model = copy.deepcopy(model).double()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    inputs = torch.randn(5, 4).double()
    outputs = model(inputs)
    total = (outputs * torch.randn(outputs.shape).double()).sum()
    parameters = list(model.parameters())
    firsts = torch.autograd.grad(
        total, parameters, create_graph=True, allow_unused=True, materialize_grads=True
    )
    found = []
    for first, parameter in zip(firsts, parameters, strict=True):
        for index, entry in enumerate(first.reshape(-1)):
            if not entry.requires_grad:
                continue
            (second,) = torch.autograd.grad(
                entry, parameter, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            found.append(second.reshape(-1)[index])
    return torch.stack(found) if found else torch.zeros(1)

"""Small networks and data for ensembles, and the comparison of a member with the lone network."""

from __future__ import annotations

from typing import Any

import torch
from tests.made import normal, seeded
from torch import Tensor, nn
from torch.nn import functional

import geartrain as gt

POINTS = normal(24, 3)
CLASSES = torch.randint(3, (24,), generator=seeded(1))
VALUES = normal(24, 2, seed=2)
IMAGES = normal(12, 1, 6, 6, seed=3)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def normed() -> nn.Module:
    # A bias in front of the normalisation would have no gradient but rounding, which Adam blows up to full steps.
    return nn.Sequential(nn.Linear(3, 5, bias=False), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)).double()


def dropped() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.4), nn.Linear(8, 3)).double()


def convolutional() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)).double()


class Tied(nn.Module):
    """Tied weights, a frozen parameter, a parameter that the loss never reaches, and one of shape ()."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3, bias=False)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.frozen = nn.Parameter(torch.randn(3), requires_grad=False)
        self.unused = nn.Parameter(torch.randn(2))
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.second(torch.tanh(self.first(x) + self.frozen))


def train(make: Any = mlp, data: Any = None, **options: Any) -> gt.ensemble.Ensemble:
    options.setdefault("loss", functional.cross_entropy)
    options.setdefault("seeds", 4)
    options.setdefault("steps", 12)
    return gt.ensemble.train(make, (POINTS, CLASSES) if data is None else data, **options)


def alone(make: Any = mlp, data: Any = None, **options: Any) -> gt.ensemble.Alone:
    options.setdefault("loss", functional.cross_entropy)
    options.setdefault("steps", 12)
    return gt.ensemble.alone(make, (POINTS, CLASSES) if data is None else data, **options)


def assert_equals_alone(
    nets: gt.ensemble.Ensemble, i: int, lone: gt.ensemble.Alone, tolerance: float = 1e-10
) -> None:
    """A dozen steps of well-scaled problems amplify rounding by a few orders at most: 1e-10 in double precision."""
    torch.testing.assert_close(nets.parameters[i], lone.parameters, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(
        nets.losses[i].double(), lone.losses.double(), rtol=tolerance, atol=tolerance, equal_nan=True
    )
    assert nets.status[i] == lone.status
    if lone.average is not None:
        assert nets.averages is not None
        torch.testing.assert_close(nets.averages[i], lone.average, rtol=tolerance, atol=tolerance)
    for name, buffer in lone.model.named_buffers():
        torch.testing.assert_close(nets.state(name)[i], buffer, rtol=tolerance, atol=tolerance)

"""Landscapes known in closed form, and networks whose units were exchanged on purpose."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from tests.made import seeded
from torch import Tensor, nn
from torch.nn import functional

import geartrain as gt
from geartrain.instruments._matching import assign, units


class Point(nn.Module):
    """Nothing but parameters."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x = nn.Parameter(x.clone())


def potential(function: Callable[[Tensor], Tensor], x: list[float], dtype=torch.float64) -> gt.Objective:
    """The loss function(x) of the parameters x."""
    data = [torch.ones(1, dtype=dtype)]
    return gt.Objective(Point(torch.tensor(x, dtype=dtype)), data=data, batch_loss=lambda m, b: function(m.x))


def wells(x: Tensor) -> Tensor:
    """(x₁² - 1)² + x₂² + ...: minima at x₁ = ±1, a hill of height 1 between them."""
    return (x[0] ** 2 - 1) ** 2 + (x[1:] ** 2).sum()


def ring(x: Tensor) -> Tensor:
    """(|x|² - 1)²: a circular valley of loss 0 around a hill of height 1."""
    return ((x**2).sum() - 1) ** 2


class Residual(nn.Module):
    """Convolutions with batch norm, two residual sums, a depthwise convolution, pooling."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width)
        self.inner, self.inner_norm = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.outer = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.short, self.wide = nn.Conv2d(width, 2 * width, 1), nn.Conv2d(width, 2 * width, 3, padding=1)
        self.depthwise = nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width)
        self.head = nn.Linear(2 * width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(x + self.outer(torch.relu(self.inner_norm(self.inner(x)))))
        x = torch.relu(self.short(x) + self.depthwise(self.wide(x)))
        return self.head(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))


class Dense(nn.Module):
    """Concatenations: a later layer reads units beside inputs, and units of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(4, 6), nn.Linear(10, 5), nn.Linear(11, 3)

    def forward(self, x: Tensor) -> Tensor:
        one = torch.relu(self.first(x))
        two = torch.tanh(self.second(torch.cat([x, one], -1)))
        return self.third(torch.cat([two, one], dim=1))


class Attention(nn.Module):
    """A residual stream with position parameters, layer norm, one head of attention, and tied embeddings."""

    def __init__(self, words: int = 11, width: int = 12) -> None:
        super().__init__()
        self.embedding, self.place = nn.Embedding(words, width), nn.Parameter(torch.randn(5, width))
        self.mix, self.back = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm, self.other_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 20), nn.Linear(20, width)
        self.scores = nn.Linear(width, words, bias=False)
        self.scores.weight = self.embedding.weight

    def forward(self, words: Tensor) -> Tensor:
        x = self.embedding(words) + self.place
        query, key, value = self.mix(self.norm(x)).chunk(3, dim=-1)
        x = x + self.back(functional.scaled_dot_product_attention(query, key, value, is_causal=True))
        return self.scores(x + self.down(functional.gelu(self.up(self.other_norm(x)))))


def network(kind: str, seed: int = 0) -> tuple[nn.Module, Tensor]:
    """A network in double precision with all its numbers random, and inputs for it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model, inputs = {
            "mlp": lambda: (
                nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3)),
                torch.randn(40, 5),
            ),
            "cnn": lambda: (
                nn.Sequential(
                    *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
                    *(
                        nn.Conv2d(8, 6, 3),
                        nn.ReLU(),
                        nn.Flatten(),
                        nn.Linear(24, 7),
                        nn.ReLU(),
                        nn.Linear(7, 2),
                    ),
                ),
                torch.randn(20, 3, 10, 10),
            ),
            "residual": lambda: (Residual(), torch.randn(12, 3, 6, 6)),
            "dense": lambda: (Dense(), torch.randn(40, 4)),
            "attention": lambda: (Attention(), torch.randint(11, (20, 5))),
        }[kind]()
        model = model.double().eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                module.weight.data.uniform_(0.5, 2)
    return model, inputs.double() if inputs.is_floating_point() else inputs


def units_of(model: nn.Module, inputs: Tensor) -> units.Units:
    free = frozenset(name for name, _ in model.named_parameters())
    return units.trace(model, units.call_of(model, (inputs,), {}), free)


def planted(
    model: nn.Module, inputs: Tensor, *, seed: int = 0, scales: bool = False, noise: float = 0.0
) -> tuple[nn.Module, dict[int, assign.Exchange]]:
    """A copy whose units were exchanged at random (with scales and signs where they are free), plus weight noise."""
    source, groups = seeded(seed), units_of(model, inputs)
    exchanges = {}
    for group, size in groups.sizes.items():
        factor = np.ones(size)
        if scales and group in groups.positive:
            factor *= torch.randn(size, generator=source, dtype=torch.float64).exp().numpy()
        if scales and group in groups.signed:
            factor *= np.where(torch.rand(size, generator=source).numpy() < 0.5, -1.0, 1.0)
        exchanges[group] = assign.Exchange(torch.randperm(size, generator=source).numpy(), factor)
    twin = copy.deepcopy(model)
    tensors = {n: t.detach() for n, t in [*twin.named_parameters(), *twin.named_buffers()]}
    moved = assign.exchanged(groups, {n: t for n, t in tensors.items() if t.is_floating_point()}, exchanges)
    for name, tensor in moved.items():
        rough = noise * torch.randn(tensor.shape, generator=source, dtype=tensor.dtype)
        tensors[name].copy_(tensor + rough)
    return twin, exchanges


def fitted(model: nn.Module, inputs: Tensor) -> gt.Objective:
    """A regression on the model's own outputs: the loss is 0 at every twin, and only there."""
    with torch.no_grad():
        targets = model(inputs)
    return gt.Objective(model, functional.mse_loss, (inputs, targets))

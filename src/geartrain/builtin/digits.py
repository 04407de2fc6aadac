"""A small network on handwritten digits; it ends near 96 % on held-out digits."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from geartrain import datasets
from geartrain.builtin._metrics import accuracy
from geartrain.run import Run


def make_run(seed: int = 0, device: str = "cpu") -> Run:
    """64 pixels, 32 tanh units, ten classes: 2,410 parameters, momentum, 20 epochs of 16 steps.

    Args:
        seed: Seed of the initial weights and of the batches.
        device: Where to train.
    """
    return digits_run(learning_rate=0.05, name="digits", seed=seed, device=device)


def digits_run(learning_rate: float, name: str, seed: int, device: str) -> Run:
    """The same run with another step size."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10)).to(device)
    data = datasets.digits.load()
    return Run(
        model,
        functional.cross_entropy,
        torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=0.9),
        train=(data.train[0].to(device), data.train[1].to(device)),
        validation=(data.validation[0].to(device), data.validation[1].to(device)),
        epochs=20,
        batch_size=64,
        metric=accuracy,
        seed=seed,
        name=name,
    )

"""A small convolutional network on 4,000 images of MNIST; it ends near 95 % on 1,000 others."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from geartrain import datasets
from geartrain.builtin._metrics import accuracy
from geartrain.run import Run


def make_run(seed: int = 0, device: str = "cpu") -> Run:
    """Two strided convolutions, pooling and a linear layer: 4,130 parameters, Adam, 6 epochs of 63 steps.

    Args:
        seed: Seed of the initial weights and of the batches.
        device: Where to train.
    """
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 8, kernel_size=5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(8, 24, kernel_size=3, stride=2, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(24 * 3 * 3, 10),
    ).to(device)
    data = datasets.mnist.load()
    mean, deviation = data.train[0].mean(), data.train[0].std()
    return Run(
        model,
        functional.cross_entropy,
        torch.optim.Adam(model.parameters(), lr=2e-3),
        train=(((data.train[0] - mean) / deviation).to(device), data.train[1].to(device)),
        validation=(((data.validation[0] - mean) / deviation).to(device), data.validation[1].to(device)),
        epochs=6,
        batch_size=64,
        metric=accuracy,
        seed=seed,
        name="mnist",
    )

"""A small regression network; it explains about half of the variance, as much as there is to explain."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from geartrain import datasets
from geartrain.builtin._metrics import explained_variance
from geartrain.run import Run


def make_run(seed: int = 0, device: str = "cpu") -> Run:
    """Ten standardised measurements, 16 tanh units, one number: 193 parameters, 20 epochs of 11 steps.

    Args:
        seed: Seed of the initial weights and of the batches.
        device: Where to train.
    """
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 1)).to(device)
    data = datasets.diabetes.load()
    return Run(
        model,
        functional.mse_loss,
        torch.optim.SGD(model.parameters(), lr=5e-3, momentum=0.9, weight_decay=3e-2),
        train=(data.train[0].to(device), data.train[1].to(device)),
        validation=(data.validation[0].to(device), data.validation[1].to(device)),
        epochs=20,
        batch_size=32,
        metric=explained_variance,
        seed=seed,
        name="diabetes",
    )

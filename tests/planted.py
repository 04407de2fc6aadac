"""Nine runs on digits, eight of them with one known cause of failure each.

All share 1,024 digits, ``Linear(64, 16) - Tanh - Linear(16, 10)``, cross-entropy, momentum 0.9, step 0.03,
batch 64 and 30 epochs, but for what is planted. ``CAUSES`` says which mechanisms are a right answer.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional

from geartrain import datasets
from geartrain.run import Run

# Fault -> mechanisms that name its cause; the first is the one planted.
CAUSES: dict[str, tuple[str, ...]] = {
    "healthy": (),
    "lr 2": ("lr_too_high",),
    "lr 30": ("lr_too_high",),
    "lr 1e-5": ("lr_too_low",),
    "eight sigmoid layers": ("vanishing_gradients",),
    "dead relu": ("dead_relu",),
    "inputs scaled 1 to 1e-3": ("unnormalised_inputs", "ill_conditioned"),
    "batch 1": ("batch_too_small",),
    "random labels": ("label_noise",),
}
_STEPS = {"lr 2": 2.0, "lr 30": 30.0, "lr 1e-5": 1e-5}


def planted_run(fault: str, seed: int = 0) -> Run:
    """The run with that fault; the seed sets weights, batches and the random labels."""
    if fault not in CAUSES:
        raise KeyError(f"no planted run {fault!r}; there are {list(CAUSES)}")
    torch.manual_seed(seed)
    model = _model(fault)
    train, validation = _data(fault, seed)
    single = fault == "batch 1"
    return Run(
        model,
        functional.cross_entropy,
        torch.optim.SGD(model.parameters(), lr=_STEPS.get(fault, 0.03), momentum=0.9),
        train=train,
        validation=validation,
        # Four epochs of single examples are 4,096 steps, eight times as many as the healthy run takes.
        epochs=4 if single else 30,
        batch_size=1 if single else 64,
        metric=accuracy,
        seed=seed,
        name=fault,
    )


def accuracy(outputs: Tensor, targets: Tensor) -> float:
    return float((outputs.argmax(-1) == targets).float().mean())


def _model(fault: str) -> nn.Module:
    if fault == "eight sigmoid layers":
        widths = [64] + 8 * [16]
        layers: list[nn.Module] = []
        for fan_in, fan_out in itertools.pairwise(widths):
            layers += [nn.Linear(fan_in, fan_out), nn.Sigmoid()]
        return nn.Sequential(*layers, nn.Linear(16, 10))
    if fault == "dead relu":
        model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        with torch.no_grad():
            # No digit lifts a unit over a bias of -4; two units of 32 stay alive.
            model[0].bias[2:] = -4.0
        return model
    return nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))


def _data(fault: str, seed: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    (inputs, labels), (held_inputs, held_labels) = datasets.digits.load()
    if fault == "inputs scaled 1 to 1e-3":
        scales = torch.logspace(0, -3, 64)
        inputs, held_inputs = inputs * scales, held_inputs * scales
    if fault == "random labels":
        generator = torch.Generator().manual_seed(seed)
        labels = labels[torch.randperm(len(labels), generator=generator)]
        held_labels = held_labels[torch.randperm(len(held_labels), generator=generator)]
    return (inputs, labels), (held_inputs, held_labels)

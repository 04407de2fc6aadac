"""Hand-written training loops, to compare runs with; and pictures of everything that a run is made of."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, Dataset, TensorDataset

from geartrain.run import Run

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3, history_size=4),
}
SCHEDULERS = {
    "none": (None, False),
    "step": (lambda o: lr_scheduler.StepLR(o, 1, gamma=0.5), False),
    "cosine": (lambda o: lr_scheduler.CosineAnnealingLR(o, 3), False),
    "lambda": (lambda o: lr_scheduler.LambdaLR(o, lambda e: 1 / (1 + e)), False),
    "one cycle": (lambda o: lr_scheduler.OneCycleLR(o, 0.2, total_steps=60, cycle_momentum=False), True),
    "plateau": (lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0, threshold=10.0), False),
    "sequential": (
        lambda o: lr_scheduler.SequentialLR(
            o, [lr_scheduler.LinearLR(o, 0.1, total_iters=3), lr_scheduler.ExponentialLR(o, 0.9)], [3]
        ),
        True,
    ),
}
DATA = ("tensors", "dataset", "loader", "loader with generator", "augmenting loader", "callable")


class Augmented(Dataset):
    """Draws from the global generators of PyTorch, NumPy and Python."""

    def __init__(self, inputs, targets):
        self.inputs, self.targets = inputs, targets

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, i):
        noise = torch.randn(4) + np.random.randn() + random.random()  # noqa: NPY002
        return self.inputs[i] + 0.01 * noise, self.targets[i]


def examples(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(22, 4, generator=generator), torch.randint(3, (22,), generator=generator)


def data_of(kind: str) -> Any:
    inputs, targets = examples()
    if kind == "tensors":
        return inputs, targets
    if kind == "dataset":
        return TensorDataset(inputs, targets)
    if kind == "callable":
        return lambda epoch: [(inputs[i : i + 8] + torch.randn(4), targets[i : i + 8]) for i in (0, 8, 14)]
    generator = torch.Generator().manual_seed(5) if kind == "loader with generator" else None
    dataset = Augmented(inputs, targets) if kind == "augmenting loader" else TensorDataset(inputs, targets)
    return DataLoader(dataset, batch_size=8, shuffle=True, generator=generator)


def make_model(seed: int = 0) -> nn.Module:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(4, 6),
        nn.BatchNorm1d(6),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(6, 5),
        nn.Tanh(),
        nn.Linear(5, 3),
    )


def make_run(optimizer="momentum", scheduler="none", data="tensors", *, model=None, **options) -> Run:
    model = model or make_model()
    made = OPTIMIZERS[optimizer](model.parameters())
    schedule, per_step = SCHEDULERS[scheduler]
    settings = {"epochs": 6, "batch_size": 8, "validation": examples(1)} | options
    loss = None if "batch_loss" in settings else functional.cross_entropy
    return Run(
        model,
        loss,
        made,
        data_of(data),
        scheduler=schedule(made) if schedule else None,
        scheduler_per_step=per_step,
        **settings,
    )


def frozen(thing: Any) -> Any:
    """Anything as plain values that compare bit for bit."""
    if isinstance(thing, torch.Tensor):
        return (str(thing.dtype), tuple(thing.shape), thing.detach().contiguous().numpy().tobytes())
    if isinstance(thing, dict):
        return {k: frozen(v) for k, v in thing.items()}
    if isinstance(thing, (list, tuple)):
        return [frozen(v) for v in thing]
    if isinstance(thing, np.ndarray):
        return thing.tobytes()
    return thing


def picture(run: Run) -> dict[str, Any]:
    """Everything that decides how a run goes on."""
    model = run.model
    named = dict(model.named_parameters()) | dict(model.named_buffers())
    schedule = {} if run.scheduler is None else run.scheduler.state_dict()
    position = run.stream.position()
    return {
        "modules": [(n, id(m), m.training) for n, m in model.named_modules()],
        "tensors": {n: (id(t), frozen(t), t.requires_grad) for n, t in named.items()},
        "grads": {n: None if t.grad is None else frozen(t.grad) for n, t in named.items()},
        "optimizer": (id(run.optimizer), frozen(run.optimizer.state_dict())),
        "scheduler": (
            id(run.scheduler),
            frozen({k: v for k, v in schedule.items() if not k.startswith("_schedulers")}),
        ),
        "numbers": frozen([torch.get_rng_state(), random.getstate(), np.random.get_state()]),  # noqa: NPY002
        "position": (position.epoch, position.taken, [frozen(s) for _, s in position.own.torch]),
        "stream": {k: frozen(v) for k, v in position.settings.items()},
        "settings": (
            run.clip_grad_norm,
            run.zero_grad,
            run.training_mode,
            run.transform,
            run.loss_fn,
            run.batch_loss,
        ),
        "counts": (run.step_count, run.epochs_done, run.epochs),
        "history": (id(run.history), len(run.history), len(run.history.evaluations), run.history.failure),
    }


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    for key in before:
        assert before[key] == after[key], key


def trail(run: Run, steps: int) -> Any:
    """What a run does next, bit for bit: losses, and parameters after every step."""
    seen = []
    for _ in range(steps):
        run.advance(1)
        seen.append(
            (run.history.column("loss")[-1].hex(), frozen([p for p in run.model.parameters()]), run.lr)
        )
    return seen

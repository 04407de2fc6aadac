"""Runs whose steps are known in closed form, and one with everything that a measurement could disturb."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from geartrain.run import Run


def half_square(outputs: Tensor, targets: Tensor) -> Tensor:
    return 0.5 * ((outputs - targets) ** 2).mean()


def bowl_run(
    curvatures: Sequence[float],
    optimizer: Callable[[Any], torch.optim.Optimizer],
    start: Sequence[float] | None = None,
    **options: Any,
) -> Run:
    """Full-batch training on ½ Σ λ_i w_i² in double precision."""
    count = len(curvatures)
    inputs = torch.diag(torch.tensor(curvatures, dtype=torch.float64).mul(count).sqrt())
    model = nn.Linear(count, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([list(start) if start is not None else [1.0] * count]))
    options = {"batch_size": count, "shuffle": False, "epochs": 10**6, **options}
    data = (inputs, torch.zeros(count, 1, dtype=torch.float64))
    return Run(model, half_square, optimizer(model.parameters()), train=data, **options)


def sgd_bowl(
    curvatures: Sequence[float], lr: float, start: Sequence[float] | None = None, **options: Any
) -> Run:
    return bowl_run(curvatures, lambda p: torch.optim.SGD(p, lr=lr, **options), start)


def classifier(
    seed: int = 0,
    *,
    width: int = 8,
    lr: float = 0.1,
    batch_size: int = 16,
    model: nn.Module | None = None,
    **options: Any,
) -> Run:
    """A small network on three noisy classes in five dimensions."""
    torch.manual_seed(seed)
    labels = torch.arange(96) % 3
    inputs = torch.randn(96, 5) + 2.0 * torch.nn.functional.one_hot(labels, 5)
    model = model if model is not None else nn.Sequential(nn.Linear(5, width), nn.Tanh(), nn.Linear(width, 3))
    optimizer = options.pop("optimizer", None) or torch.optim.SGD(model.parameters(), lr=lr)
    options = {"epochs": 5, "validation": (inputs[:30] + 0.1, labels[:30]), "seed": seed, **options}
    return Run(
        model,
        nn.functional.cross_entropy,
        optimizer,
        train=(inputs, labels),
        batch_size=batch_size,
        **options,
    )


def fragile_run(seed: int = 0) -> Run:
    """Dropout, batch statistics, momentum, a schedule per step, clipping, a loader that draws its order globally."""
    torch.manual_seed(seed)
    inputs, labels = torch.randn(60, 4), torch.randint(0, 3, (60,))
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    data = torch.utils.data.TensorDataset(inputs, labels)
    return Run(
        model,
        nn.functional.cross_entropy,
        optimizer,
        train=torch.utils.data.DataLoader(data, batch_size=12, shuffle=True),
        validation=(inputs[:20], labels[:20]),
        epochs=20,
        scheduler=torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=50),
        scheduler_per_step=True,
        clip_grad_norm=0.5,
        seed=seed,
    )


def fingerprint(run: Run) -> list[Any]:
    """Everything that decides how the run goes on, as things that compare bit for bit."""
    tensors = [p.detach().clone() for p in run.model.parameters()] + [b.clone() for b in run.model.buffers()]
    tensors += [p.grad.clone() for p in run.model.parameters() if p.grad is not None]
    for parameter in run.model.parameters():
        state = run.optimizer.state.get(parameter, {})
        tensors += [
            v.clone() if isinstance(v, Tensor) else torch.tensor(v) for v in state.values() if v is not None
        ]
    rest = [[{k: v for k, v in g.items() if k != "params"} for g in run.optimizer.param_groups]]
    rest += [
        run.scheduler.state_dict() if run.scheduler else None,
        run.step_count,
        run.epochs_done,
        run.epochs,
    ]
    rest += [[m.training for m in run.model.modules()], [p.requires_grad for p in run.model.parameters()]]
    rest += [run.history.columns, run.history.evaluations, run.transform, run.zero_grad]
    rest += [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in run.model.modules()]
    return [repr(rest), torch.get_rng_state().tolist(), [t.tolist() for t in tensors]]

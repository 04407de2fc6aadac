"""One network, trained by itself in a plain loop with `torch.optim`: what every member of an ensemble must equal.

Nothing here is shared with the engines but the definition of what a member sees (its order, its label noise, its
dropout seeds) and when it stops.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

from geartrain._torch import batches as _batches
from geartrain._torch import flat, kernels, rng
from geartrain._torch.loss import call_model, check_scalar
from geartrain.ensemble import _streams
from geartrain.ensemble.averaging import Average
from geartrain.ensemble.batches import label_classes, positions, whole
from geartrain.ensemble.members import MakeModel, new_model
from geartrain.ensemble.optimizers import torch_optimizer
from geartrain.ensemble.settings import Settings, masks_of
from geartrain.ensemble.stopping import BELOW, NON_FINITE, PLATEAU, RUNNING, MemberStatus, status_of


@dataclass(frozen=True)
class Alone:
    """A network trained by itself.

    Attributes:
        model: The trained module.
        parameters: Its parameters, shape (params,).
        losses: Loss of each step's batch before the update, shape (steps,); NaN after the step at which it stopped.
        status: Where it stands.
        average: Averaged parameters, shape (params,), or ``None``.
    """

    model: nn.Module
    parameters: Tensor
    losses: Tensor
    status: MemberStatus
    average: Tensor | None


def alone(
    make_model: MakeModel,
    data: Any,
    *,
    loss: Callable[[Any, Any], Tensor],
    seed: int = 0,
    steps: int = 2000,
    mask: Any = None,
    initial: Any = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    **settings: Any,
) -> Alone:
    """Train one network as the member of that seed is trained, in a plain loop with `torch.optim`.

    Args:
        make_model: Makes the network, after ``torch.manual_seed(seed)``.
        data: ``(inputs, targets)``, a dataset or a loader.
        loss: ``loss(outputs, targets)``, the mean over the examples.
        seed: The member's seed.
        steps: Optimizer steps.
        mask: ``{name: 0/1 tensor}`` or a flat 0/1 tensor; masked parameters are zero and stay so.
        initial: State dict or flat parameters to begin from.
        dtype: Type to train in.
        device: Device to train on.
        **settings: ``optimizer``, ``lr``, ``batch_size``, ``weight_decay``, ``momentum``, ``betas``, ``eps``,
            ``alpha``, ``schedule``, ``clip_grad_norm``, ``average``, ``label_noise``, ``subset``, ``stop``, as for
            `train`, one value each.

    Returns:
        The network with its losses.

    Raises:
        InputError: A setting is out of range.

    >>> import geartrain as gt
    >>> x, y = torch.ones(4, 1), torch.zeros(4, 1)
    >>> lone = alone(lambda: nn.Linear(1, 1), (x, y), loss=nn.functional.mse_loss, optimizer="sgd", lr=0.25, steps=1)
    >>> bool(nn.functional.mse_loss(lone.model(x), y) < 1e-12)
    True
    """
    chosen = Settings.of([seed], steps=steps, **settings)
    place = None if device is None else torch.device(device)
    model = new_model(make_model, seed, dtype, place)
    parameters = flat.select(model, None)
    layout = flat.layout_of(parameters)
    _start(model, parameters, layout, initial)
    masks = masks_of(mask, layout, 1)
    masks = None if masks is None else layout.unflatten(masks[0].to(layout.dtype))
    tensors = list(parameters.values())
    if masks is not None:
        _apply(masks, tensors)
    inputs, targets = _examples(whole(data, tensors[0].device, dtype), chosen)
    rule = {name: float(value[0]) for name, value in chosen.rule.settings.items()}
    optimizer = torch_optimizer(chosen.rule.name, tensors, float(chosen.lr[0]), rule)
    average = _averaged(model, chosen.average)
    size = _batches.size_of((inputs, targets))
    batch = min(chosen.batch_size[0] or size, size)
    draws = kernels.draws_random_numbers(model)
    judge = _Judge(chosen)
    losses = torch.full((steps,), torch.nan, dtype=layout.dtype)
    taken, code = 0, RUNNING
    for t in range(steps):
        rows = positions(seed, size, batch, t, 1)[0].to(tensors[0].device)
        seen = (inputs, targets) if batch == size else _batches.take((inputs, targets), rows)
        optimizer.zero_grad()
        if draws:
            with rng.fixed(_streams.derived(seed, "dropout", t)):
                value = check_scalar(loss(call_model(model, seen[0]), seen[1]))
        else:
            value = check_scalar(loss(call_model(model, seen[0]), seen[1]))
        losses[t] = value.detach()
        code = judge(float(value.detach()))
        if code != RUNNING:
            break
        value.backward()
        if masks is not None:
            _apply(masks, [p.grad for p in tensors if p.grad is not None])
        if chosen.clip is not None and math.isfinite(float(chosen.clip[0])):
            torch.nn.utils.clip_grad_norm_(tensors, float(chosen.clip[0]))
        for group in optimizer.param_groups:
            group["lr"] = float(chosen.lr[0]) * float(chosen.schedule.factors(t, 1, 1))
        optimizer.step()
        taken += 1
        if average is not None and chosen.average is not None and _due(chosen.average, taken):
            average.update_parameters(model)
    return Alone(
        model=model,
        parameters=layout.flatten(p.detach() for p in tensors),
        losses=losses,
        status=status_of(code, taken),
        average=None if average is None else _read(average, layout),
    )


def _start(model: nn.Module, parameters: dict[str, nn.Parameter], layout: flat.Layout, initial: Any) -> None:
    if isinstance(initial, Tensor):
        with torch.no_grad():
            for p, value in zip(parameters.values(), layout.unflatten(initial.to(layout.dtype)), strict=True):
                p.copy_(value)
    elif initial is not None:
        model.load_state_dict(initial)


def _apply(masks: list[Tensor], tensors: list[Any]) -> None:
    with torch.no_grad():
        for tensor, mask in zip(tensors, masks, strict=True):
            tensor.mul_(mask.to(tensor.device))


def _examples(data: tuple[Any, Any], chosen: Settings) -> tuple[Any, Any]:
    inputs, targets = data
    classes = label_classes(targets, chosen.label_noise) if float(chosen.label_noise[0]) else 0
    if chosen.subset is not None:
        inputs, targets = _batches.take((inputs, targets), chosen.subset[0])
    rate = float(chosen.label_noise[0])
    if rate:
        targets = _streams.noisy_labels(targets.cpu(), chosen.seeds[0], rate, classes).to(targets.device)
    return inputs, targets


def _averaged(model: nn.Module, average: Average | None) -> AveragedModel | None:
    if average is None:
        return None
    return AveragedModel(model, avg_fn=get_ema_avg_fn(average.decay) if average.kind == "ema" else None)


def _due(average: Average, taken: int) -> bool:
    return average.terms_before(taken) > average.terms_before(taken - 1)


def _read(average: AveragedModel, layout: flat.Layout) -> Tensor:
    named = dict(average.module.named_parameters())
    return layout.flatten(named[name].detach() for name in layout.names)


class _Judge:
    """The stopping rule for one network."""

    def __init__(self, chosen: Settings) -> None:
        self.stop = chosen.stop
        self.below = -math.inf if chosen.below is None else float(chosen.below[0])
        self.best, self.since = math.inf, 0

    def __call__(self, loss: float) -> int:
        if not math.isfinite(loss):
            return NON_FINITE
        if loss <= self.below:
            return BELOW
        if loss < self.best - self.stop.min_change:
            self.best, self.since = loss, 0
        else:
            self.since += 1
        return PLATEAU if self.stop.plateau is not None and self.since >= self.stop.plateau else RUNNING

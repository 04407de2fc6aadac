"""What a fork of a run will do, read off while the run is that fork: or the reason why it must be made alone."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from geartrain._torch import batches as _batches
from geartrain._torch import flat, kernels
from geartrain._torch.flat import Layout
from geartrain._torch.loss import SupervisedLoss
from geartrain.ensemble.members import rest_of
from geartrain.run import Run
from geartrain.run.stream import Stream

_RULES = {
    torch.optim.SGD: "sgd",
    torch.optim.Adam: "adam",
    torch.optim.AdamW: "adamw",
    torch.optim.RMSprop: "rmsprop",
}
# Settings of torch's optimizers under which the rule of the ensemble is another one.
_OTHER_RULES = ("dampening", "maximize", "amsgrad", "centered")
_STATES = {
    "sgd": ("momentum_buffer",),
    "adam": ("exp_avg", "exp_avg_sq"),
    "adamw": ("exp_avg", "exp_avg_sq"),
    "rmsprop": ("square_avg", "momentum_buffer"),
}


class Alone(Exception):
    """This fork must be made alone; the message is the reason, one clause for people."""


@dataclass
class ForkPlan:
    """One fork that can be computed beside others.

    Attributes:
        template: A copy of the model as the fork has it, in the mode in which it trains.
        layout: Where each trained parameter lies in a row.
        row: Shape (params,).
        rest: Buffers and frozen parameters.
        rule: Name of the optimizer's rule.
        settings: Its settings, but for the step size.
        state: Its state, (params,) each; zeros where it has none yet.
        taken: Updates that the optimizer has taken.
        lr: Step size of every step.
        epoch_ends: Numbers of the steps after which an epoch ends.
        clip: Largest norm of the gradient, or ``None``.
        stream: Batches, at the fork's place.
        transform: Applied to every batch, or ``None``.
        loss_fn: Loss of outputs and targets.
        last_update: The update before the fork, for the first cosine; ``None`` if not known.
        step: Steps of the run so far.
        epochs_done: Epochs of the run so far.
    """

    template: nn.Module
    layout: Layout
    row: Tensor
    rest: dict[str, Tensor]
    rule: str
    settings: dict[str, float]
    state: dict[str, Tensor]
    taken: int
    lr: list[float]
    epoch_ends: tuple[int, ...]
    clip: float | None
    stream: Stream
    transform: Any
    loss_fn: Any
    last_update: Tensor | None
    step: int
    epochs_done: int

    @property
    def key(self) -> Any:
        """Forks with the same key are one computation: same architecture, rule, size of batches and loss."""
        shapes = (self.layout.names, self.layout.shapes, self.layout.dtypes, tuple(sorted(self.rest)))
        same = (str(self.template), self.rule, self.taken, self.epoch_ends, id(self.loss_fn))
        return (shapes, same, self.stream.batch_size, self.stream.taken)

    @property
    def order(self) -> Any:
        """Forks with the same order see the same batches."""
        return (self.stream.shuffle, self.stream.seed, self.stream.epoch, id(self.transform))

    def next_batch(self) -> Any:
        """The next batch of this fork, as its loss takes it."""
        batch = self.stream.next()
        if batch is None:  # the end of an epoch
            batch = self.stream.next()
        batch = _batches.to_device(batch, self.row.device)
        return batch if self.transform is None else self.transform(batch)


def plan(run: Run, steps: int) -> ForkPlan:
    """Read a fork off a run that is it at this moment; the run is left as it is, but for its scheduler.

    Raises:
        Alone: It cannot be computed beside others.
    """
    if run.user_step is not None:
        raise Alone("the run's own step(batch) is a program of its own")
    if not isinstance(run.batch_loss, SupervisedLoss) or run.stream.source is None:
        raise Alone("its loss is not a function of outputs and targets, or its data come from a loader")
    if not run.zero_grad:
        raise Alone("its gradients are never cleared")
    template = copy.deepcopy(run.model)
    if run.training_mode is not None:
        template.train(run.training_mode)
    if kernels.draws_random_numbers(template):
        raise Alone("dropout draws from the program's own random numbers")
    if any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in template.modules()):
        raise Alone("hooks on the model would not see one network at a time")
    trained = flat.select(run.model, None)
    layout = flat.layout_of(trained)
    rule, settings = _rule(run.optimizer, list(trained.values()))
    state, taken = _state(run.optimizer, rule, trained, layout)
    stream = Stream(
        run.train_data, batch_size=run.stream.batch_size, shuffle=run.stream.shuffle, seed=run.seed
    )
    stream.seek(run.stream.position())
    lr, ends = _schedule(run, steps)
    return ForkPlan(
        template=template,
        layout=layout,
        row=layout.flatten(p.detach() for p in trained.values()),
        rest={name: t.clone() for name, t in rest_of(run.model)},
        rule=rule,
        settings=settings,
        state=state,
        taken=taken,
        lr=lr,
        epoch_ends=ends,
        clip=run.clip_grad_norm,
        stream=stream,
        transform=run.transform,
        loss_fn=run.batch_loss.loss_fn,
        last_update=run.last_update,
        step=run.step_count,
        epochs_done=run.epochs_done,
    )


def _rule(optimizer: torch.optim.Optimizer, trained: Sequence[nn.Parameter]) -> tuple[str, dict[str, float]]:
    rule = _RULES.get(type(optimizer))
    if rule is None:
        raise Alone(f"{type(optimizer).__name__} has no rule for many networks")
    held = [p for group in optimizer.param_groups for p in group["params"]]
    if {id(p) for p in held} != {id(p) for p in trained}:
        raise Alone("the optimizer does not hold exactly the trained parameters")
    found = [_settings(rule, group) for group in optimizer.param_groups]
    rates = [group["lr"] for group in optimizer.param_groups]
    if any(other != found[0] for other in found) or len({float(r) for r in rates}) > 1:
        raise Alone("its groups of parameters have different settings")
    if any(group.get(name) for group in optimizer.param_groups for name in _OTHER_RULES):
        raise Alone(f"it uses one of {', '.join(_OTHER_RULES)}")
    return rule, found[0]


def _settings(rule: str, group: Mapping[str, Any]) -> dict[str, float]:
    settings = {"weight_decay": float(group["weight_decay"])}
    if rule == "sgd":
        return settings | {"momentum": float(group["momentum"]), "nesterov": float(group["nesterov"])}
    settings["eps"] = float(group["eps"])
    if rule == "rmsprop":
        return settings | {"momentum": float(group["momentum"]), "alpha": float(group["alpha"])}
    return settings | {"beta1": float(group["betas"][0]), "beta2": float(group["betas"][1])}


def _state(
    optimizer: torch.optim.Optimizer, rule: str, trained: Mapping[str, nn.Parameter], layout: Layout
) -> tuple[dict[str, Tensor], int]:
    states = [optimizer.state.get(p, {}) for p in trained.values()]
    counts = {int(float(s["step"])) for s in states if "step" in s} or {0}
    if len(counts) > 1 or len({"step" in s for s in states}) > 1:
        raise Alone("its parameters have been updated different numbers of times")
    kept = {}
    for name in _STATES[rule]:
        parts = [s.get(name) for s in states]
        filled = [
            torch.zeros_like(p) if part is None else part.detach()
            for p, part in zip(trained.values(), parts, strict=True)
        ]
        kept[name] = layout.flatten(filled)
    return kept, counts.pop()


def _schedule(run: Run, steps: int) -> tuple[list[float], tuple[int, ...]]:
    """Step sizes, and after which steps an epoch ends; the scheduler is walked through them (a fork restores it)."""
    scheduler, groups = run.scheduler, run.optimizer.param_groups
    if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
        raise Alone("its schedule depends on losses to come")
    assert run.stream.source is not None
    size, batch, taken = run.stream.source.size, run.stream.batch_size, run.stream.taken
    if taken >= size:
        raise Alone("it leaves from between two epochs")
    others = _settings_beside_lr(groups)
    rates, ends = [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # schedulers want to see optimizer.step() first
        for k in range(steps):
            rates.append(float(groups[0]["lr"]))
            taken += batch
            over = taken >= size
            if over:
                ends.append(k)
                taken = 0
            if scheduler is not None and (run.scheduler_per_step or over):
                scheduler.step()
            if scheduler is not None and (_settings_beside_lr(groups) != others or _split(groups)):
                raise Alone("its schedule changes more than one step size")
    return rates, tuple(ends)


def _settings_beside_lr(groups: Sequence[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    return [tuple(group.get(name) for name in ("momentum", "betas", "weight_decay")) for group in groups]


def _split(groups: Sequence[Mapping[str, Any]]) -> bool:
    return len({float(group["lr"]) for group in groups}) > 1

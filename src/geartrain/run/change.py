"""Changes: what a fork does differently. Data, so that equal changes are recognised and described in words."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from geartrain._torch.rng import seed_all
from geartrain.errors import InputError, UnsupportedError

if TYPE_CHECKING:
    from geartrain.run.run import Run


@dataclass(frozen=True)
class Change:
    """What a fork does differently from the run it leaves; ``None`` leaves a setting as it is.

    Attributes:
        lr: New step size for every parameter group.
        lr_factor: Multiplies the step size of every group (and what a scheduler bases its own on).
        batch_size: New batch size.
        batch_factor: Multiplies the batch size.
        optimizer: ``optimizer(parameters) -> torch.optim.Optimizer``, replaces the optimizer.
        momentum: New momentum (SGD) or beta1 (Adam).
        weight_decay: New weight decay.
        clip_grad_norm: Clip gradients to this norm; 0 switches clipping off.
        transform: ``transform(batch) -> batch``, applied to every training and validation batch.
        loss_fn: New ``loss_fn(outputs, targets)``.
        edit: ``edit(model)``: changes the model in place (a new head, re-drawn weights).
        head: Replaces the module of that name: ``(name, module)``.
        thaw: True makes every frozen parameter trainable; a name prefix, those below it.
        shuffle: Whether the training data are shuffled.
        zero_grad: Whether gradients are cleared before every step.
        keep_schedule: False freezes the step size where it is.
        seed: New data order, and new random numbers from here on.
        training_mode: Mode of the model while it trains (True: training mode).
        prepare: ``prepare(run)``: anything else, on the run in place; restored like all the rest.
    """

    lr: float | None = None
    lr_factor: float | None = None
    batch_size: int | None = None
    batch_factor: float | None = None
    optimizer: Callable[[Any], torch.optim.Optimizer] | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    clip_grad_norm: float | None = None
    transform: Callable[[Any], Any] | None = None
    loss_fn: Callable[[Any, Any], torch.Tensor] | None = None
    edit: Callable[[nn.Module], None] | None = None
    head: tuple[str, nn.Module] | None = None
    thaw: bool | str | None = None
    shuffle: bool | None = None
    zero_grad: bool | None = None
    keep_schedule: bool = True
    seed: int | None = None
    training_mode: bool | None = None
    prepare: Callable[[Run], None] | None = None

    def apply(self, run: Run) -> None:
        """Make the change on the run, in place; the run's checkpoint undoes it.

        Raises:
            InputError: A value that cannot be.
            UnsupportedError: The user's own ``step`` decides what was to be changed.
        """
        if self.seed is not None:
            seed_all(self.seed)
            run.stream.reseed(self.seed)
        self._edit_model(run)
        self._edit_optimizer(run)
        self._edit_data(run)
        if self.loss_fn is not None:
            _need_own_loop(run, "the loss")
            run.set_loss(self.loss_fn)
        if self.clip_grad_norm is not None:
            run.clip_grad_norm = self.clip_grad_norm or None
        if self.zero_grad is not None:
            if not self.zero_grad:
                _need_own_loop(run, "clearing of gradients")
            run.zero_grad = self.zero_grad
        if self.training_mode is not None:
            _need_own_loop(run, "the mode of the model")
            run.training_mode = self.training_mode
        if self.prepare is not None:
            self.prepare(run)

    def _edit_model(self, run: Run) -> None:
        there = {id(p) for p in run.model.parameters()}
        if self.head is not None:
            _replace_module(run.model, *self.head)
        if self.edit is not None:
            with torch.no_grad():
                self.edit(run.model)
        new = [p for p in run.model.parameters() if id(p) not in there]
        if self.thaw:
            prefix = "" if self.thaw is True else self.thaw
            thawed = [p for n, p in run.model.named_parameters() if n.startswith(prefix)]
            if not thawed:
                names = ", ".join(n for n, _ in run.model.named_parameters())
                raise InputError(
                    f"thaw={prefix!r} fits no parameter; allowed: True, or the start of one of: {names}."
                )
            for parameter in thawed:
                parameter.requires_grad_(True)
            new += thawed
        adopt_parameters(run.optimizer, new)

    def _edit_optimizer(self, run: Run) -> None:
        if self.optimizer is not None:
            _need_own_loop(run, "the optimizer")
            run.replace_optimizer(self.optimizer([p for p in run.model.parameters() if p.requires_grad]))
        if not self.keep_schedule:
            run.scheduler = None
        if self.lr is not None:
            _set_group(run, "lr", lambda _: self.lr)
            run.scheduler = None
        if self.lr_factor is not None:
            _set_group(run, "lr", lambda old: old * self.lr_factor)
            for group in run.optimizer.param_groups:
                # Cyclic schedules keep their corners in the groups.
                group.update(
                    {k: group[k] * self.lr_factor for k in ("initial_lr", "max_lr", "min_lr") if k in group}
                )
            scale_schedule(run.scheduler, self.lr_factor)
        if self.weight_decay is not None:
            _set_group(run, "weight_decay", lambda _: self.weight_decay)
        if self.momentum is not None:
            key = "betas" if "betas" in run.optimizer.param_groups[0] else "momentum"
            _set_group(run, key, lambda old: (self.momentum, old[1]) if key == "betas" else self.momentum)

    def _edit_data(self, run: Run) -> None:
        if self.batch_size is not None or self.batch_factor is not None:
            size = self.batch_size or round(run.stream.batch_size * (self.batch_factor or 1.0))
            run.stream.set_batch_size(max(1, min(size, run.stream.num_examples or size)))
        if self.shuffle is not None:
            run.stream.shuffle = self.shuffle
        if self.transform is not None:
            earlier = run.transform
            new = self.transform
            run.transform = new if earlier is None else lambda batch: new(earlier(batch))


def _set_group(run: Run, key: str, new: Callable[[Any], Any]) -> None:
    for group in run.optimizer.param_groups:
        if key not in group:
            raise UnsupportedError(
                f"{type(run.optimizer).__name__} has no {key!r}; this fork cannot be made."
            )
        group[key] = new(group[key])


def scale_schedule(scheduler: Any, factor: float) -> None:
    """Scale what a scheduler (and those inside it) computes step sizes from."""
    if scheduler is None:
        return
    for inner in getattr(scheduler, "_schedulers", []):
        scale_schedule(inner, factor)
    for key in ("base_lrs", "_last_lr", "max_lrs", "min_lrs"):
        if isinstance(getattr(scheduler, key, None), list):
            setattr(scheduler, key, [lr * factor for lr in getattr(scheduler, key)])
    if hasattr(scheduler, "eta_min"):
        scheduler.eta_min *= factor


def adopt_parameters(optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter]) -> None:
    """Hand parameters (of a new head, of thawed layers) to the optimizer's first group, unless it knows them.

    No new group: a scheduler counts the groups when it is made.

    Raises:
        UnsupportedError: The optimizer cannot take any more.
    """
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
    new = {id(p): p for p in parameters if p.requires_grad and id(p) not in known}
    if new and isinstance(optimizer, torch.optim.LBFGS):
        raise UnsupportedError(
            "LBFGS keeps one history over all parameters; it cannot take in new ones on a fork."
        )
    optimizer.param_groups[0]["params"].extend(new.values())


def _replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    try:
        old = model.get_submodule(name)
    except AttributeError:
        names = [n for n, _ in model.named_modules() if n]
        raise InputError(f"The model has no module named {name!r}; it has: {', '.join(names)}.") from None
    device = next((t.device for t in (*old.parameters(), *model.parameters())), None)
    setattr(model.get_submodule(parent), child, module.to(device))


def _need_own_loop(run: Run, what: str) -> None:
    if run.user_step is not None:
        raise UnsupportedError(
            f"{what[0].upper()}{what[1:]} cannot be changed on a fork: the run's own step(batch) decides it."
        )


def make_change(**changes: Any) -> Change:
    """A `Change` from keywords.

    Raises:
        InputError: A keyword is no setting that a fork can change.
    """
    known = [f.name for f in dataclasses.fields(Change)]
    for name in changes:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise InputError(f"A fork cannot change {name!r}; it can change: {', '.join(known)}.{hint}")
    return Change(**changes)

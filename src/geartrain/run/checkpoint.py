"""Checkpoints in memory: everything that decides how a run goes on, to be put back bit for bit."""

from __future__ import annotations

import contextlib
import copy
import signal
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from geartrain._torch.rng import RngState
from geartrain.run.stream import Position

if TYPE_CHECKING:
    from geartrain.run.run import Run


_CONTAINERS = (dict, OrderedDict, list, set)


@dataclass(frozen=True)
class ModuleState:
    """One module: all its attributes (children, parameters, buffers, hooks, mode, settings such as ``p``).

    Attributes:
        module: The module.
        attributes: What each attribute refers to.
        contents: Copies of those that are containers: they are refilled in place, because others hold on to them.
    """

    module: nn.Module
    attributes: dict[str, Any]
    contents: dict[str, Any]

    @staticmethod
    def of(module: nn.Module) -> ModuleState:
        """The present state of a module (not of its children; values of tensors are kept apart)."""
        attributes = dict(vars(module))
        contents = {k: copy.copy(v) for k, v in attributes.items() if type(v) in _CONTAINERS}
        return ModuleState(module, attributes, contents)

    def put(self) -> None:
        """Make it the present state again."""
        present = vars(self.module)
        present.update(self.attributes)
        for name in present.keys() - self.attributes.keys():
            del present[name]
        for name, content in self.contents.items():
            container = self.attributes[name]
            container.clear()
            (container.extend if isinstance(container, list) else container.update)(content)


@dataclass(frozen=True)
class TensorState:
    """One tensor: its value, its gradient, and whether it needs one."""

    tensor: Tensor
    value: Tensor
    grad: Tensor | None
    grad_value: Tensor | None
    requires_grad: bool

    def put(self) -> None:
        """Put all three back (inside `torch.no_grad`)."""
        if (self.tensor.shape, self.tensor.dtype) != (self.value.shape, self.value.dtype):
            self.tensor.data = self.value.clone()  # somebody replaced the storage by one of another kind
        self.tensor.copy_(self.value)
        if not self.tensor.is_leaf:
            return
        self.tensor.requires_grad_(self.requires_grad)
        if self.grad is not None and self.grad_value is not None:
            self.grad.copy_(self.grad_value)
        self.tensor.grad = self.grad


@dataclass(frozen=True)
class Checkpoint:
    """The whole state of a run at one step.

    Attributes:
        step: Optimizer steps taken before it.
        name: Name of the point, for people.
    """

    step: int
    name: str
    modules: tuple[ModuleState, ...]
    tensors: tuple[TensorState, ...]
    optimizer: Any
    optimizer_state: dict[str, Any]
    scheduler: Any
    scheduler_state: dict[str, Any] | None
    extra: tuple[tuple[Any, Any], ...]
    rng: RngState
    position: Position
    settings: dict[str, Any]
    rows: tuple[int, int]
    update: Tensor | None

    @property
    def nbytes(self) -> int:
        """Memory that it holds, in bytes (tensors only)."""
        total = sum(
            _nbytes(t.value) + (_nbytes(t.grad_value) if t.grad_value is not None else 0)
            for t in self.tensors
        )
        state = self.optimizer_state["state"].values()
        return total + sum(_nbytes(v) for entry in state for v in entry.values() if isinstance(v, Tensor))


def _nbytes(tensor: Tensor) -> int:
    """Memory of a tensor; of a sparse gradient (of an embedding), that of its entries."""
    if tensor.is_sparse:
        return tensor._indices().nbytes + tensor._values().nbytes
    return tensor.nbytes


SETTINGS = (
    "batch_loss",
    "loss_fn",
    "clip_grad_norm",
    "zero_grad",
    "training_mode",
    "transform",
    "user_step",
    "user_evaluate",
    "epochs_done",
    "epoch_loss",
    "stream",
    "train_data",
    "validation_data",
    "_probes",
)


def take(run: Run, name: str) -> Checkpoint:
    """Copy the state of a run. **Cost**: one copy of parameters, buffers, gradients and optimizer state."""
    roots = [run.model, *(m for m in (run.loss_fn, *run.extra_state) if isinstance(m, nn.Module))]
    modules = {id(m): m for root in roots for m in root.modules()}.values()
    others = [o for o in run.extra_state if not isinstance(o, nn.Module)]
    optimizers = [run.optimizer, *(o for o in others if isinstance(o, torch.optim.Optimizer))]
    return Checkpoint(
        step=run.step_count,
        name=name,
        modules=tuple(ModuleState.of(m) for m in modules),
        tensors=tuple(_tensor_states(modules, optimizers)),
        optimizer=run.optimizer,
        optimizer_state=_optimizer_state(run.optimizer),
        scheduler=run.scheduler,
        scheduler_state=copy.deepcopy(run.scheduler.state_dict()) if run.scheduler is not None else None,
        extra=tuple((o, _state_of(o)) for o in others),
        rng=RngState.take(),
        position=run.stream.position(),
        settings={key: getattr(run, key) for key in SETTINGS},
        rows=(len(run.history), len(run.history.evaluations)),
        update=run.last_update,
    )


def put(run: Run, checkpoint: Checkpoint) -> None:
    """Put the state back: the same objects, with the same values, bit for bit; Ctrl-C waits until that is done."""
    with _uninterrupted():
        _put(run, checkpoint)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Put Ctrl-C off to the end of the block: a program must not be left half restored."""
    earlier = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or earlier is None:
        yield
        return
    pending: list[Any] = []
    signal.signal(signal.SIGINT, lambda *arguments: pending.append(arguments))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, earlier)
        if pending and callable(earlier):
            earlier(*pending[0])


def _put(run: Run, checkpoint: Checkpoint) -> None:
    for state in checkpoint.modules:
        state.put()
    with torch.no_grad():
        for saved in checkpoint.tensors:
            saved.put()
    run.optimizer = checkpoint.optimizer
    _restore_optimizer(run.optimizer, checkpoint.optimizer_state)
    run.scheduler = checkpoint.scheduler
    if run.scheduler is not None:
        run.scheduler.load_state_dict(copy.deepcopy(checkpoint.scheduler_state))
    for thing, state in checkpoint.extra:
        if isinstance(thing, torch.optim.Optimizer):
            _restore_optimizer(thing, state)
        else:
            thing.load_state_dict(copy.deepcopy(state))
    for key, value in checkpoint.settings.items():
        setattr(run, key, value)
    run.step_count = checkpoint.step
    run.history = run.history.truncated(*checkpoint.rows)
    run.stream.seek(checkpoint.position)
    watch = run.watch_optimizer()
    watch.update, watch.also_after = checkpoint.update, None
    checkpoint.rng.put()  # last: reading a loader again has drawn numbers


def _tensor_states(
    modules: Iterable[nn.Module], optimizers: Iterable[torch.optim.Optimizer]
) -> Iterable[TensorState]:
    held = [t for m in modules for t in (*m._parameters.values(), *m._buffers.values()) if t is not None]
    held += [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    for tensor in {id(t): t for t in held}.values():
        grad = tensor.grad if tensor.is_leaf else None
        value = None if grad is None else grad.detach().clone()
        yield TensorState(tensor, tensor.detach().clone(), grad, value, tensor.requires_grad)


def _state_of(thing: Any) -> Any:
    return (
        _optimizer_state(thing)
        if isinstance(thing, torch.optim.Optimizer)
        else copy.deepcopy(thing.state_dict())
    )


def _clone(thing: Any) -> Any:
    return tree_map(lambda t: t.detach().clone() if isinstance(t, Tensor) else copy.copy(t), thing)


def _optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Like ``state_dict`` but keyed by the parameters themselves and without casting anything."""
    groups = [{k: v if k == "params" else _clone(v) for k, v in g.items()} for g in optimizer.param_groups]
    groups = [{**g, "params": list(g["params"])} for g in groups]
    return {"state": {p: _clone(dict(entry)) for p, entry in optimizer.state.items()}, "groups": groups}


def _restore_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    optimizer.state.clear()
    for parameter, entry in saved["state"].items():
        optimizer.state[parameter] = _clone(entry)
    # The group dicts are edited in place: schedulers and user code may hold on to them.
    del optimizer.param_groups[len(saved["groups"]) :]
    optimizer.param_groups.extend({} for _ in range(len(saved["groups"]) - len(optimizer.param_groups)))
    for group, old in zip(optimizer.param_groups, saved["groups"], strict=True):
        group.clear()
        group.update({k: list(v) if k == "params" else _clone(v) for k, v in old.items()})

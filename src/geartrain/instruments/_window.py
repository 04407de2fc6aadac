"""A few further training steps in full detail, taken on the run itself and undone exactly.

Many instruments ask about the same steps, so the last window of every run is kept, for as long as the run lives
and stands where it stood. The step size stays what it is within a window: a schedule's next move is not what the
instruments ask about.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from geartrain._torch import batches as _batches
from geartrain._torch import flat, kernels, rng
from geartrain._torch.loss import SupervisedLoss, call_model
from geartrain.budget import Budget, Clock
from geartrain.instruments import _outputs
from geartrain.records import Cost
from geartrain.run import History, Run

STEPS = 16
_PROBE = 256


@dataclass(frozen=True)
class Step:
    """One training step. What could not be had is NaN.

    Attributes:
        loss_before: Loss of the step's batch before it, in the mode and with the random numbers of the step.
        loss_after: The same after it.
        slope_before: Derivative of that loss along the update, before the step.
        slope_after: The same after it.
        updated: Whether the optimizer took a step (it may only have gathered gradients).
        used_norm: Norm of the gradient that the optimizer saw (before clipping).
        fresh_norm: Norm of the gradient of the loss of the batches since the last optimizer step, computed anew.
        fidelity: Cosine between the two.
        leftover_norm: Norm of the gradient that lay in the parameters before the step.
        accumulation: Cosine between the gradient used and (leftover + fresh).
        fresh_error: ‖used - fresh‖ / ‖used‖.
        sum_error: ‖used - leftover - fresh‖ / ‖used‖: 0 if nothing was cleared.
        function_change: Mean KL of the outputs' distributions (or relative squared change) that the step made.
    """

    loss_before: float = float("nan")
    loss_after: float = float("nan")
    slope_before: float = float("nan")
    slope_after: float = float("nan")
    updated: bool = True
    used_norm: float = float("nan")
    fresh_norm: float = float("nan")
    fidelity: float = float("nan")
    leftover_norm: float = float("nan")
    accumulation: float = float("nan")
    fresh_error: float = float("nan")
    sum_error: float = float("nan")
    function_change: float = float("nan")


@dataclass(frozen=True)
class Window:
    """Successive steps.

    Attributes:
        steps: One entry per training step.
        updates: Change of the parameters in each, shape (steps, params).
        layers: Names of the modules that own parameters.
        layer_updates: Norm of each step's change by module, shape (steps, layers).
        layer_weights: Norm of the weights before it, likewise.
        layout: Order of the parameters in ``updates``.
        start: Parameters at the start, shape (params,).
        classes: Whether the function change is a KL divergence; ``None`` if it could not be had.
        failure: Why it ended early, as a sentence, or ``None``.
    """

    steps: tuple[Step, ...]
    updates: Tensor
    layers: tuple[str, ...]
    layer_updates: np.ndarray
    layer_weights: np.ndarray
    layout: flat.Layout
    start: Tensor
    classes: bool | None
    failure: str | None

    def column(self, name: str) -> np.ndarray:
        """One field of every step, shape (steps,)."""
        return np.array([getattr(step, name) for step in self.steps], dtype=float)

    def norms(self) -> np.ndarray:
        """Norms of the updates, shape (steps,)."""
        return torch.linalg.vector_norm(self.updates.double(), dim=1).cpu().numpy()

    def __len__(self) -> int:
        return len(self.steps)


def price(run: Any, *, steps: int = STEPS, **options: Any) -> Cost:
    """What a window costs: three gradients and a forward pass on a probe per step."""
    params = sum(p.numel() for p in run.model.parameters())
    return Cost(forwards=steps, gradients=3 * steps, peak_bytes=4 * params * (steps + 8))


def of(run: Run, steps: int, given: Window | None, budget: Budget | int | str | None) -> Window:
    """The window that an instrument works on: the one handed to it, or one of its own within the budget."""
    return given if given is not None else window(run, steps, clock=Budget.of(budget).start())


# Kept on the run itself: it dies with the run even though the key refers to the user's functions.
_KEPT = "_kept_window"


def window(run: Run, steps: int = STEPS, *, clock: Clock | None = None) -> Window:
    """Take ``steps`` further training steps, note everything about them, and put the run back.

    Args:
        run: The run; it is afterwards as it was, bit for bit.
        steps: How many.
        clock: Ends it early.

    Returns:
        The window; shorter if the clock ran out, the run broke, or there were no batches left.
    """
    key = (steps, *_state_of(run))
    kept = run.__dict__.get(_KEPT)
    if kept is not None and _same(kept, key, run):
        return kept[1]
    with run.preserved():
        recorder = _Recorder(run)
        with recorder.listening():
            for _ in range(steps):
                if (
                    clock is not None and clock.deadline is not None and clock.exhausted()
                ) or recorder.broken:
                    break
                recorder.step()
        taken = recorder.window()
    if len(taken) == steps or taken.failure is not None:
        run.__dict__[_KEPT] = (key, taken)
    return taken


def next_batch(run: Run) -> Any:
    """The next training batch, as the step gets it before ``run.transform``; epochs end without an evaluation."""
    batch = run.stream.next()
    while batch is None:
        run.epochs_done += 1
        batch = run.stream.next()
    return _batches.to_device(batch, run.device)


def _same(kept: tuple[Any, Window], key: Any, run: Run) -> bool:
    parameters = flat.select(run.model, None)
    layout = flat.layout_of(parameters)
    if kept[0] != key or layout != kept[1].layout:
        return False
    return torch.equal(kept[1].start, layout.flatten(p.detach() for p in parameters.values()))


def _state_of(run: Run) -> tuple[Any, ...]:
    """Everything but the parameters that decides the next steps, in few numbers.

    Versions and identities of tensors would be cheaper, but every restored fork changes the former.
    """
    groups = [{k: v for k, v in g.items() if k != "params"} for g in run.optimizer.param_groups]
    held = [t for entry in run.optimizer.state.values() for t in entry.values() if isinstance(t, Tensor)]
    held += [b for b in run.model.buffers() if b.is_floating_point()]
    held += [p.grad for p in run.model.parameters() if p.grad is not None]
    sums = tuple(float(t.detach().double().sum()) for t in held)
    settings = (
        run.clip_grad_norm,
        run.zero_grad,
        run.training_mode,
        run.transform,
        run.user_step,
        run.batch_loss,
    )
    stream = (run.stream.epoch, run.stream.taken, run.stream.batch_size, run.stream.shuffle, run.stream.seed)
    return (run.step_count, id(run.optimizer), repr(groups), repr(sums), settings, stream)


@dataclass
class _Recorder:
    """Takes the steps of a window on a run that somebody else puts back."""

    run: Run
    records: list[Step] = field(default_factory=list)
    updates: list[Tensor] = field(default_factory=list)
    norms: list[tuple[list[float], list[float]]] = field(default_factory=list)
    failure: str | None = None
    classes: bool | None = None

    def __post_init__(self) -> None:
        run = self.run
        run.scheduler, run.history = None, History()
        self.parameters = flat.select(run.model, None)
        self.layout = flat.layout_of(self.parameters)
        self.layers = _by_module(self.layout)
        self.watch = run.watch_optimizer()
        self.owned = self._owned_by_optimizer()
        self.probe = self._read_probe()
        # From here on the batches are transformed here, so that they are known.
        self.transform, run.transform = run.transform, None
        self.start = self.flat_parameters()
        self.outputs = self._probe_outputs()
        self.pending: Tensor | None = None
        self.gathering = False
        self.scene: _Scene | None = None

    @property
    def broken(self) -> bool:
        return self.failure is not None

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Note the modes and the random state at the first call of the model in every step."""
        handle = self.run.model.register_forward_pre_hook(self._note_scene)
        try:
            yield
        finally:
            handle.remove()
            self.watch.detail = None

    def _note_scene(self, module: nn.Module, args: Any) -> None:
        if self.scene is None:
            self.scene = _Scene.of(self.run.model)

    # ------------------------------------------------------------------ one step

    def step(self) -> None:
        """Take one step and note it; a step that breaks ends the window."""
        batch = next_batch(self.run)
        batch = self.transform(batch) if self.transform is not None else batch
        before, leftover = self.flat_parameters(), self.flat_gradients()
        self.watch.detail, self.scene = {}, None
        fallback = _Scene.of(self.run.model)
        self.run._step(batch, self.watch)
        scene, after = self.scene or fallback, self.flat_parameters()
        update, used = after - before, self.watch.detail.get("gradient")
        if self.run.history.failure is not None or not bool(torch.isfinite(update).all()):
            self.failure = (
                f"The run broke in the window: {self.run.history.failure or 'the update is not finite'}."
            )
            return
        record = self._measured(scene, batch, before, after, update)
        record = self._compared(record, used, leftover)
        record = replace(record, updated=used is not None, function_change=self._function_change())
        self._keep(record, update, before)

    def _measured(self, scene: _Scene, batch: Any, before: Tensor, after: Tensor, update: Tensor) -> Step:
        """Losses and slopes of the batch at both ends, and the fresh gradient since the last optimizer step."""
        if self.run.batch_loss is None:
            return Step()
        with self._aside(scene):
            loss_after, gradient_after = self._loss_and_gradient(scene, batch)
            self.put_parameters(before)
            loss_before, gradient_before = self._loss_and_gradient(scene, batch)
        self.put_parameters(after)
        self.pending = gradient_before if self.pending is None else self.pending + gradient_before
        first, last = (float(g.double() @ update.double()) for g in (gradient_before, gradient_after))
        return Step(loss_before, loss_after, first, last)

    def _compared(self, record: Step, used: Tensor | None, leftover: Tensor) -> Step:
        """The gradient used beside the fresh one, and beside what it would be if nothing had been cleared."""
        fresh = self.pending
        if used is None:
            self.gathering = True
            return record
        self.pending = None
        # What the optimizer does not own it does not use, and its zero_grad does not clear: no matter for either.
        used, leftover = used * self.owned, leftover * self.owned
        fresh = None if fresh is None else fresh * self.owned
        norms = {"used_norm": _norm(used), "leftover_norm": _norm(leftover)}
        # The first optimizer step may hold batches from before the window.
        if fresh is None or (self.gathering and not any(s.updated for s in self.records)):
            return replace(record, **norms)
        size = max(norms["used_norm"], torch.finfo(used.dtype).tiny)
        record = replace(
            record,
            **norms,
            fresh_norm=_norm(fresh),
            fidelity=_cosine(used, fresh),
            fresh_error=_norm(used - fresh) / size,
        )
        if self.gathering:
            return record  # what is left over is meant to stay
        summed = leftover + fresh
        return replace(record, accumulation=_cosine(used, summed), sum_error=_norm(used - summed) / size)

    def _keep(self, record: Step, update: Tensor, before: Tensor) -> None:
        squares = [(t**2).double() for t in (update, before)]
        norms = [
            [float(sum(s[p].sum() for p in places)) ** 0.5 for places in self.layers.values()]
            for s in squares
        ]
        self.norms.append((norms[0], norms[1]))
        self.records.append(record)
        self.updates.append(update)

    def window(self) -> Window:
        """What was noted."""
        shape = (len(self.records), len(self.layers))
        empty = self.start.new_zeros((0, self.layout.num_params))
        return Window(
            steps=tuple(self.records),
            updates=torch.stack(self.updates) if self.updates else empty,
            layers=tuple(self.layers),
            layer_updates=np.array([n[0] for n in self.norms]).reshape(shape),
            layer_weights=np.array([n[1] for n in self.norms]).reshape(shape),
            layout=self.layout,
            start=self.start,
            classes=self.classes,
            failure=self.failure,
        )

    # ------------------------------------------------------------------ parameters and gradients

    def flat_parameters(self) -> Tensor:
        """A copy."""
        return self.layout.flatten(p.detach() for p in self.parameters.values())

    def flat_gradients(self) -> Tensor:
        """What lies in ``.grad``, zeros where nothing does."""
        grads = (torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters.values())
        return self.layout.flatten(g.detach() for g in grads)

    def _owned_by_optimizer(self) -> Tensor:
        """1 for the parameters that the optimizer was given, else 0."""
        known = {id(p) for group in self.run.optimizer.param_groups for p in group["params"]}
        return self.layout.flatten(torch.full_like(p, id(p) in known) for p in self.parameters.values())

    @torch.no_grad()
    def put_parameters(self, vector: Tensor) -> None:
        """Write a flat vector into the model."""
        for parameter, value in zip(self.parameters.values(), self.layout.unflatten(vector), strict=True):
            parameter.copy_(value)

    @contextlib.contextmanager
    def _aside(self, scene: _Scene) -> Iterator[None]:
        """Random numbers, modes, buffers and statistics are afterwards as the step left them."""
        buffers = [(b, b.detach().clone()) for b in self.run.model.buffers()]
        present = _Scene.of(self.run.model)
        for module, flag in scene.modes:
            module.training = flag
        try:
            yield
        finally:
            for module, flag in present.modes:
                module.training = flag
            with torch.no_grad():
                for buffer, value in buffers:
                    buffer.copy_(value)
            present.random.put()

    def _loss_and_gradient(self, scene: _Scene, batch: Any) -> tuple[float, Tensor]:
        scene.random.put()
        variables = list(self.parameters.values())
        with torch.enable_grad():
            loss = self.run.batch_loss(self.run.model, batch)  # type: ignore[misc]
            parts = torch.autograd.grad(loss, variables, allow_unused=True, materialize_grads=True)
        self.run.work = self.run.work + Cost(gradients=1)
        return float(loss.detach().double()), self.layout.flatten(p.detach() for p in parts)

    # ------------------------------------------------------------------ outputs on a probe

    def _read_probe(self) -> Any:
        if not isinstance(self.run.batch_loss, SupervisedLoss):
            return None
        return self.run.probe("train", _PROBE)

    def _probe_outputs(self) -> Tensor | None:
        if self.probe is None:
            return None
        with rng.preserved(), kernels.mode(self.run.model, False), torch.no_grad():
            outputs = call_model(self.run.model, self.probe[0])
        self.run.work = self.run.work + Cost(forwards=1)
        return outputs.detach().clone() if isinstance(outputs, Tensor) else None

    def _function_change(self) -> float:
        old = self.outputs
        if old is None or self.probe is None:
            return float("nan")
        self.outputs = new = self._probe_outputs()
        assert new is not None
        axis = _outputs.class_axis(old, self.probe[1])
        self.classes = axis is not None or _outputs.is_bernoulli(self.run.loss_fn)
        if self.classes:
            return _outputs.kullback_leibler(old, new, axis)
        return _outputs.squared_change(old, new)


@dataclass(frozen=True)
class _Scene:
    """Modes of all modules and the states of all generators at one moment."""

    modes: tuple[tuple[nn.Module, bool], ...]
    random: rng.RngState

    @staticmethod
    def of(model: nn.Module) -> _Scene:
        return _Scene(tuple((m, m.training) for m in model.modules()), rng.RngState.take())


def _by_module(layout: flat.Layout) -> dict[str, list[slice]]:
    groups: dict[str, list[slice]] = {}
    for name, place in layout.slices().items():
        groups.setdefault(name.rpartition(".")[0], []).append(place)
    return groups


def _norm(vector: Tensor) -> float:
    return float(torch.linalg.vector_norm(vector.double()))


def _cosine(a: Tensor, b: Tensor) -> float:
    scale = _norm(a) * _norm(b)
    return float(a.double() @ b.double()) / scale if scale > 0 else float("nan")

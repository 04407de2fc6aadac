"""The Run: an objective plus the way it is trained."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from geartrain._torch import batches as _batches
from geartrain._torch import kernels, rng
from geartrain._torch.loss import Loss, SupervisedLoss, call_model, check_scalar, loss_of
from geartrain.errors import InputError, NonFiniteError, UnsupportedError
from geartrain.objective import Objective
from geartrain.records import Cost
from geartrain.run import checkpoint as _checkpoint
from geartrain.run.change import Change, make_change
from geartrain.run.checkpoint import Checkpoint
from geartrain.run.checks import check_parts
from geartrain.run.faults import failure_of
from geartrain.run.history import History
from geartrain.run.stream import Stream, first_batches
from geartrain.run.watch import OptimizerWatch

PROBE = 512
"""Examples in a probe, unless a run is told otherwise."""


@dataclass(frozen=True)
class Branch:
    """What a fork did, beside nothing: see `ForkResult` for the comparison with the original.

    Attributes:
        steps: Steps at which the probe was evaluated, counted from the start of the run.
        losses: Loss of every probe chunk there, shape (points, chunks).
        validation: The same on the validation probe, shape (points, chunks), or ``None``.
        history: Columns of the fork's own steps.
        taken: Steps taken.
        seconds: Wall-clock seconds.
        complete: False when the deadline ended it.
    """

    # Left out of repr: in a notebook they would bury what can be read.
    steps: np.ndarray = field(repr=False)
    losses: np.ndarray = field(repr=False)
    validation: np.ndarray | None = field(repr=False)
    history: History = field(repr=False)
    taken: int
    seconds: float
    complete: bool


class Run:
    """A training run that can be executed, watched, checkpointed, forked and restored bit for bit.

    Args:
        model: The model.
        loss_fn: ``loss_fn(outputs, targets) -> scalar``, the mean over the examples.
        optimizer: An optimizer over the model's parameters.
        train: ``(inputs, targets)``, a dataset, a loader, or ``epoch -> iterable of batches``.
        validation: Data to evaluate on, in the same forms; optional.
        epochs: How many epochs the run lasts.
        batch_size: For tensors and datasets (a loader brings its own).
        shuffle: For tensors and datasets.
        scheduler: A learning-rate scheduler, stepped after every epoch.
        scheduler_per_step: Step the scheduler after every optimizer step instead.
        clip_grad_norm: Clip the gradient to this norm.
        metric: ``metric(outputs, targets) -> float``, higher is better.
        step: The user's own ``step(batch) -> loss``: clears gradients, goes backward, steps the optimizer.
        evaluate: The user's own ``evaluate() -> float`` (a loss).
        batch_loss: ``batch_loss(model, batch) -> scalar`` instead of ``loss_fn``.
        extra_state: Further objects with ``state_dict`` that the user's step changes (a gradient scaler, a second
            model); checkpoints include them.
        zero_grad: Whether gradients are cleared before every step.
        seed: Decides the order of tensors and datasets.
        name: For reports.

    Attributes:
        history: What has been recorded so far.
        step_count: Optimizer steps taken.
        probe_size: Examples in the fixed probes on which forks and the original are compared.
        origin: State before the first step, kept so that a run can be compared with it, or diagnosed when it is over.

    Raises:
        InputError: Something does not fit; the message says what to do.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Loss | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        train: Any = None,
        validation: Any = None,
        *,
        epochs: int = 20,
        batch_size: int = 64,
        shuffle: bool = True,
        scheduler: Any = None,
        scheduler_per_step: bool = False,
        clip_grad_norm: float | None = None,
        metric: Callable[[Any, Any], Any] | None = None,
        step: Callable[[Any], Any] | None = None,
        evaluate: Callable[[], Any] | None = None,
        batch_loss: _batches.BatchLoss | None = None,
        extra_state: Sequence[Any] = (),
        zero_grad: bool = True,
        seed: int = 0,
        name: str | None = None,
    ) -> None:
        check_parts(model, optimizer, train, epochs)
        assert optimizer is not None
        self.model = model
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.scheduler_per_step = scheduler_per_step
        self.loss_fn = loss_fn
        self.batch_loss = self._loss(model, loss_fn, batch_loss, train, step)
        self.train_data, self.validation_data = train, validation
        self.stream = Stream(train, batch_size=batch_size, shuffle=shuffle, seed=seed)
        self.epochs = epochs
        self.clip_grad_norm = clip_grad_norm
        self.metric = metric
        self.user_step, self.user_evaluate = step, evaluate
        self.extra_state = tuple(extra_state)
        # With her own step, clearing is hers; a fork may insist on it.
        self.zero_grad: bool | None = zero_grad if step is None else None
        self.seed = seed
        self.name = name or type(model).__name__
        self.training_mode: bool | None = True
        self.transform: Callable[[Any], Any] | None = None
        self.step_count = 0
        self.epochs_done = 0
        self.epoch_loss = (0.0, 0)  # sum and number of the batch losses of this epoch
        self.history = History()
        self.work = Cost()
        self.probe_size = PROBE
        self.origin: Checkpoint | None = None
        self._probes: dict[str, Any] = {}
        self._watch: OptimizerWatch | None = None
        if validation is not None and _batches.is_whole(validation):
            _batches.check_lengths(validation, "validation data")
            _batches.check_finite(validation, "validation data")

    @staticmethod
    def _loss(model: Any, loss_fn: Any, batch_loss: Any, train: Any, step: Any) -> _batches.BatchLoss | None:
        if step is not None and loss_fn is None and batch_loss is None:
            return None  # her own step is enough to train; instruments that need the loss will say so
        data = train if _batches.is_whole(train) else None
        return loss_of(model, loss_fn, batch_loss, data)

    # ------------------------------------------------------------------ training

    def train(self, *, progress: Callable[[int, int | None], None] | None = None) -> History:
        """Execute the whole run on the model, as declared, and return its history.

        Args:
            progress: Called as ``progress(steps taken, steps in all or None)`` after every step.

        Returns:
            The history; ``history.failure`` says when and where the loss stopped being finite, if it did.
        """
        while not self.over:
            self.advance(1)
            if progress:
                progress(self.step_count, self.total_steps)
        return self.history

    def advance(self, steps: int, *, deadline: float | None = None) -> int:
        """Take that many optimizer steps (fewer if the run ends, breaks, or time is over); returns how many.

        Args:
            steps: How many; the run may go on beyond its declared epochs.
            deadline: Stop when `time.perf_counter` passes it.

        Returns:
            Steps taken.
        """
        if self.step_count == 0 and self.origin is None:
            self.origin = self.checkpoint("start")
        watch = self.watch_optimizer()
        taken = 0
        while taken < steps and self.history.failure is None:
            if deadline is not None and taken and time.perf_counter() >= deadline:
                break
            batch = self.stream.next()
            if batch is None:
                self._close_epoch()
                if self.epochs_done >= self.epochs:
                    break
                continue
            self._step(batch, watch)
            taken += 1
        if self._epoch_is_over() and self.history.failure is None:
            # The last step of an epoch and its evaluation belong together.
            self.stream.next()
            self._close_epoch()
        return taken

    def _epoch_is_over(self) -> bool:
        source = self.stream.source
        return source is not None and self.stream.taken >= source.size

    def _step(self, batch: Any, watch: OptimizerWatch) -> None:
        batch = _batches.to_device(batch, self.device)
        if self.transform is not None:
            batch = self.transform(batch)
        watch.begin(self.clip_grad_norm)
        loss = self._own_step(batch, watch) if self.user_step is None else self._her_step(batch)
        if self.scheduler is not None and self.scheduler_per_step:
            self.scheduler.step()
        self.history.add(self.step_count, loss=loss, **watch.row)
        self.step_count += 1
        self.epoch_loss = (self.epoch_loss[0] + loss, self.epoch_loss[1] + 1)
        self.work = self.work + Cost(gradients=1)
        if not np.isfinite(loss):
            self.history.failure = failure_of(self, "loss", batch, watch.before)
        elif np.isinf(norm := watch.row.get("grad_norm", 0.0)) or norm != norm:
            self.history.failure = failure_of(self, "gradient", batch, watch.before)

    def _own_step(self, batch: Any, watch: OptimizerWatch) -> float:
        assert self.batch_loss is not None
        if self.training_mode is not None and self.model.training != self.training_mode:
            self.model.train(self.training_mode)

        def closure() -> Tensor:
            if self.zero_grad:
                self.optimizer.zero_grad(set_to_none=True)
            loss = check_scalar(self.batch_loss(self.model, batch))  # type: ignore[misc]
            loss.backward()
            watch.gradients_ready()
            return loss

        if isinstance(self.optimizer, torch.optim.LBFGS):
            return float(self.optimizer.step(closure).detach())  # type: ignore[arg-type, union-attr]
        loss = float(closure().detach())
        if np.isfinite(loss):  # else the parameters stay where the fault can still be found
            self.optimizer.step()
        return loss

    def _her_step(self, batch: Any) -> float:
        assert self.user_step is not None
        if self.zero_grad:
            self.optimizer.zero_grad(set_to_none=True)
        loss = self.user_step(batch)
        if loss is None:
            raise InputError(
                "step(batch) returned None; it must return the loss of the batch (a float or a scalar tensor)."
            )
        return float(loss.detach()) if isinstance(loss, Tensor) else float(loss)

    def _close_epoch(self) -> None:
        self.epochs_done += 1
        row = self.evaluate()
        if self.scheduler is not None and not self.scheduler_per_step:
            plateau = isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
            total, count = self.epoch_loss
            self.scheduler.step(*([row.get("validation_loss", total / max(count, 1))] if plateau else []))
        self.epoch_loss = (0.0, 0)
        self.history.evaluations.append(
            {"step": float(self.step_count), "epoch": float(self.epochs_done), **row}
        )

    def require_finite(self) -> None:
        """Raise if the run broke.

        Raises:
            NonFiniteError: The loss or a gradient stopped being finite; says at which step and in which module.
        """
        failure = self.history.failure
        if failure is not None:
            message = f"In {self.name}, {failure}. geartrain.diagnose(run) says why."
            raise NonFiniteError(message, module=failure.module, step=failure.step)

    # ------------------------------------------------------------------ evaluation

    def evaluate(self) -> dict[str, float]:
        """Validation loss and metric as the user would see them, in evaluation mode; modes are put back."""
        row: dict[str, float] = {}
        if self.user_evaluate is not None:
            row["validation_loss"] = float(self.user_evaluate())
        elif self.validation_data is not None and self.batch_loss is not None:
            row.update(self._evaluate(self._batches_of("validation")))
        return row

    def _evaluate(self, parts: list[Any]) -> dict[str, float]:
        assert self.batch_loss is not None
        row: dict[str, float] = {}
        parts = [_batches.detached(part) for part in parts]
        with kernels.mode(self.model, False):
            if self.metric is not None and isinstance(self.batch_loss, SupervisedLoss):
                outputs = kernels.without_gradients(
                    lambda: _batches.join([call_model(self.model, b[0]) for b in parts])
                )
                targets = _batches.join([b[1] for b in parts])
                row["validation_loss"] = float(self.batch_loss.loss_fn(outputs, targets))
                row["metric"] = float(self.metric(outputs, targets))
                return row
            sizes = [_batches.size_of(b) for b in parts]
            losses = [self._forward_loss(b) for b in parts]
        row["validation_loss"] = float(np.average(losses, weights=sizes))
        return row

    def _forward_loss(self, batch: Any) -> float:
        loss = self.batch_loss
        assert loss is not None
        return float(kernels.without_gradients(lambda: loss(self.model, batch)))

    def _batches_of(self, split: str) -> list[Any]:
        """All of a split in pieces of at most 1,024 examples (fetched once, kept)."""
        if f"all {split}" not in self._probes:
            data = self._data(split)
            whole = (lambda: data(0)) if callable(data) else data
            parts = _batches.materialise(whole, probe=None, seed=self.seed, what=f"{split} data")
            pieces = [
                _batches.take(b, slice(i, i + 1024))
                for b in parts
                for i in range(0, _batches.size_of(b), 1024)
            ]
            self._probes[f"all {split}"] = [_batches.to_device(b, self.device) for b in pieces]
        parts = self._probes[f"all {split}"]
        return [self.transform(b) for b in parts] if self.transform else parts

    def _data(self, split: str) -> Any:
        data = self.train_data if split == "train" else self.validation_data
        if data is None:
            raise UnsupportedError(f"The run has no {split} data.")
        return data

    # ------------------------------------------------------------------ probes

    def probe(self, split: str = "train", size: int | None = None) -> Any:
        """A fixed batch of at most ``size`` examples of a split, the same at every call.

        Args:
            split: ``"train"`` or ``"validation"``.
            size: How many examples at most; ``probe_size`` of the run if omitted.

        Returns:
            A batch as the training step gets it (device and transform applied).
        """
        size = self.probe_size if size is None else size
        key = f"{split} {size}"
        if key not in self._probes:
            self._probes[key] = _batches.to_device(
                self._read_probe(self._data(split), split, size), self.device
            )
        batch = self._probes[key]
        return self.transform(batch) if self.transform else batch

    def _read_probe(self, data: Any, split: str, size: int) -> Any:
        what = f"{split} data"
        if not callable(data) and _batches.indexable(data):
            size = min(size, _batches.Source(data, what).size)
            return _batches.materialise(data, probe=size, seed=self.seed, what=what)[0]
        with _batches.preserved_loader(data):
            parts, seen = [], 0
            for batch in first_batches(data, size)():
                parts.append(batch)
                seen += _batches.size_of(batch)
                if seen >= size:
                    break
        if not parts:
            raise InputError(f"The {what} yields no batches; at least one example is needed.")
        return _batches.take(_batches.join(parts), slice(0, size))

    def probe_losses(self, split: str = "train", *, chunks: int = 16) -> np.ndarray | None:
        """Loss on the fixed probe, in evaluation mode, per chunk of examples; shape (chunks,).

        Chunks of the same examples make differences between forks paired. ``None`` where the run has no loss
        function (only the user's own step) or no such data.
        """
        if self.batch_loss is None or (split == "validation" and self.validation_data is None):
            return None
        batch = _batches.detached(self.probe(split))
        size = _batches.size_of(batch)
        cuts = [c for c in np.array_split(np.arange(size), min(chunks, size)) if len(c)]
        slices = [slice(int(c[0]), int(c[-1]) + 1) for c in cuts]
        with rng.preserved(), kernels.mode(self.model, False):
            if not isinstance(self.batch_loss, SupervisedLoss):
                return np.array([self._forward_loss(_batches.take(batch, piece)) for piece in slices])
            joint = (kernels.without_gradients(lambda: call_model(self.model, batch[0])), batch[1])
            pairs = [_batches.take(joint, piece) for piece in slices]
            with torch.no_grad():
                return np.array([float(self.batch_loss.loss_fn(*pair)) for pair in pairs])

    def objective(
        self,
        split: str = "train",
        *,
        probe: int | None = PROBE,
        training: bool | None = False,
        **options: Any,
    ) -> Objective:
        """The loss on a fixed probe of the data at the present parameters.

        Args:
            split: ``"train"`` or ``"validation"``.
            probe: Examples in the probe; ``None`` for all data.
            training: Mode to measure in; evaluation mode by default.
            **options: Passed on to `Objective`.

        Returns:
            An objective that shares the model with the run.

        Raises:
            UnsupportedError: The run has no loss function, only the user's own step.
        """
        if self.batch_loss is None:
            raise UnsupportedError(
                "The run has only a step(batch), no loss function, so its loss cannot be measured by itself. "
                "Pass loss_fn or batch_loss to Run as well (they are then used for measuring only)."
            )
        data = [self.probe(split, probe)] if probe else self._batches_of(split)
        loss_fn = self.batch_loss.loss_fn if isinstance(self.batch_loss, SupervisedLoss) else None
        other = None if loss_fn is not None else self.batch_loss
        return Objective(
            self.model, loss_fn, data, batch_loss=other, training=training, seed=self.seed, **options
        )

    # ------------------------------------------------------------------ checkpoints and forks

    def checkpoint(self, name: str = "") -> Checkpoint:
        """Copy everything that decides how the run goes on. **Cost**: memory of model, gradients and optimizer."""
        return _checkpoint.take(self, name or f"step {self.step_count}")

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to a checkpoint, bit for bit.

        Parameters, gradients, buffers, modes, optimizer, random numbers and data order are as they were.
        """
        _checkpoint.put(self, checkpoint)

    @contextlib.contextmanager
    def preserved(self) -> Iterator[Checkpoint]:
        """Whatever happens in the block, the run (and the program's generators) is afterwards as it was."""
        here, history, watched = self.checkpoint("as it was"), self.history, self._watch is not None
        origin = self.origin
        self.history = history.truncated(*here.rows)  # the block writes into a copy
        self.history.failure = history.failure
        try:
            yield here
        finally:
            self.restore(here)
            self.history, self.origin = history, origin
            if not watched:
                self.unwatch()

    @contextlib.contextmanager
    def branch(self, change: Change, at: Checkpoint | None = None) -> Iterator[Run]:
        """Inside the block the run is a fork: at ``at`` (or here), with the change made; afterwards it is restored."""
        with self.preserved():
            if at is not None:
                self.restore(at)
            change.apply(self)
            yield self

    def fork(
        self,
        change: Change | None = None,
        steps: int = 100,
        *,
        at: Checkpoint | None = None,
        points: Sequence[int] | None = None,
        deadline: float | None = None,
        conclude: Callable[[Run], None] | None = None,
        **changes: Any,
    ) -> Branch:
        """Continue the same state under a changed setting, note the losses, and restore the run exactly.

        Args:
            change: What to change; or give the fields of `Change` as keywords: ``run.fork(lr_factor=0.5)``.
            steps: Optimizer steps to take.
            at: Where to leave from; here if omitted.
            points: Steps (counted from the fork) at which to evaluate the probe; about 12 of them if omitted.
            deadline: Stop when `time.perf_counter` passes it.
            conclude: Called with the run while it still is the fork, at its end: for measuring there.
            **changes: Fields of `Change`.

        Returns:
            What the fork did.

        Raises:
            InputError: No such setting, or a value that cannot be.
            UnsupportedError: The user's own step decides what was to be changed.
        """
        change = change or make_change(**changes)
        started = time.perf_counter()
        marks = sorted({int(p) for p in (points if points is not None else np.linspace(0, steps, 12))})
        with self.branch(change, at):
            start, epochs = self.step_count, self.epochs
            self.epochs = 10**9  # a fork may go beyond the declared end
            self.history = History()
            try:
                where, losses, validation = self._walk(marks, start, deadline)
                if conclude is not None and self.history.failure is None:
                    conclude(self)
            finally:
                self.epochs = epochs
            history, taken = self.history, self.step_count - start
        complete = history.failure is not None or taken >= marks[-1]
        seconds = time.perf_counter() - started
        return Branch(where, losses, validation, history, taken, seconds, complete)

    def _walk(
        self, marks: list[int], start: int, deadline: float | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Advance from mark to mark, evaluating both probes at each."""
        where, losses, validation = [], [], []
        for mark in marks:
            self.advance(start + mark - self.step_count, deadline=deadline)
            if self.history.failure is not None:
                break
            where.append(self.step_count)
            losses.append(self.probe_losses("train"))
            validation.append(self.probe_losses("validation"))
            if deadline is not None and time.perf_counter() >= deadline:
                break
        if any(row is None for row in losses):
            losses = [np.array([self._smoothed(step - start)]) for step in where]
        good = np.array(losses, dtype=float).reshape(len(where), -1)
        if any(row is None for row in validation):
            return np.array(where), good, None
        return np.array(where), good, np.array(validation, dtype=float).reshape(len(where), -1)

    def _smoothed(self, step: int) -> float:
        """Mean batch loss around a step, where no loss function is at hand to evaluate a probe."""
        column = self.history.column("loss")
        return float(np.mean(column[max(0, step - 10) : step + 1])) if len(column) else float("nan")

    # ------------------------------------------------------------------ parts

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return next(self.model.parameters()).device

    @property
    def total_steps(self) -> int | None:
        """Optimizer steps in the whole run, where it is known (of a stream: once an epoch has been read)."""
        per_epoch = self.stream.steps_per_epoch
        return None if per_epoch is None else per_epoch * self.epochs

    @property
    def over(self) -> bool:
        """Whether all epochs are done, or the run broke."""
        return self.epochs_done >= self.epochs or self.history.failure is not None

    @property
    def lr(self) -> float:
        """Present step size of the first parameter group."""
        return float(self.optimizer.param_groups[0]["lr"])

    def set_loss(self, loss_fn: Loss) -> None:
        """Use another ``loss_fn(outputs, targets)`` from here on."""
        self.loss_fn, self.batch_loss = loss_fn, SupervisedLoss(loss_fn)

    def replace_data(self, train: Any = None, validation: Any = None) -> None:
        """Train (and evaluate) on other data from here on, in the same order; checkpoints bring the old ones back."""
        if train is not None:
            position, old = self.stream.position(), self.stream
            self.stream = Stream(train, batch_size=old.batch_size, shuffle=old.shuffle, seed=old.seed)
            if self.stream.num_examples == old.num_examples:
                self.stream.seek(position)
            self.train_data = train
        if validation is not None:
            self.validation_data = validation
        self._probes = {}

    def replace_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Use another optimizer from here on (its scheduler, bound to the old one, is dropped)."""
        self.unwatch()
        self.optimizer, self.scheduler = optimizer, None
        self.watch_optimizer()

    def watch_optimizer(self) -> OptimizerWatch:
        """The hooks on the present optimizer."""
        if self._watch is None or self._watched is not self.optimizer:
            self.unwatch()
            self._watch, self._watched = OptimizerWatch(self.model, self.optimizer), self.optimizer
        return self._watch

    @property
    def last_update(self) -> Tensor | None:
        """The last update that the optimizer made, shape (params,), where it was watched."""
        return self._watch.update if self._watch is not None else None

    def unwatch(self) -> None:
        """Remove the hooks from the optimizer."""
        if self._watch is not None:
            self._watch.close()
        self._watch = None

    def __repr__(self) -> str:
        return f"<Run {self.name}: step {self.step_count} of {self.total_steps or '?'}>"

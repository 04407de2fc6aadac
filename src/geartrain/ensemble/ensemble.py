"""The result: many trained networks that can be read, evaluated, measured, saved and trained on."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from geartrain._torch import batches as _batches
from geartrain._torch.flat import Layout
from geartrain.ensemble import checkpoint as files
from geartrain.ensemble import measure as measuring
from geartrain.ensemble.batches import whole
from geartrain.ensemble.checkpoint import Checkpoint
from geartrain.ensemble.driver import Progress, Task, advance, block_end
from geartrain.ensemble.engines._base import Engine, LossFunction
from geartrain.ensemble.members import write
from geartrain.ensemble.plan import Plan, clock
from geartrain.ensemble.recording import History, Metric, Record
from geartrain.ensemble.settings import Settings
from geartrain.ensemble.stopping import MemberStatus, status_of
from geartrain.errors import InputError
from geartrain.records import Measurement, format_number

if TYPE_CHECKING:
    import xarray

Report = Callable[[str], None]


@dataclass
class Work:
    """What an ensemble needs to be trained or evaluated, beyond its numbers."""

    task: Task
    engine: Engine
    loss_fn: LossFunction
    dtype: torch.dtype | None
    fingerprint: str


class Ensemble:
    """Many networks of one architecture, trained as one computation; made by `train` or `Ensemble.load`.

    Attributes:
        layout: Where each parameter lies in a row of ``parameters``.
        settings: How every member is trained.
        plan: Engine, chunk, memory and speed; printable. ``None`` if it was loaded without ``make_model``.
        history: What was recorded.
    """

    def __init__(
        self,
        *,
        layout: Layout,
        settings: Settings,
        progress: Progress,
        history: History,
        work: Work | None,
        plan: Plan | None,
        record: Record | None = None,
        checkpoint: Checkpoint | None = None,
        report: Report | None = None,
    ) -> None:
        self.layout, self.settings, self.history, self.plan = layout, settings, history, plan
        self._progress, self._work, self._record = progress, work, record
        self._checkpoint, self._report = checkpoint, report
        self._saved = time.monotonic()

    # ------------------------------------------------------------------ what it holds

    def __len__(self) -> int:
        return len(self.settings.seeds)

    @property
    def seeds(self) -> tuple[int, ...]:
        """One per member."""
        return self.settings.seeds

    @property
    def steps(self) -> int:
        """Steps of the ensemble so far; a member that stopped has taken fewer (see ``status``)."""
        return self._progress.step

    @property
    def parameters(self) -> Tensor:
        """Parameters of all members, shape (members, params), in the order of ``model.parameters()``; not a copy."""
        return self._progress.params

    @property
    def averages(self) -> Tensor | None:
        """Averaged parameters (members, params), or ``None`` where ``average`` was not asked for."""
        return self._progress.average

    @property
    def buffers(self) -> dict[str, Tensor]:
        """Buffers and frozen parameters by name, (members, ...)."""
        return self._progress.buffers

    @property
    def losses(self) -> Tensor:
        """Training loss of each step's batch before the update, (members, steps); NaN after a member stopped."""
        return self.history.all_losses(len(self), self.layout.dtype)

    @property
    def status(self) -> tuple[MemberStatus, ...]:
        """Where every member stands."""
        pairs = zip(self._progress.watch.codes.tolist(), self._progress.taken.tolist(), strict=True)
        return tuple(status_of(code, taken) for code, taken in pairs)

    def state(self, name: str, *, averaged: bool = False) -> Tensor:
        """One parameter (a view) or buffer of all members, shape (members, *shape).

        Raises:
            InputError: There is no such name.
        """
        if name in self.buffers:
            return self.buffers[name]
        slices = self.layout.slices()
        if name not in slices:
            raise InputError(f"There is no {name!r}; there are {', '.join([*slices, *self.buffers])}.")
        shape = self.layout.shapes[self.layout.names.index(name)]
        return self._rows(averaged)[:, slices[name]].view(len(self), *shape)

    def member(self, i: int, *, averaged: bool = False) -> nn.Module:
        """Member number i as a module of its own (a copy).

        Raises:
            InputError: There is no such member, or ``make_model`` is not known.
        """
        if not -len(self) <= i < len(self):
            raise InputError(f"There is no member {i}; there are {len(self)}, numbered from 0.")
        model = copy.deepcopy(self._ready("member").task.members.template)
        row = self._rows(averaged)[i]
        # The template's values may lie in the stack; the module must have its own.
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = tensor.data.clone()
        write(model, self.layout, row, {name: t[i] for name, t in self.buffers.items()})
        for parameter in model.parameters():
            parameter.grad = None
        return model

    def _rows(self, averaged: bool) -> Tensor:
        if not averaged:
            return self.parameters
        if self.averages is None:
            raise InputError('No average was kept; pass average="ema" or average="swa" when training.')
        return self.averages

    def _ready(self, what: str) -> Work:
        if self._work is None:
            raise InputError(
                f"This ensemble was loaded without its model, so {what} is not possible; "
                "pass Ensemble.load(path, make_model=..., data=..., loss=...)."
            )
        return self._work

    # ------------------------------------------------------------------ training

    def train(self, steps: int) -> Ensemble:
        """Go on for so many steps: bit for bit what an uninterrupted training gives.

        A schedule that spans the training (cosine) spans the steps of the first call.

        Returns:
            This ensemble.

        Raises:
            InputError: ``steps`` is negative.
        """
        if steps < 0:
            raise InputError(f"steps is {steps}; it must be at least 0.")
        work, progress, target = self._ready("training"), self._progress, self._progress.step + steps
        self._write_record()
        begin, first = time.monotonic(), progress.step
        while progress.step < target:
            end = self._block_end(target)
            before = int(progress.taken.sum())
            started = clock(progress.params.device)
            plan = self.plan
            chunk = plan.chunk if plan is not None else 1
            self.history.losses.append(advance(work.task, progress, work.engine, chunk, end - progress.step))
            if plan is not None:
                plan.seconds += clock(progress.params.device) - started
                plan.member_steps += int(progress.taken.sum()) - before
            if len(self.history.losses) > 64:
                self.history.all_losses(len(self), self.layout.dtype)
            self._write_record()
            self._save_if_due(progress.step == target)
            self._tell(begin, first, target)
        return self

    def _block_end(self, target: int) -> int:
        step = self._progress.step
        end = block_end(step, target)
        for every in (self._record and self._record.every, self._checkpoint and self._checkpoint.every):
            if every:
                end = min(end, (step // every + 1) * every)
        return end

    def _write_record(self) -> None:
        record, step = self._record, self._progress.step
        if record is None or step % record.every or (self.history.steps and self.history.steps[-1] >= step):
            return
        for name, metric in record.named_metrics.items():
            self.history.add(name, self.evaluate(record.data, metric))
        for name, options in record.named_measures.items():
            result = self.measure(name, record.data, **options)
            self.history.add(name, result.value, result.dims[1:])
        self.history.steps.append(step)

    def _save_if_due(self, last: bool) -> None:
        plan = self._checkpoint
        if plan is None:
            return
        due = (
            self._progress.step % plan.every == 0
            if plan.every
            else time.monotonic() - self._saved >= plan.seconds
        )
        if due or last:
            self.save(plan.path)
            self._saved = time.monotonic()

    def _tell(self, begin: float, first: int, target: int) -> None:
        if self._report is None:
            return
        step, spent = self._progress.step, time.monotonic() - begin
        left = spent * (target - step) / max(step - first, 1)
        running = len(self._progress.running)
        self._report(
            f"step {step} of {target}: {running} of {len(self)} networks running, "
            f"{format_number(spent)} s, about {format_number(left)} s left"
        )

    # ------------------------------------------------------------------ numbers

    def evaluate(self, data: Any = None, metric: Metric | str = "loss", *, averaged: bool = False) -> Tensor:
        """A metric of every member's outputs on the same data, in evaluation mode, shape (members,).

        Args:
            data: ``(inputs, targets)``; the training data if ``None``.
            metric: ``metric(outputs, targets) -> number``, ``"loss"`` or ``"accuracy"``.
            averaged: Of the averaged parameters.

        Raises:
            InputError: The metric is unknown.
        """
        work = self._ready("evaluating")
        batches = work.task.batches
        inputs, targets = self._data(data)
        function = _metric(metric, work.loss_fn)
        count = max(_batches.size_of((inputs, targets)), 1)
        chunk = max(1, (self.plan.chunk if self.plan else 1) * max(batches.batch) // count)
        values: list[Tensor] = []
        rows = self._rows(averaged)
        for start in range(0, len(self), chunk):
            part = slice(start, start + chunk)
            outputs = work.engine.outputs(rows[part], {n: t[part] for n, t in self.buffers.items()}, inputs)
            values += [_value_of(function, outputs, targets, i) for i in range(len(rows[part]))]
        return torch.stack(values)

    def measure(self, name: str, data: Any = None, **options: Any) -> Measurement:
        """A batched instrument: one quantity of every member at once, dims ("member", ...).

        Args:
            name: ``"hessian_top_eigenvalue"``, ``"gradient_noise_scale"``, ``"gradient_norm"``, ``"parameter_norm"`` or
                ``"effective_ranks"``.
            data: ``(inputs, targets)``; the training data if ``None``.
            **options: Of the instrument; see `geartrain.ensemble.measure`.

        Raises:
            UnknownNameError: There is no such instrument.
        """
        work = self._ready("measuring")
        averaged = bool(options.pop("averaged", False))
        subject = measuring.Subject(
            model=work.task.members.template,
            loss_fn=work.loss_fn,
            layout=self.layout,
            params=self._rows(averaged),
            buffers=self.buffers,
            data=self._data(data),
            seeds=self.seeds,
            chunk=self.plan.chunk if self.plan else 1,
        )
        return measuring.measure(subject, name, **options)

    def _data(self, data: Any) -> tuple[Any, Any]:
        work = self._ready("evaluating")
        if data is None:
            return work.task.batches.inputs, work.task.batches.targets
        return whole(data, self.parameters.device, work.dtype)

    def to_xarray(self) -> xarray.Dataset:
        """Everything labelled: history, parameters (member, param), status (needs the extra ``xarray``)."""
        dataset = self.history.to_xarray(self.seeds)
        labels = [f"{name}[{i}]" for name, size in zip(self.layout.names, self.layout.sizes, strict=True)
                  for i in range(size)]  # fmt: skip
        dataset = dataset.assign_coords(param=np.asarray(labels, dtype=str))
        dataset["parameters"] = (("member", "param"), self.parameters.cpu().numpy())
        dataset["status"] = ("member", [status.state for status in self.status])
        dataset["taken"] = ("member", [status.step for status in self.status])
        dataset["lr"] = ("member", self.settings.lr.numpy())
        return dataset

    # ------------------------------------------------------------------ files

    def save(self, path: str | Path) -> None:
        """Write everything but the functions (``make_model``, ``loss``, metrics) to one file, atomically."""
        mask = None if self._work is None else self._work.task.mask
        content = {
            "settings": self.settings.state_dict(),
            "layout": {
                "names": list(self.layout.names),
                "shapes": [list(shape) for shape in self.layout.shapes],
                "dtypes": [str(dtype).removeprefix("torch.") for dtype in self.layout.dtypes],
            },
            "progress": self._progress.state_dict(),
            "history": self.history.state_dict(),
            "mask": None if mask is None else mask.bool(),
            "engine": None if self.plan is None else self.plan.engine,
            "chunk": None if self.plan is None else self.plan.chunk,
            "fingerprint": None if self._work is None else self._work.fingerprint,
        }
        files.save(path, content)

    @staticmethod
    def load(
        path: str | Path,
        make_model: Callable[[], nn.Module] | None = None,
        data: Any = None,
        loss: LossFunction | None = None,
        **options: Any,
    ) -> Ensemble:
        """Read what `save` or a checkpoint wrote.

        Args:
            path: The file.
            make_model: As in `train`; without it (and ``data`` and ``loss``) the numbers can be read, but nothing
                computed.
            data: As in `train`.
            loss: As in `train`.
            **options: ``schedule`` (where it was a function), ``record``, ``memory``, ``checkpoint``, ``device``,
                ``progress``, as in `train`.

        Raises:
            InputError: The file cannot be read, or model and data are not those of the file.
        """
        from geartrain.ensemble.train import restored  # train returns ensembles: the circle is closed here

        return restored(path, make_model, data, loss, **options)

    def __repr__(self) -> str:
        counts = {
            state: sum(s.state == state for s in self.status) for state in ("running", "finished", "diverged")
        }
        told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
        return f"<Ensemble: {len(self)} networks of {self.layout.num_params} parameters, {self.steps} steps; {told}>"


def _metric(metric: Metric | str, loss_fn: LossFunction) -> Metric:
    if callable(metric):
        return metric
    if metric == "loss":
        return loss_fn
    if metric == "accuracy":
        return _accuracy
    raise InputError(
        f'metric is {metric!r}; it must be "loss", "accuracy" or a function of (outputs, targets).'
    )


def _accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    if outputs.ndim == targets.ndim:  # one logit per example
        return ((outputs > 0) == (targets > 0.5)).double().mean()
    return (outputs.argmax(1) == targets).double().mean()


def _value_of(function: Metric, outputs: Any, targets: Any, i: int) -> Tensor:
    from torch.utils._pytree import tree_map

    own = tree_map(lambda t: t[i] if isinstance(t, Tensor) else t, outputs)
    return torch.as_tensor(function(own, targets), dtype=torch.float64).detach().reshape(())

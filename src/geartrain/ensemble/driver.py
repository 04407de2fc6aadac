"""The loop over steps and chunks: every chunk takes a block of steps while it is in the cache, then the next chunk.

What a member computes never depends on where blocks end: members are grouped into chunks at fixed step numbers only,
and within a chunk they leave at the very step at which they stop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from geartrain.ensemble.batches import Batches
from geartrain.ensemble.engines._base import Block, Engine, FusedEngine
from geartrain.ensemble.members import Members
from geartrain.ensemble.optimizers import Column, clip_, column_of
from geartrain.ensemble.settings import Settings
from geartrain.ensemble.stopping import BELOW, NON_FINITE, RUNNING, Watch

REGROUP = 256
"""Members that have stopped are replaced in their chunks at multiples of this step."""


@dataclass(frozen=True)
class Task:
    """What is trained, and how; fixed.

    Attributes:
        members: The networks.
        settings: Their settings.
        batches: What they see.
        mask: Shape (members, params) of 0 and 1, or ``None``.
    """

    members: Members
    settings: Settings
    batches: Batches
    mask: Tensor | None


@dataclass
class Progress:
    """Where training stands: everything that changes, and that a checkpoint keeps.

    Attributes:
        params: Shape (members, params).
        buffers: Stacked buffers.
        optimizer: State of the optimizer, each (members, params).
        average: Averaged parameters, or ``None``.
        watch: Who has stopped.
        taken: Updates taken, shape (members,).
        step: Steps of the ensemble.
        groups: Members by chunk, as of the last regrouping.
    """

    params: Tensor
    buffers: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    average: Tensor | None
    watch: Watch
    taken: Tensor
    step: int = 0
    groups: list[list[int]] = field(default_factory=list)

    @staticmethod
    def start(task: Task) -> Progress:
        """The state before the first step."""
        params, settings = task.members.params, task.settings
        if task.mask is not None:
            params.mul_(task.mask)
        below = None if settings.below is None else settings.below.to(params)
        return Progress(
            params=params,
            buffers=task.members.buffers,
            optimizer=settings.rule.new_state(params),
            average=None if settings.average is None else torch.zeros_like(params),
            watch=Watch(settings.stop, below, len(params), params.dtype, params.device),
            taken=torch.zeros(len(params), dtype=torch.int64),
        )

    def head(self, members: int) -> Progress:
        """A copy of the first members, to try things on."""
        watch = Watch(
            self.watch.stop,
            None if self.watch.below is None else self.watch.below[:members],
            members,
            self.params.dtype,
            self.params.device,
        )
        return Progress(
            params=self.params[:members].clone(),
            buffers={name: t[:members].clone() for name, t in self.buffers.items()},
            optimizer={name: t[:members].clone() for name, t in self.optimizer.items()},
            average=None if self.average is None else self.average[:members].clone(),
            watch=watch,
            taken=self.taken[:members].clone(),
            step=self.step,
        )

    @property
    def running(self) -> list[int]:
        """Members that have not stopped."""
        return (self.watch.codes == RUNNING).nonzero()[:, 0].tolist()

    def state_dict(self) -> dict[str, Any]:
        """Plain tensors and lists."""
        return {
            "params": self.params,
            "buffers": self.buffers,
            "optimizer": self.optimizer,
            "average": self.average,
            "watch": self.watch.state_dict(),
            "taken": self.taken,
            "step": self.step,
            "groups": self.groups,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.params.copy_(state["params"])
        for mine, theirs in ((self.buffers, state["buffers"]), (self.optimizer, state["optimizer"])):
            for name, t in mine.items():
                t.copy_(theirs[name])
        if self.average is not None:
            self.average.copy_(state["average"])
        self.watch.load_state_dict(state["watch"])
        self.taken.copy_(state["taken"])
        self.step, self.groups = state["step"], [list(group) for group in state["groups"]]


def advance(
    task: Task,
    progress: Progress,
    engine: Engine,
    chunk: int,
    steps: int,
    between: Callable[[], None] | None = None,
) -> Tensor:
    """Take steps that lie between two regroupings; calls ``between`` after every chunk.

    Returns:
        Losses, shape (members, steps) on the host; NaN for members that have stopped.
    """
    if progress.step % REGROUP == 0 or not progress.groups:
        running = progress.running
        progress.groups = [running[i : i + chunk] for i in range(0, len(running), chunk)]
    losses = torch.full((len(progress.params), steps), torch.nan, dtype=progress.params.dtype)
    codes = progress.watch.codes
    for group in progress.groups:
        done = 0
        while done < steps:
            live = [i for i in group if codes[i] == RUNNING]
            if not live:
                break
            stretch = _Stretch(task, progress, engine, live, progress.step + done, steps - done)
            taken = stretch.run()
            losses[stretch.index.cpu(), done : done + len(taken)] = taken.T.cpu()
            done += len(taken)
        if between is not None:
            between()
    progress.step += steps
    return losses


def block_end(step: int, target: int) -> int:
    """The last step that `advance` may go to in one call."""
    return min(target, (step // REGROUP + 1) * REGROUP)


class _Stretch:
    """Some members over some steps, until the end or until one of them stops."""

    def __init__(
        self, task: Task, progress: Progress, engine: Engine, live: list[int], first: int, steps: int
    ) -> None:
        self.task, self.progress, self.engine = task, progress, engine
        self.first, self.steps = first, steps
        self.live = live
        self.index = torch.tensor(live, device=progress.params.device)
        contiguous = live[-1] - live[0] + 1 == len(live)
        self._rows: Any = slice(live[0], live[-1] + 1) if contiguous else self.index
        self._copied = not contiguous
        self.params = progress.params[self._rows]
        self.buffers = {name: t[self._rows] for name, t in progress.buffers.items()}
        self.state = {name: t[self._rows] for name, t in progress.optimizer.items()}
        self.average = None if progress.average is None else progress.average[self._rows]
        self.mask = None if task.mask is None else task.mask[self._rows].to(self.params)
        clip = task.settings.clip
        self.clip = None if clip is None else clip[live].to(self.params)
        self.batch = task.batches.block(live, first, steps)
        factors = task.settings.schedule.factors(first, steps, task.settings.members)
        self.lr = factors[:, live] * task.settings.lr[live]

    def run(self) -> Tensor:
        """Losses of the steps taken, (steps, members): a stretch ends with the first step at which one stops."""
        fused = self._fused()
        losses = self._steps() if fused is None else fused
        if self._copied:
            self._write_back()
        return losses

    def _steps(self) -> Tensor:
        rule = self.task.settings.rule.of(torch.tensor(self.live), self.params)
        rates = self._rates()
        losses = []
        for k in range(self.steps):
            loss, gradient = self.engine.loss_and_gradient(self.params, self.buffers, self.batch(k))
            losses.append(loss)
            codes = self.progress.watch.judge(self.index, loss)
            kept = None if codes is None else self._keep(codes)
            if self.mask is not None:
                gradient.mul_(self.mask)
            if self.clip is not None:
                clip_(gradient, self.clip)
            taken = self.first + k + 1
            rule.step(self.params, gradient, self.state, rates[k], taken)
            if self.average is not None and self.task.settings.average is not None:
                self.task.settings.average.update(self.average, self.params, taken)
            if codes is not None and kept is not None:
                self._leave(codes, kept)
                break
        self._count(len(losses))
        return torch.stack(losses)

    def _rates(self) -> list[Column]:
        if bool((self.lr == self.lr[:, :1]).all()):
            return self.lr[:, 0].tolist()
        return [column_of(row, self.params) for row in self.lr]

    def _tensors(self) -> list[Tensor]:
        average = [] if self.average is None else [self.average]
        return [self.params, *self.state.values(), *average]

    def _keep(self, codes: Tensor) -> list[Tensor]:
        return [t[codes != RUNNING] for t in self._tensors()]

    def _leave(self, codes: Tensor, kept: list[Tensor]) -> None:
        # The others take the step; those that stop are put back to where their loss was measured.
        left = codes != RUNNING
        for tensor, rows in zip(self._tensors(), kept, strict=True):
            tensor[left] = rows
        gone = left.cpu()
        members = torch.tensor(self.live)[gone]
        self.progress.watch.codes[members] = codes.cpu()[gone]
        self.progress.taken[members] -= 1

    def _count(self, steps: int) -> None:
        self.progress.taken[torch.tensor(self.live)] += steps

    def _fused(self) -> Tensor | None:
        engine, settings = self.engine, self.task.settings
        if (
            not isinstance(engine, FusedEngine)
            or self.average is not None
            or settings.stop.plateau is not None
        ):
            return None
        below = self.progress.watch.below
        below = None if below is None else below[self.index]
        live = torch.tensor(self.live)
        block = Block(
            params=self.params,
            buffers=self.buffers,
            optimizer=settings.rule.name,
            settings={key: value[live].to(self.params) for key, value in settings.rule.settings.items()},
            state=self.state,
            taken=torch.full((len(live),), self.first, device=self.params.device),
            lr=self.lr.to(self.params),
            steps=self.steps,
            batch=self.batch,
            static=self.batch.static,
            clip=self.clip,
            mask=self.mask,
            below=below,
        )
        if engine.can_run(block) is not None:
            return None
        losses = engine.run(block)
        low = torch.zeros_like(losses, dtype=torch.bool) if below is None else losses <= below
        stopped = (low | ~torch.isfinite(losses)).cpu()
        self._count(self.steps)
        for row in stopped.any(0).nonzero()[:, 0].tolist():
            at = int(stopped[:, row].int().argmax())
            self.progress.watch.codes[self.live[row]] = BELOW if bool(low[at, row]) else NON_FINITE
            self.progress.taken[self.live[row]] -= self.steps - at
        return losses

    def _write_back(self) -> None:
        progress, rows = self.progress, self._rows
        progress.params[rows] = self.params
        for name, t in self.buffers.items():
            progress.buffers[name][rows] = t
        for name, t in self.state.items():
            progress.optimizer[name][rows] = t
        if progress.average is not None and self.average is not None:
            progress.average[rows] = self.average

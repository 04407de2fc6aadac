"""Forks of one architecture, optimizer and size of batches, stepped together and evaluated as the run itself does."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from geartrain.ensemble import engines
from geartrain.ensemble._fork_plan import ForkPlan
from geartrain.ensemble.engines._base import Batch, Engine, FusedEngine
from geartrain.ensemble.members import write
from geartrain.ensemble.optimizers import Rule, clip_, column_of
from geartrain.records import Cost
from geartrain.run import Branch, Change, Checkpoint, History, Run

_COLUMNS = ("loss", "grad_norm", "lr", "update_norm", "param_norm", "cosine")
_HELD_BYTES, _HELD_SECONDS = 64 << 20, 0.5
"""Copies of forks that wait for their evaluation are evaluated when they take so much memory, or after so long."""


@dataclass
class _Snapshot:
    """One fork at a moment that is to be evaluated."""

    taken: int
    row: Tensor
    rest: dict[str, Tensor]
    mark: bool
    epoch_end: bool

    @property
    def nbytes(self) -> int:
        return self.row.nbytes + sum(t.nbytes for t in self.rest.values())


@dataclass
class _Found:
    """What the evaluations of one fork gave."""

    epochs: int
    steps: list[int] = field(default_factory=list)
    losses: list[Any] = field(default_factory=list)
    validation: list[Any] = field(default_factory=list)
    evaluations: list[dict[str, float]] = field(default_factory=list)


class Together:
    """Some forks of one run, in one matrix.

    Args:
        plans: What each does, see `ForkPlan.key`.
        marks: Steps, counted from the fork, at which the probes are evaluated.
        run: The run.
        changes: What made each fork.
        at: Where they leave from.

    Attributes:
        broke: Whether a loss or gradient of each fork stopped being finite; its numbers mean nothing then.
        engine_name: How the gradients are computed.
    """

    def __init__(
        self, plans: list[ForkPlan], marks: list[int], run: Run, changes: list[Change], at: Checkpoint | None
    ) -> None:
        first = self.first = plans[0]
        self.plans, self.marks, self.last = plans, set(marks), marks[-1]
        self._run, self._changes, self._at = run, changes, at
        self.params = torch.stack([p.row for p in plans])
        self.rest = {name: torch.stack([p.rest[name] for p in plans]) for name in first.rest}
        self.state = {name: torch.stack([p.state[name] for p in plans]) for name in first.state}
        settings = {
            key: torch.tensor([p.settings[key] for p in plans], dtype=torch.float64) for key in first.settings
        }
        self.rule = Rule(first.rule, settings)
        if first.rule in ("sgd", "rmsprop") and "momentum_buffer" not in self.rule.state_names:
            self.state.pop("momentum_buffer")
        self.lr = torch.tensor([p.lr for p in plans], dtype=torch.float64)
        clips = [float("inf") if p.clip is None else p.clip for p in plans]
        self.clip = torch.tensor(clips, dtype=torch.float64).to(self.params)
        self._clips = any(p.clip is not None for p in plans)
        self.broke = [False] * len(plans)
        self.taken, self.seconds = 0, 0.0
        self._columns: list[dict[str, list[float]]] = [{c: [] for c in _COLUMNS} for _ in plans]
        self._waiting: list[list[_Snapshot]] = [[] for _ in plans]
        self._found = [_Found(p.epochs_done) for p in plans]
        self._held, self._evaluated = 0, time.perf_counter()
        self._shared = len({p.order for p in plans}) == 1
        self._ready: Batch | None = self._next() if self.last else None
        self.engine_name, self._engine = self._fastest()

    # ------------------------------------------------------------------ steps

    def train(self, deadline: float | None) -> None:
        """Take the steps and evaluate where that is due."""
        begin = time.perf_counter()
        rule = self.rule.of(torch.arange(len(self.plans)), self.params)
        earlier = self._earlier_updates()
        self._snap(0 in self.marks, False)
        for k in range(self.last):
            if deadline is not None and k and time.perf_counter() >= deadline:
                if k not in self.marks:
                    self._snap(True, False)
                break
            losses, gradient = self._engine.loss_and_gradient(self.params, self.rest, self._next())
            norms = torch.linalg.vector_norm(gradient, dim=1)
            if self._clips:
                clip_(gradient, self.clip)
            before = self.params.clone()
            rates = column_of(self.lr[:, k], self.params)
            rule.step(self.params, gradient, self.state, rates, self.first.taken + k + 1)
            earlier = self._note(k, losses, norms, before, earlier)
            self.taken = k + 1
            self._snap(k + 1 in self.marks, k in self.first.epoch_ends)
            if all(self.broke):
                break
        self._evaluate()
        self.seconds = time.perf_counter() - begin

    def _fastest(self) -> tuple[str, Engine]:
        """The engine to use, from two timed gradients of each."""
        best: tuple[float, str, Engine] | None = None
        model, loss_fn, layout = self.first.template, self.first.loss_fn, self.first.layout
        for name in engines.names():
            module = engines.get(name)
            if name != "loop" and (self._ready is None or module.supports(model, loss_fn, self._ready)):
                continue
            engine = module.build(model, loss_fn, layout)
            if isinstance(engine, FusedEngine):
                continue  # its single gradients are another engine's
            seconds = float("inf")
            for _ in range(2 if self._ready is not None else 0):
                rest = {key: t.clone() for key, t in self.rest.items()}
                begin = time.perf_counter()
                engine.loss_and_gradient(self.params, rest, self._ready)
                seconds = min(seconds, time.perf_counter() - begin)
            if best is None or seconds < best[0]:
                best = (seconds, name, engine)
        assert best is not None  # the loop takes everything
        return best[1:]

    def _next(self) -> Batch:
        ready, self._ready = getattr(self, "_ready", None), None
        if ready is not None:
            return ready
        if self._shared:
            batch = self.first.next_batch()
            return Batch(batch[0], batch[1], True, True)
        own = [plan.next_batch() for plan in self.plans]
        stacked = tree_map(lambda *leaves: torch.stack(leaves), *[(b[0], b[1]) for b in own])
        return Batch(stacked[0], stacked[1], False, False)

    def _earlier_updates(self) -> Tensor:
        """The updates before the fork, zeros where they are not known."""
        none = torch.zeros_like(self.params[0])
        known = [p.last_update for p in self.plans]
        return torch.stack([none if u is None or u.shape != none.shape else u.to(none) for u in known])

    def _note(self, k: int, losses: Tensor, norms: Tensor, before: Tensor, earlier: Tensor) -> Tensor:
        update = self.params - before
        lengths = torch.linalg.vector_norm(update, dim=1)
        scale = lengths * torch.linalg.vector_norm(earlier, dim=1)
        cosines = torch.linalg.vecdot(update, earlier) / torch.where(scale > 0, scale, torch.nan)
        sizes = torch.linalg.vector_norm(before, dim=1)
        noted = torch.stack([losses, norms, self.lr[:, k].to(losses), lengths, sizes, cosines], dim=1)
        for place, row in enumerate(noted.tolist()):
            if not (np.isfinite(row[0]) and np.isfinite(row[1])):
                self.broke[place] = True
            for name, value in zip(_COLUMNS, row, strict=True):
                self._columns[place][name].append(value)
        return update

    # ------------------------------------------------------------------ evaluations

    def _snap(self, mark: bool, epoch_end: bool) -> None:
        if not (mark or epoch_end):
            return
        for place, kept in enumerate(self._waiting):
            if not self.broke[place]:
                rest = {name: t[place].clone() for name, t in self.rest.items()}
                kept.append(_Snapshot(self.taken, self.params[place].clone(), rest, mark, epoch_end))
                self._held += kept[-1].nbytes
        if self._held > _HELD_BYTES or time.perf_counter() - self._evaluated > _HELD_SECONDS:
            self._evaluate()

    def _evaluate(self) -> None:
        """Evaluate what waits: the run becomes each fork in turn, and is put back."""
        run = self._run
        for place, waiting in enumerate(self._waiting):
            if not waiting:
                continue
            one, found = self.plans[place], self._found[place]
            with run.branch(self._changes[place], self._at):
                for snap in waiting:
                    write(run.model, one.layout, snap.row, snap.rest)
                    if snap.epoch_end:
                        found.epochs += 1
                        row = {"step": float(one.step + snap.taken), "epoch": float(found.epochs)}
                        found.evaluations.append(row | run.evaluate())
                    if snap.mark:
                        found.steps.append(one.step + snap.taken)
                        found.losses.append(run.probe_losses("train"))
                        found.validation.append(run.probe_losses("validation"))
            waiting.clear()
        self._held, self._evaluated = 0, time.perf_counter()

    def branch(self, place: int) -> Branch:
        """What one of the forks did."""
        one, found, history = self.plans[place], self._found[place], History()
        for k in range(self.taken):
            row = {name: values[k] for name, values in self._columns[place].items()}
            if k == 0 and one.last_update is None:
                row.pop("cosine")  # there was no update before
            history.add(one.step + k, **row)
        history.evaluations = found.evaluations
        self._run.work = self._run.work + Cost(gradients=self.taken)
        points = len(found.steps)
        held = None
        if all(row is not None for row in found.validation):
            held = np.array(found.validation, dtype=float).reshape(points, -1)
        return Branch(
            np.array(found.steps),
            np.array(found.losses, dtype=float).reshape(points, -1),
            held,
            history,
            self.taken,
            self.seconds / len(self.plans),
            self.taken >= self.last,
        )

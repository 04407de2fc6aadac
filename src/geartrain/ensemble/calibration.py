"""Which engine is fastest here, and with how many members at a time: tried on a few steps, remembered per process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from geartrain._torch import flat
from geartrain.ensemble import engines
from geartrain.ensemble.driver import Progress, Task, advance
from geartrain.ensemble.engines._base import Engine, FusedEngine
from geartrain.ensemble.plan import Footprint, Plan, clock, flops_of, nbytes, peak_bytes, peak_flops
from geartrain.errors import InputError, UnsupportedError
from geartrain.records import format_number

LossFunction = Callable[[Any, Any], Tensor]

_SIZES = (1, 4, 16, 32, 64, 128, 256, 1024, 4096)
_PATIENCE = 1.25
"""Larger chunks are no longer tried once one is this much slower per member than the best."""
_TRY_SECONDS = 0.05
"""Timing one candidate goes on until so much time was spent, or three rounds were taken."""
_remembered: dict[Any, dict[tuple[str, int], float]] = {}


@dataclass(frozen=True)
class Candidate:
    """An engine that can run this task."""

    name: str
    engine: Engine
    largest: int


def footprint(
    first: torch.nn.Module,
    layout: flat.Layout,
    *,
    states: int,
    masked: bool,
    steps: int,
    shared: int,
    activations: int,
    batch: int,
) -> Footprint:
    """What training will take, from one network of the architecture.

    Args:
        first: A network.
        layout: Its parameters.
        states: Matrices beside the parameters: optimizer states and averages.
        masked: Whether there are masks.
        steps: Steps whose losses are kept.
        shared: Bytes kept once.
        activations: Bytes of activations of one member.
        batch: Bytes of one member's batch.
    """
    item = torch.finfo(layout.dtype).bits // 8
    own = layout.num_params * item
    rest = sum(p.nbytes for p in first.parameters() if not p.requires_grad)
    rest += sum(b.nbytes for b in first.buffers())
    per_member = own * (1 + states) + rest + (4 * layout.num_params if masked else 0) + steps * item
    # Gradient by layer and flat, a temporary of the update, and a copy of everything once members have left.
    return Footprint(per_member, shared, own * (4 + states) + 2 * batch, activations)


def choose(
    task: Task,
    progress: Progress,
    loss_fn: LossFunction,
    *,
    engine: str,
    chunk: int | None,
    limit: int,
    prints: Footprint,
    steps: int,
) -> tuple[Engine, Plan]:
    """The engine and the plan.

    Raises:
        UnsupportedError: The engine asked for cannot run this.
        InputError: The chunk is below 1, or does not fit the memory.
    """
    model, layout = task.members.template, task.members.layout
    members, device = task.settings.members, task.members.params.device
    if chunk is not None and chunk < 1:
        raise InputError(f"chunk is {chunk}; it must be a number of members, at least 1, or None to choose.")
    able, declined = _able(task, loss_fn, engine, prints, limit)
    if chunk is not None:
        able = [_fixed(c, min(chunk, members), prints, limit, members) for c in able]
    sizes = None if chunk is None else (min(chunk, members),)
    timings: dict[tuple[str, int], float] = {}
    if len(able) == 1 and sizes is not None:
        best, why = (able[0].name, sizes[0]), "both were asked for."
    else:
        timings = _timings(task, progress, loss_fn, able, sizes, steps, declined)
        best, why = _verdict(timings, able, chunk, members)
    chosen = next(c for c in able if c.name == best[0])
    batch = task.batches.one(max(range(members), key=lambda i: task.batches.batch[i]))
    working = prints.step(best[1], chosen.engine.members_at_once(best[1]))
    resident = prints.resident(members)

    def measure() -> int:
        kept = nbytes((progress.state_dict(), task.mask)) + task.batches.nbytes
        head = progress.head(min(best[1], members))
        return kept + peak_bytes(
            device, lambda: advance(_head(task, len(head.params)), head, chosen.engine, best[1], 1)
        )

    plan = Plan(
        engine=best[0],
        chunk=best[1],
        members=members,
        why=why,
        limit_bytes=limit,
        resident_bytes=resident,
        working_bytes=working,
        flops=flops_of(model, loss_fn, layout, batch),
        peak_flops=peak_flops(device, layout.dtype),
        timings=timings,
        declined=declined,
        measure=measure,
    )
    return chosen.engine, plan


def _able(
    task: Task, loss_fn: LossFunction, wanted: str, prints: Footprint, limit: int
) -> tuple[list[Candidate], dict[str, str]]:
    model, layout, members = task.members.template, task.members.layout, task.settings.members
    sample = task.batches.sample()
    able, declined = [], {}
    for name in engines.names() if wanted == "auto" else (wanted,):
        module = engines.get(name)
        reason = module.supports(model, loss_fn, sample)
        if reason is not None:
            declined[name] = reason.rstrip(".")
            continue
        engine = module.build(model, loss_fn, layout)
        try:
            able.append(Candidate(name, engine, prints.largest_chunk(members, limit, engine.members_at_once)))
        except InputError:
            if wanted != "auto" or name == "loop":
                raise
            declined[name] = "not even one member at a time fits the memory"
    if not able:
        raise UnsupportedError(
            f'engine="{wanted}" cannot train this: {declined[wanted]}. Pass engine="auto" or engine="loop".'
        )
    return able, declined


def _fixed(candidate: Candidate, chunk: int, prints: Footprint, limit: int, members: int) -> Candidate:
    if chunk > candidate.largest:
        needed = prints.resident(members) + prints.step(chunk, candidate.engine.members_at_once(chunk))
        raise InputError(
            f"chunk={chunk} needs {needed:,} bytes with engine {candidate.name}; allowed are {limit:,}. "
            f"Pass chunk={candidate.largest} or less, or raise memory=."
        )
    return candidate


def _timings(
    task: Task,
    progress: Progress,
    loss_fn: LossFunction,
    able: list[Candidate],
    sizes: tuple[int, ...] | None,
    steps: int,
    declined: dict[str, str],
) -> dict[tuple[str, int], float]:
    key = _signature(task, loss_fn, able, sizes)
    timings = _remembered.setdefault(key, {})
    for candidate in sorted(able, key=lambda c: getattr(c.engine, "start_seconds", 0.0)):
        if any(name == candidate.name for name, _ in timings):
            continue
        start = getattr(candidate.engine, "start_seconds", 0.0)
        left = min(timings.values(), default=float("inf")) * task.settings.members * steps
        if start > left:
            told = f"{format_number(start)} s of preparation are more than the {format_number(left)} s of training"
            declined[candidate.name] = told
            continue
        _try(task, progress, candidate, sizes, timings)
    return timings


def _try(
    task: Task,
    progress: Progress,
    candidate: Candidate,
    sizes: tuple[int, ...] | None,
    timings: dict[tuple[str, int], float],
) -> None:
    members = task.settings.members
    tried = {min(size, candidate.largest, members) for size in (sizes or _SIZES)}
    if sizes is None:
        tried.add(min(candidate.largest, members))
        if candidate.engine.members_at_once(2) == 1 and not isinstance(candidate.engine, FusedEngine):
            tried = {size for size in tried if size <= 16}
    best = float("inf")
    for size in sorted(tried):
        seconds = _time(task, progress, candidate.engine, size)
        timings[candidate.name, size] = seconds
        best = min(best, seconds)
        if seconds > _PATIENCE * best:
            break


def _time(task: Task, progress: Progress, engine: Engine, size: int) -> float:
    """Seconds per member and step of a chunk of this size: the best of a few rounds after a warm-up."""
    head, device = progress.head(size), task.members.params.device
    part = _head(task, size)
    advance(part, head, engine, size, 1)
    best, spent = float("inf"), 0.0
    for _ in range(3):
        begin = clock(device)
        advance(part, head, engine, size, 2)
        seconds = clock(device) - begin
        best, spent = min(best, seconds / 2), spent + seconds
        if spent > _TRY_SECONDS:
            break
    return best / size


def _head(task: Task, members: int) -> Task:
    """The task, its masks cut to the first members (settings and batches go by the members' numbers)."""
    mask = None if task.mask is None else task.mask[:members]
    return Task(task.members, task.settings, task.batches, mask)


def _verdict(
    timings: dict[tuple[str, int], float], able: list[Candidate], chunk: int | None, members: int
) -> tuple[tuple[str, int], str]:
    names = {c.name for c in able}
    usable = {key: t for key, t in timings.items() if key[0] in names}
    best = min(usable, key=lambda key: usable[key])
    fastest = {
        name: min(t for (n, _), t in usable.items() if n == name) for name in sorted({n for n, _ in usable})
    }
    others = ", ".join(
        f"{name} {format_number(1e6 * t)} µs" for name, t in fastest.items() if name != best[0]
    )
    each = f"{format_number(1e6 * usable[best])} µs per network and step"
    if not others:
        return best, f"{each}; the fastest of the chunks tried."
    return best, f"{each} when tried, against {others}."


def _signature(task: Task, loss_fn: LossFunction, able: list[Candidate], sizes: Any) -> Any:
    shapes = tuple(
        (tuple(t.shape[1:]), t.dtype)
        for t in tree_leaves((task.batches.inputs, task.batches.targets))
        if isinstance(t, Tensor)
    )
    layout, settings = task.members.layout, task.settings
    return (
        str(task.members.template),
        layout.names,
        layout.shapes,
        layout.dtypes,
        getattr(loss_fn, "__qualname__", repr(loss_fn)),
        shapes,
        tuple(sorted(set(task.batches.batch))),
        task.batches.full,
        settings.rule.name,
        settings.clip is None,
        settings.average,
        str(task.members.params.device),
        torch.get_num_threads(),
        tuple((c.name, c.largest) for c in able),
        settings.members,
        sizes,
    )

"""The plan: which engine, how many members at a time, how much memory, how fast beside what the machine can do."""

from __future__ import annotations

import functools
import os
import re
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from geartrain._torch import rng
from geartrain._torch.flat import Layout
from geartrain._torch.loss import call_model
from geartrain.ensemble.engines import loop
from geartrain.ensemble.engines._base import Batch, LossFunction
from geartrain.errors import InputError
from geartrain.records import format_number


@dataclass
class Plan:
    """How an ensemble is computed. ``print(nets.plan)`` shows it.

    Attributes:
        engine: Name of the engine.
        chunk: Members at a time.
        members: Members in all.
        why: One sentence.
        limit_bytes: Memory that may be taken.
        resident_bytes: Predicted: what all members keep throughout (parameters, optimizer state, ...).
        working_bytes: Predicted: what one chunk needs while it computes.
        flops: Floating-point operations per member and step (matrix products and convolutions).
        peak_flops: Measured operations per second of a large matrix product on this device with these threads.
        seconds: Time spent in steps so far.
        member_steps: Steps of single members taken in that time.
        timings: Seconds per member and step in calibration, by (engine, chunk).
        declined: Why an engine cannot run this, by name.
        measure: Measures the memory of one step of a chunk, in bytes.
    """

    engine: str
    chunk: int
    members: int
    why: str
    limit_bytes: int
    resident_bytes: int
    working_bytes: int
    flops: int
    peak_flops: float
    seconds: float = 0.0
    member_steps: int = 0
    timings: Mapping[tuple[str, int], float] = field(default_factory=dict)
    declined: Mapping[str, str] = field(default_factory=dict)
    measure: Callable[[], int] | None = field(default=None, repr=False)
    _measured: int | None = field(default=None, repr=False)

    @property
    def predicted_bytes(self) -> int:
        """Memory at the worst moment, as predicted before any of it was taken."""
        return self.resident_bytes + self.working_bytes

    @property
    def measured_bytes(self) -> int | None:
        """The same, measured on one step (when first asked for); ``None`` where nothing can be measured."""
        if self._measured is None and self.measure is not None:
            self._measured = self.measure()
        return self._measured

    @property
    def fraction_of_peak(self) -> float:
        """Operations per second so far as a share of the measured peak; NaN before the first step."""
        if not self.seconds or not self.peak_flops:
            return float("nan")
        return self.flops * self.member_steps / self.seconds / self.peak_flops

    def __str__(self) -> str:
        head = f"{self.members} networks, {self.chunk} at a time, engine {self.engine}: {self.why}"
        memory = (
            f"Memory: {format_bytes(self.predicted_bytes)} predicted ({format_bytes(self.resident_bytes)} kept, "
            f"{format_bytes(self.working_bytes)} working) of {format_bytes(self.limit_bytes)} allowed."
        )
        lines = [head, memory]
        if self.seconds:
            each = self.seconds / max(self.member_steps, 1)
            lines.append(
                f"Speed: {format_number(1e6 * each)} µs per network and step, "
                f"{format_number(100 * self.fraction_of_peak)} % of the measured peak of "
                f"{format_number(self.peak_flops / 1e9)} GFLOP/s."
            )
        lines += [f"Not {name}: {reason}." for name, reason in self.declined.items()]
        return "\n".join(lines)


def format_bytes(count: float) -> str:
    """Bytes as people write them.

    >>> format_bytes(1536), format_bytes(3e9)
    ('1.54 kB', '3.00 GB')
    """
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{format_number(count / size)} {unit}"
    return f"{int(count)} B"


def limit_of(memory: int | float | str | None, device: torch.device) -> int:
    """The memory that may be taken: bytes, ``"2GB"``, or four fifths of what is free.

    >>> limit_of("1.5 MB", torch.device("cpu"))
    1500000

    Raises:
        InputError: It cannot be understood.
    """
    if memory is None:
        return int(0.8 * _free(device))
    units = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
    found = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*([a-z]*)\s*", str(memory).lower())
    if found is None or found[2] not in units or isinstance(memory, bool):
        raise InputError(
            f"memory is {memory!r}; it must be a number of bytes or a string such as '2GB' or '512MiB'."
        )
    return int(float(found[1]) * units[found[2]])


def _free(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo") as file:
            fields = dict(line.split(":", 1) for line in file)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return (
            os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
            if hasattr(os, "sysconf")
            else 4 * 10**9
        )


@dataclass(frozen=True)
class Footprint:
    """What training takes, predicted before it is taken.

    Attributes:
        per_member: Bytes that every member keeps: parameters, optimizer state, average, mask, buffers, losses.
        shared: Bytes kept once: indices, noisy labels.
        working: Bytes per member of a chunk while it computes, besides activations: gradient, temporaries, batch.
        activations: Bytes of a member's activations and their gradients.
    """

    per_member: int
    shared: int
    working: int
    activations: int

    def resident(self, members: int) -> int:
        """Bytes kept by that many members."""
        return members * self.per_member + self.shared

    def step(self, chunk: int, at_once: int) -> int:
        """Bytes of a step of a chunk that holds the activations of ``at_once`` members."""
        return chunk * self.working + at_once * self.activations

    def largest_chunk(self, members: int, limit: int, at_once: Callable[[int], int]) -> int:
        """The largest chunk that fits beside what all members keep.

        Raises:
            InputError: Not even one member at a time fits.
        """
        left = limit - self.resident(members)
        if left < self.step(1, at_once(1)):
            needed = self.resident(members) + self.step(1, at_once(1))
            fits = max(0, (limit - self.shared - self.step(1, at_once(1))) // self.per_member)
            raise InputError(
                f"{members} members need {format_bytes(needed)} even one at a time "
                f"({format_bytes(self.per_member)} are kept per member); allowed are {format_bytes(limit)}. "
                f"Train at most {fits} members at once, use smaller batches, or raise memory=."
            )
        low, high = 1, members
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.step(middle, at_once(middle)) <= left else (low, middle - 1)
        return low


def saved_bytes(model: nn.Module, loss_fn: LossFunction, batch: Batch) -> int:
    """Bytes that the backward pass of one member on this batch holds on to (data and parameters not counted)."""
    known = {t.untyped_storage().data_ptr() for t in model.parameters()}
    known |= {t.untyped_storage().data_ptr() for t in tree_leaves((batch.inputs, batch.targets)) if _is(t)}
    found: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        pointer = t.untyped_storage().data_ptr()
        if pointer not in known:
            found[pointer] = max(found.get(pointer, 0), t.untyped_storage().nbytes())
        return t

    with rng.preserved(), torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        buffers = {name: b.clone() for name, b in model.named_buffers()}
        graph = loss_fn(call_model(model, batch.inputs), batch.targets)
        for name, b in model.named_buffers():
            b.copy_(buffers[name])
    largest = max(found.values(), default=0)
    del graph
    return (
        sum(found.values()) + 3 * largest
    )  # the backward pass holds a few gradients of activations at a time


def nbytes(thing: Any) -> int:
    """Bytes of all tensors in a nested structure."""
    return sum(t.nbytes for t in tree_leaves(thing) if isinstance(t, Tensor))


def _is(t: Any) -> bool:
    return isinstance(t, Tensor)


def flops_of(model: nn.Module, loss_fn: LossFunction, layout: Layout, batch: Batch) -> int:
    """Operations of one loss and gradient of one member on this batch, in matrix products and convolutions."""
    named = {name: p.detach() for name, p in model.named_parameters()}
    row = layout.flatten(named[name] for name in layout.names)[None]
    buffers = {name: t.detach()[None].clone() for name, t in named.items() if name not in layout.names}
    buffers |= {name: t.detach()[None].clone() for name, t in model.named_buffers()}
    with rng.preserved(), FlopCounterMode(display=False) as counter:
        loop.build(model, loss_fn, layout).loss_and_gradient(row, buffers, batch)
    return counter.get_total_flops()


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a large matrix product: the machine's practical peak, measured once per process."""
    threads = torch.get_num_threads() if device.type == "cpu" else 0
    return _peak(device, dtype, threads)


@functools.cache
def _peak(device: torch.device, dtype: torch.dtype, threads: int) -> float:
    size = 512 if device.type == "cpu" else 4096
    left = torch.ones(size, size, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(6):
        begin = clock(device)
        torch.mm(left, left)
        best = min(best, clock(device) - begin)
    return 2 * size**3 / best


def clock(device: torch.device) -> float:
    """Seconds, with everything finished that the device was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def peak_bytes(device: torch.device, call: Callable[[], Any]) -> int:
    """Memory that a call takes at its worst moment beyond what was there, from the allocator's own account."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with _Allocations() as seen:
        call()
    return seen.peak


class _Allocations(TorchDispatchMode):
    """Follows the storages that operations make, from birth to death."""

    def __init__(self) -> None:
        super().__init__()
        self.total = self.peak = 0
        self._alive: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, and count what it has made."""
        known = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        result = func(*args, **(kwargs or {}))
        for t in tree_leaves(result):
            if isinstance(t, Tensor) and t.untyped_storage().data_ptr() not in known:
                self._born(t.untyped_storage())
        return result

    def _born(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._alive:
            return

        def died(_: Any) -> None:
            self._alive.pop(key, None)
            self.total -= size

        self._alive[key] = weakref.ref(storage, died)
        self.total += size
        self.peak = max(self.peak, self.total)

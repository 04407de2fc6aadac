"""Losses and gradients of one objective at many parameter vectors at once, by whichever ensemble engine is fastest.

An objective made of ``loss_fn(outputs, targets)`` is handed to the engines as it is; any other ``batch_loss`` becomes a
module whose output is its loss. Data lie in memory and are gathered by index. The engine works on a copy of the model,
in evaluation mode; the user's own is never touched.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from geartrain._torch import batches as _batches
from geartrain._torch import kernels
from geartrain._torch.flat import Layout
from geartrain._torch.loss import LossModule, SupervisedLoss, check_scalar
from geartrain.ensemble import engines
from geartrain.ensemble.engines._base import Batch, Buffers, Engine
from geartrain.ensemble.plan import clock, saved_bytes
from geartrain.errors import InputError, UnsupportedError
from geartrain.objective import Objective
from geartrain.records import format_number

ENGINES = ("stack", "vmap", "loop")
_TRY_SECONDS = 0.1
_ROUNDS = 5
_MARGIN = 0.8
"""Another engine than the first of `ENGINES` must be this much faster: a choice that flaps would change rounding."""
_PIECE_BYTES = 128 << 20
_CACHE_BYTES = 4 << 20
_remembered: dict[Any, dict[tuple[str, int], float]] = {}


@dataclass(frozen=True)
class Choice:
    """How many chains are computed, and by what.

    Attributes:
        engine: Name of the engine.
        chunk: Chains at a time.
        rows: Examples at a time.
        seconds: Measured seconds per chain and example batch, by (engine, chunk); empty if not tried.
        sentence: For people.
    """

    engine: str
    chunk: int
    rows: int
    seconds: dict[tuple[str, int], float] = field(default_factory=dict)
    sentence: str = ""


class _Wrapped(LossModule):
    """A batch loss as a module: the loss is its output, so that nothing is left for the loss function."""

    def forward(self, batch: Any, *, only_outputs: bool = False) -> Any:
        """The loss of the batch."""
        return super().forward(_batches.detached(batch), only_outputs=only_outputs)


def _output(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs


class Evaluator:
    """Losses and gradients of an objective at positions of shape (chains, params).

    Args:
        objective: What is evaluated; its restriction to a block of parameters is kept.
        engine: Name of the engine, or ``"auto"``.
    """

    def __init__(self, objective: Objective, engine: str = "auto") -> None:
        if engine not in ("auto", *ENGINES):
            raise InputError(f"engine is {engine!r}; allowed: 'auto', {', '.join(map(repr, ENGINES))}.")
        self.objective, self.wanted = objective, engine
        self.supervised = isinstance(objective.batch_loss, SupervisedLoss)
        model = _copied(objective.model)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in objective.layout.names)
            parameter.grad = None
        self.loss_fn: Callable[[Any, Any], Tensor]
        if isinstance(objective.batch_loss, SupervisedLoss):
            self.template, self.layout, self.loss_fn = model, objective.layout, objective.batch_loss.loss_fn
        else:
            own = objective.layout
            self.template = _Wrapped(model, objective.batch_loss)
            self.layout = Layout(tuple(f"model.{n}" for n in own.names), own.shapes, own.dtypes)
            self.loss_fn = _output
        others = {n: p for n, p in self.template.named_parameters() if n not in self.layout.names}
        self._others = {n: t.detach() for n, t in (*others.items(), *self.template.named_buffers())}
        self._others = {n: t.clone() for n, t in self._others.items()}
        self.data = _joined(objective.batches)
        self.size = objective.num_examples
        self._engines: dict[str, Engine] = {}
        self._choices: dict[Any, Choice] = {}
        self._whole: dict[int, list[tuple[float, Batch]]] = {}
        self._bytes_per_example: float | None = None
        self._additive: bool | None = None
        self.last: Choice | None = None

    # ------------------------------------------------------------------ what is asked of it

    def loss_and_gradient(self, positions: Tensor, rows: Tensor | None) -> tuple[Tensor, Tensor]:
        """Losses (chains,) and gradients (chains, params), both the caller's own."""
        choice = self._choice(positions, rows)
        engine = self._engines[choice.engine]
        losses, gradient = positions.new_zeros(len(positions)), torch.empty_like(positions)
        for part in _slices(len(positions), choice.chunk):
            buffers = self._buffers(part.stop - part.start)
            for i, (weight, batch) in enumerate(self._pieces(rows, part, choice.rows)):
                own, g = engine.loss_and_gradient(positions[part], buffers, batch)
                losses[part] += own if weight == 1 else weight * own
                if i == 0:
                    torch.mul(g, weight, out=gradient[part])
                else:
                    gradient[part].add_(g, alpha=weight)
        return losses, gradient

    def losses(self, positions: Tensor, rows: Tensor | None) -> Tensor:
        """Losses (chains,) without gradients."""
        if rows is not None and rows.ndim == 2:
            return self.loss_and_gradient(positions, rows)[0]

        def of(outputs: Any, targets: Any) -> Tensor:
            return _mapped(lambda o: check_scalar(self.loss_fn(o, targets)), outputs)

        total = positions.new_zeros(len(positions))
        try:
            for part, weight, outputs, targets in self._outputs(positions, rows):
                total[part] += weight * of(outputs, targets).to(total.dtype)
        except RuntimeError as error:
            if "does not require grad" not in str(error):
                raise
            return self.loss_and_gradient(positions, rows)[0]  # the loss itself differentiates something
        return total

    def per_example_losses(self, positions: Tensor, rows: Tensor | None) -> Tensor:
        """Loss of each example alone, shape (chains, examples)."""
        count = self.size if rows is None else len(rows)
        if not self.supervised:
            index = torch.arange(self.size, device=positions.device) if rows is None else rows
            columns = [self.losses(positions, index[i : i + 1]) for i in range(count)]
            return torch.stack(columns, dim=1)

        def one(output: Any, target: Any) -> Tensor:
            output, target = tree_map(lambda t: t[None] if isinstance(t, Tensor) else t, (output, target))
            return check_scalar(self.loss_fn(output, target))

        result = positions.new_empty(len(positions), count)
        done: dict[int, int] = {}
        for part, _, outputs, targets in self._outputs(positions, rows):
            values = _mapped(lambda o, t=targets: _mapped(one, o, t), outputs)
            first = done.get(part.start, 0)
            result[part, first : first + values.shape[1]] = values.to(result.dtype)
            done[part.start] = first + values.shape[1]
        return result

    def outputs(self, positions: Tensor, inputs: Any) -> Any:
        """The model's outputs, shape (chains, examples, ...)."""
        if not self.supervised:
            raise UnsupportedError(
                "The outputs cannot be had: batch_loss(model, batch) hides the model's outputs. "
                "Build the objective as Objective(model, loss_fn, data) with loss_fn(outputs, targets)."
            )
        parts: dict[int, list[Any]] = {}
        for part, _, outputs, _ in self._outputs(positions, None, inputs):
            parts.setdefault(part.start, []).append(outputs)
        chunks = [tree_map(lambda *t: torch.cat(t, 1), *pieces) for pieces in parts.values()]
        return tree_map(lambda *t: torch.cat(t), *chunks)

    @property
    def additive(self) -> bool:
        """Whether the loss is the mean over its examples, tried on four of them."""
        if self._additive is None:
            self._additive = self._tried_additive()
        return self._additive

    def choose(self, positions: Tensor, rows: Tensor | None) -> Choice:
        """Which engine, and how many at a time, for that many chains on that kind of batch."""
        return self._choice(positions, rows)

    # ------------------------------------------------------------------ data

    def _buffers(self, chains: int) -> Buffers:
        return {name: t.expand(chains, *t.shape) for name, t in self._others.items()}

    def gathered(self, rows: Tensor) -> Any:
        """The examples of these rows, shape (b,) or (chains, b), as one structure with those leading axes."""
        if self.data is None:
            raise InputError(
                "Examples cannot be picked one by one: the batches of the objective have different shapes. "
                "Use batch_size=None (all data), or pad the examples to one shape."
            )
        size = self.size

        def pick(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            if leaf.ndim == 0 or leaf.shape[0] != size:
                return leaf if rows.ndim == 1 else leaf.expand(len(rows), *leaf.shape)
            return leaf.index_select(0, rows.reshape(-1)).unflatten(0, rows.shape)

        return tree_map(pick, self.data)

    def _batch(self, data: Any, shared: bool) -> Batch:
        if self.supervised:
            return Batch(data[0], data[1], shared, shared)
        lead = 0 if shared else _batches.size_of(data)
        blank = torch.zeros((1,) if shared else (lead, 1), device=self.objective.device)
        return Batch((data,), blank, shared, shared)

    def _pieces(self, rows: Tensor | None, part: slice, at_once: int) -> list[tuple[float, Batch]]:
        if rows is None:
            if at_once not in self._whole:
                self._whole[at_once] = [(w, self._batch(b, True)) for w, b in self._split(at_once)]
            return self._whole[at_once]
        count = rows.shape[-1]
        shared = rows.ndim == 1
        mine = rows if shared else rows[part]
        if count <= at_once or not self.additive:
            return [(1.0, self._batch(self.gathered(mine), shared))]
        pieces = mine.split(at_once, dim=-1)
        return [(p.shape[-1] / count, self._batch(self.gathered(p), shared)) for p in pieces]

    def _split(self, at_once: int) -> Iterator[tuple[float, Any]]:
        """All data in pieces of at most that many examples, with their weights."""
        whole = [self.data] if self.data is not None and self.additive else list(self.objective.batches)
        for batch in whole:
            count = _batches.size_of(batch)
            step = at_once if self.additive else count
            for start in range(0, count, step):
                piece = _batches.take(batch, slice(start, start + step)) if step < count else batch
                yield min(step, count - start) / self.size, piece

    def _outputs(
        self, positions: Tensor, rows: Tensor | None, inputs: Any = None
    ) -> Iterator[tuple[slice, float, Any, Any]]:
        """(chains, weight, outputs of those chains, targets) by chunk of chains and piece of the data."""
        shared = None if inputs is not None or rows is None else rows
        choice = self._choice(positions, shared)
        engine = self._engines[choice.engine]
        for part in _slices(len(positions), choice.chunk):
            buffers = self._buffers(part.stop - part.start)
            if inputs is not None:
                count = _batches.size_of(inputs)
                cut = [_batches.take(inputs, slice(i, i + choice.rows)) for i in range(0, count, choice.rows)]
                pieces = [(0.0, Batch(piece, None, True, True)) for piece in cut]
            else:
                pieces = self._pieces(rows, part, choice.rows)
            for weight, batch in pieces:
                yield part, weight, engine.outputs(positions[part], buffers, batch.inputs), batch.targets

    # ------------------------------------------------------------------ the choice

    def _choice(self, positions: Tensor, rows: Tensor | None) -> Choice:
        kind = ("all",) if rows is None else ("shared" if rows.ndim == 1 else "own", rows.shape[-1])
        key = (len(positions), *kind)
        if key not in self._choices:
            self._choices[key] = self._chosen(positions, rows, key)
        self.last = self._choices[key]
        return self.last

    def _chosen(self, positions: Tensor, rows: Tensor | None, key: Any) -> Choice:
        chains = len(positions)
        if rows is None:
            rows_now = (
                self.size if self.data is not None else max(map(_batches.size_of, self.objective.batches))
            )
        else:
            rows_now = rows.shape[-1]
        able, declined = self._able(rows)
        timings: dict[tuple[str, int], float] = {}
        if len(able) > 1 or chains > 16:
            signature = self._signature(key, tuple(able))
            if signature not in _remembered:
                _remembered[signature] = self._timings(positions, rows, able, rows_now)
            timings = _remembered[signature]
        name, chunk = _best(timings, able[0], chains)
        at_once = self._rows_at_once(name, chunk, rows_now)
        return Choice(name, chunk, at_once, timings, _sentence(name, chunk, chains, timings, declined))

    def _able(self, rows: Tensor | None) -> tuple[list[str], dict[str, str]]:
        wanted = ENGINES if self.wanted == "auto" else (self.wanted,)
        able, declined = [], {}
        for name in wanted:
            if name in self._engines:
                able.append(name)
                continue
            module = engines.get(name)
            sample = self._sample(rows)
            if name == "stack" and not self.supervised:
                reason: str | None = "the loss is a function of (model, batch)"
            else:
                reason = module.supports(self.template, self.loss_fn, sample)
            if reason is not None:
                declined[name] = reason.rstrip(".")
                continue
            self._engines[name] = module.build(self.template, self.loss_fn, self.layout)
            able.append(name)
        if not able:
            raise UnsupportedError(
                f'engine="{self.wanted}" cannot run this: {declined[self.wanted]}. Pass engine="auto" or "loop".'
            )
        return able, declined

    def _sample(self, rows: Tensor | None) -> Batch:
        """A small batch for two chains."""
        if rows is None or self.data is None:
            first = self.objective.batches[0]
            return self._batch(_batches.take(first, slice(0, 8)), True)
        index = rows[:8] if rows.ndim == 1 else rows[:2, :8].expand(2, -1)
        return self._batch(self.gathered(index), rows.ndim == 1)

    def _timings(
        self, positions: Tensor, rows: Tensor | None, able: list[str], rows_now: int
    ) -> dict[tuple[str, int], float]:
        chains = len(positions)
        trials: dict[tuple[str, int], Callable[[], float]] = {}
        for name in able:
            sizes = sorted({min(chains, s) for s in (16, 64, chains)}) if name == "vmap" else [chains]
            for size in [min(chains, 2)] if name == "loop" else sizes:
                at_once = min(self._rows_at_once(name, size, rows_now), 512)
                _, batch = self._pieces(rows, slice(0, size), at_once)[0]
                trials[name, chains if name == "loop" else size] = self._trial(name, positions[:size], batch)
        return _best_of_rounds(trials)

    def _trial(self, name: str, positions: Tensor, batch: Batch) -> Callable[[], float]:
        """A call that evaluates once and gives the seconds per chain (and example, where pieces may differ)."""
        engine, buffers = self._engines[name], self._buffers(len(positions))
        examples = _batches.size_of(batch.inputs) if batch.shared_inputs else 1

        def seconds() -> float:
            begin = clock(positions.device)
            engine.loss_and_gradient(positions, buffers, batch)
            return (clock(positions.device) - begin) / (len(positions) * examples)

        return seconds

    def _rows_at_once(self, name: str, chunk: int, count: int) -> int:
        """As many examples as keep activations within bounds: of the cache for the stack, else of memory."""
        if self._bytes_per_example is None:
            batch = self._sample(None)
            size = _batches.size_of((batch.inputs, batch.targets))
            with kernels.eager():
                self._bytes_per_example = saved_bytes(self.template, self.loss_fn, batch) / size
        if name == "stack":
            limit = max(256.0, _CACHE_BYTES / max(self._bytes_per_example, 1.0))
            if self.objective.device.type != "cpu":
                limit = _PIECE_BYTES * 8 / max(self._bytes_per_example * chunk, 1.0)
        else:
            members = 1 if name == "loop" else chunk
            limit = _PIECE_BYTES / max(self._bytes_per_example * members, 1.0)
        return max(1, min(count, int(limit)))

    def _tried_additive(self) -> bool:
        data = self.objective.batches[0]
        count = min(4, _batches.size_of(data))
        if count < 2:
            return True
        engine = engines.get("loop").build(self.template, self.loss_fn, self.layout)
        here = self.objective.parameters()[None]

        def loss(piece: slice) -> float:
            batch = self._batch(_batches.take(data, piece), True)
            return float(engine.loss_and_gradient(here, self._buffers(1), batch)[0])

        half = count // 2
        together = loss(slice(0, count))
        apart = (half * loss(slice(0, half)) + (count - half) * loss(slice(half, count))) / count
        return abs(together - apart) <= 1e-3 * (1e-6 + abs(together))

    def _signature(self, key: Any, able: tuple[str, ...]) -> Any:
        shapes = tuple((t.shape[1:], t.dtype) for t in tree_leaves(self.data) if isinstance(t, Tensor))
        loss = getattr(self.loss_fn, "__qualname__", repr(type(self.loss_fn)))
        device = str(self.objective.device)
        own = (str(self.template), self.layout.names, self.layout.shapes, self.layout.dtypes, loss, shapes)
        return (*own, self.size, key, able, device, torch.get_num_threads())


def _copied(model: nn.Module) -> nn.Module:
    original = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    try:
        return copy.deepcopy(original).eval()
    except Exception as error:
        raise UnsupportedError(
            f"The model cannot be copied ({type(error).__name__}: {error}); sampling works on a copy so that yours "
            "stays as it is. Give the model a __deepcopy__, or keep what cannot be copied outside of it."
        ) from error


def _joined(batches: tuple[Any, ...]) -> Any:
    """All data as one structure, or ``None`` where the batches differ in shape."""
    try:
        return _batches.join(batches)
    except (RuntimeError, ValueError, TypeError):
        return None


def _slices(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def _mapped(function: Callable[..., Tensor], *stacked: Any) -> Tensor:
    """``function`` over the first axis of all tensors, vectorised where that is possible."""
    with torch.no_grad():
        try:
            return torch.vmap(function)(*stacked)
        except (RuntimeError, ValueError, TypeError, IndexError):
            count = _batches.size_of(stacked)
            picked = [tree_map(lambda t, i=i: t[i], stacked) for i in range(count)]
            return torch.stack([function(*own) for own in picked])


def _best_of_rounds(trials: Mapping[tuple[str, int], Callable[[], float]]) -> dict[tuple[str, int], float]:
    """The best of several rounds in turn, after a warm-up: what disturbs the machine disturbs all alike."""
    begin = time.perf_counter()
    best = {key: trial() for key, trial in trials.items()}
    best = dict.fromkeys(best, float("inf"))
    for done in range(_ROUNDS):
        for key, trial in trials.items():
            best[key] = min(best[key], trial())
        if done and time.perf_counter() - begin > _TRY_SECONDS:
            break
    return best


def _best(timings: dict[tuple[str, int], float], first: str, chains: int) -> tuple[str, int]:
    if not timings:
        return first, chains
    best = min(timings, key=lambda key: timings[key])
    favourite = min((k for k in timings if k[0] == first), key=lambda key: timings[key])
    return best if timings[best] < _MARGIN * timings[favourite] else favourite


def _sentence(
    name: str, chunk: int, chains: int, timings: dict[tuple[str, int], float], declined: dict[str, str]
) -> str:
    head = f"{chains} chains, {min(chunk, chains)} at a time, by the engine {name}"
    if timings:
        fastest = {n: min(t for (m, _), t in timings.items() if m == n) for n, _ in timings}
        others = ", ".join(
            f"{n} takes {format_number(t / fastest[name])} times as long"
            for n, t in fastest.items()
            if n != name
        )
        head += f" (when tried, {others})" if others else ""
    reasons = "; ".join(f"not {n}: {reason}" for n, reason in declined.items())
    return f"{head}{'; ' + reasons if reasons else ''}."

"""Training batches as a stream whose position can be saved, restored and replayed exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader

from geartrain._torch import batches as _batches
from geartrain._torch.rng import RngState
from geartrain.errors import InputError


@dataclass(frozen=True)
class Position:
    """Where a stream stands.

    Attributes:
        epoch: Epoch, counted from 0.
        taken: Examples (indexed data) or batches (loaders) already taken in it.
        epoch_start: States of all generators when the epoch began, for loaders that draw their order from them.
        own: Present states of the generators that belong to the data.
        settings: Batch size, shuffling, seed, regrouping.
    """

    epoch: int
    taken: int
    epoch_start: tuple[RngState, _batches.OwnGenerators] | None
    own: _batches.OwnGenerators
    settings: dict[str, Any]


class Stream:
    """Endless batches, epoch after epoch.

    Indexed data (tensors, datasets) are ordered by a permutation that depends on (seed, epoch) alone, so that a
    position is two numbers. A loader keeps its own order: the generators' states at the start of the epoch are
    kept, and restoring replays the epoch up to the position.

    Args:
        data: Tensors, dataset, loader, or ``epoch -> iterable of batches``.
        batch_size: For indexed data.
        shuffle: For indexed data.
        seed: For indexed data.

    Raises:
        InputError: No data, NaN, or a batch size larger than the data.
    """

    def __init__(self, data: Any, *, batch_size: int, shuffle: bool, seed: int) -> None:
        self.data = data
        self.shuffle = shuffle
        self.seed = seed
        self.indexed = not callable(data) and _batches.indexable(data)
        self.source = _batches.Source(data, "training data") if self.indexed else None
        self.num_examples = self.source.size if self.source else _count(data)
        loader_size = getattr(data, "batch_size", None) or getattr(
            getattr(data, "batch_sampler", None), "batch_size", None
        )
        self.batch_size = batch_size if self.indexed else (loader_size or batch_size)
        if isinstance(data, Iterator):
            raise InputError(
                f"The training data are a one-shot {type(data).__name__}, which cannot be read again; pass a loader, a "
                "list of batches, or a function epoch -> iterable of batches."
            )
        if self.batch_size < 1:
            raise InputError(f"batch_size is {self.batch_size}; it must be at least 1.")
        if self.indexed and self.batch_size > (self.num_examples or 0):
            raise InputError(
                f"batch_size is {self.batch_size}, but the training data have {self.num_examples} examples; "
                f"choose at most {self.num_examples} (which is full-batch training)."
            )
        self.regroup = 1.0
        self.epoch = 0
        self.taken = 0
        self._order: torch.Tensor | None = None
        self._iterator: Iterator[Any] | None = None
        self._epoch_start: Any = None
        self._rest: list[Any] = []
        self._closing = False
        self._counted: int | None = None

    # ------------------------------------------------------------------ taking batches

    def next(self) -> Any:
        """The next batch, or ``None`` once at the end of every epoch."""
        return self._next_indexed(self.source) if self.source is not None else self._next_loaded()

    def _next_indexed(self, source: _batches.Source) -> Any:
        if self.taken >= source.size:
            return self._end_epoch()
        if self._order is None:
            self._order = self._permutation(source.size)
        batch = source.fetch(self._order[self.taken : self.taken + self.batch_size])
        self.taken += self.batch_size
        return batch if source.whole else self._checked(batch)

    def _permutation(self, size: int) -> torch.Tensor:
        if not self.shuffle:
            return torch.arange(size)
        # One generator per epoch: the order of epoch e never depends on how epoch e - 1 was consumed.
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) % 2**63)
        return torch.randperm(size, generator=generator)

    def _next_loaded(self) -> Any:
        if self.regroup == 1.0:
            return self._advance_loader()
        if self.regroup < 1.0:
            if not self._rest and (batch := self._advance_loader()) is not None:
                size = max(1, round(_batches.size_of(batch) * self.regroup))
                starts = range(0, _batches.size_of(batch), size)
                self._rest = [_batches.take(batch, slice(i, i + size)) for i in starts]
            return self._rest.pop(0) if self._rest else None
        parts = []
        while len(parts) < round(self.regroup) and not self._closing:
            batch = self._advance_loader(hold=bool(parts))
            if batch is not None:
                parts.append(batch)
            elif not parts:
                return None
        if parts:
            return _batches.join(parts)
        self._closing = False
        return self._end_epoch()

    def _advance_loader(self, *, hold: bool = False) -> Any:
        """One batch of the loader; ``None`` (and the end of the epoch, unless held back) when there are no more."""
        if self._iterator is None:
            self._iterator = self._open()
        batch = _batches.plain(next(self._iterator, None))
        if batch is None:
            if self.taken == 0:
                raise InputError(
                    f"The training data yield no batches in epoch {self.epoch}; at least one is needed."
                )
            self._closing = hold
            return None if hold else self._end_epoch()
        self.taken += 1
        return self._checked(batch)

    def _checked(self, batch: Any) -> Any:
        """The first time round every batch is looked at; whole tensors were looked at as a whole."""
        if self.epoch == 0:
            _batches.check_finite(batch, f"training data (batch ending at {self.taken} of the first epoch)")
        return batch

    def _open(self) -> Iterator[Any]:
        self._epoch_start = (RngState.take(), _batches.OwnGenerators.take(self.data))
        data: Any = self.data(self.epoch) if callable(self.data) else self.data
        return iter(data)

    def _end_epoch(self) -> None:
        """Close the epoch; returns nothing, which is what `next` says at its end."""
        self._counted = self.taken
        self.epoch += 1
        self.taken = 0
        self._order = self._iterator = self._epoch_start = None

    # ------------------------------------------------------------------ settings

    def set_batch_size(self, size: int) -> None:
        """Change the batch size from here on (a loader's batches are joined or cut)."""
        if self.indexed:
            self.batch_size = size
        else:
            self.regroup = (
                size / self.batch_size if size < self.batch_size else float(round(size / self.batch_size))
            )

    def reseed(self, seed: int) -> None:
        """A new order from here on; a loader's begins with its next epoch."""
        self.seed = seed
        _batches.OwnGenerators.take(self.data).seed(seed)
        self._order = None

    @property
    def steps_per_epoch(self) -> int | None:
        """Batches in an epoch: known beforehand, or counted in the last one that was read to its end."""
        if self.source is not None:
            return -(-self.source.size // self.batch_size)
        try:
            return len(self.data)
        except TypeError:
            return self._counted

    # ------------------------------------------------------------------ positions

    def position(self) -> Position:
        """Where the stream stands."""
        settings = {
            "batch_size": self.batch_size,
            "shuffle": self.shuffle,
            "seed": self.seed,
            "regroup": self.regroup,
        }
        settings |= {"rest": list(self._rest), "order": self._order, "closing": self._closing}
        own = _batches.OwnGenerators.take(self.data)
        return Position(self.epoch, self.taken, self._epoch_start, own, settings)

    def seek(self, position: Position) -> None:
        """Go back to a position. **Cost**: for a loader, reading the epoch again up to there.

        The global generators end up wherever reading leaves them: the caller restores them afterwards.
        """
        settings = position.settings
        self.batch_size, self.shuffle = settings["batch_size"], settings["shuffle"]
        self.seed, self.regroup = settings["seed"], settings["regroup"]
        self._rest, self._order, self._closing = (
            list(settings["rest"]),
            settings["order"],
            settings["closing"],
        )
        self.epoch, self.taken = position.epoch, position.taken
        self._iterator, self._epoch_start = None, None
        if self.source is None and position.epoch_start is not None:
            self._replay(position)
        position.own.put()

    def _replay(self, position: Position) -> None:
        assert position.epoch_start is not None
        for state in position.epoch_start:
            state.put()
        self._iterator = self._open()
        for _ in range(position.taken):
            next(self._iterator, None)
        self._epoch_start = position.epoch_start


def _count(data: Any) -> int | None:
    dataset = getattr(data, "dataset", None)
    try:
        return len(dataset) if isinstance(data, DataLoader) and dataset is not None else None
    except TypeError:
        return None


def first_batches(data: Any, count: int) -> Callable[[], list[Any]]:
    """The first batches of a loader or callable, for a probe."""

    def read() -> list[Any]:
        batches: Any = data(0) if callable(data) else data
        iterator = iter(batches)
        return [_batches.plain(batch) for _, batch in zip(range(count), iterator, strict=False)]

    return read

"""What each member sees at each step: its own order, its own examples, its own label noise, its own batch size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from geartrain._torch import batches as _batches
from geartrain._torch.finite import is_float
from geartrain.ensemble import _streams
from geartrain.ensemble.engines._base import Batch
from geartrain.errors import InputError

_PIECE = 1 << 21  # indices drawn at once: 16 MB


def whole(data: Any, device: torch.device, dtype: torch.dtype | None) -> tuple[Any, Any]:
    """The data as (inputs, targets), whole, on the device; floating tensors cast if a type is given.

    Raises:
        InputError: Something else than pairs of inputs and targets.
    """
    parts = _batches.materialise(data, probe=None, seed=0, what="training data")
    joined = _batches.to_device(_batches.join(parts), device)
    if not isinstance(joined, (tuple, list)) or len(joined) != 2:
        raise InputError(
            "The data of an ensemble must be (inputs, targets): tensors, a dataset or a loader of such pairs; got "
            f"{type(joined).__name__}."
        )
    if dtype is not None:
        joined = tree_map(lambda t: t.to(dtype) if is_float(t) else t, joined)
    return joined[0], joined[1]


def positions(seed: int, size: int, batch: int, first: int, steps: int) -> Tensor:
    """Which of its examples a member sees, shape (steps, batch): epochs of fresh permutations, end to end.

    A batch that reaches the end of one epoch takes the rest from the next, so that all batches have one size. A batch
    of all examples takes them in their own order.

    >>> sorted(positions(0, 4, 2, first=0, steps=2).flatten().tolist())
    [0, 1, 2, 3]
    """
    if batch == size:
        return torch.arange(size).expand(steps, size)
    begin, end = first * batch, (first + steps) * batch
    epochs = range(begin // size, (end - 1) // size + 1)
    stream = torch.cat([_streams.permutation(seed, epoch, size) for epoch in epochs])
    offset = begin - epochs[0] * size
    return stream[offset : offset + end - begin].view(steps, batch)


class Batches:
    """The batches of all members, as a function of the step.

    Args:
        data: ``(inputs, targets)``, whole, on the device.
        seeds: One per member.
        batch_size: One per member; at most as many as the member has examples; ``None`` for all of them.
        label_noise: Shape (members,).
        subset: Indices of each member's examples, or ``None``.
        draws: Whether the model draws random numbers (dropout) and needs seeds.

    Raises:
        InputError: An index is out of range, or noise is asked for where the targets are not one tensor.
    """

    def __init__(
        self,
        data: tuple[Any, Any],
        seeds: Sequence[int],
        batch_size: Sequence[int | None],
        label_noise: Tensor,
        subset: Sequence[Tensor] | None,
        draws: bool,
    ) -> None:
        self.inputs, self.targets = data
        self.seeds = tuple(seeds)
        self.examples = _batches.size_of(data)
        self.draws = draws
        self.device = next(t.device for t in tree_leaves(data) if isinstance(t, Tensor))
        self.subset = self._checked(subset)
        sizes = [self.examples] * len(self.seeds) if subset is None else [len(part) for part in subset]
        self.sizes = tuple(sizes)
        self.batch = tuple(n if b is None else min(b, n) for n, b in zip(sizes, batch_size, strict=True))
        self.noisy = self._noisy(label_noise, subset)
        self.full = all(b == n for b, n in zip(self.batch, sizes, strict=True))
        self._static: tuple[tuple[int, ...], Batch] | None = None

    @property
    def nbytes(self) -> int:
        """Memory of what is kept per member: subsets and noisy targets."""
        return sum(t.nbytes for t in (self.subset, self.noisy) if t is not None)

    def _checked(self, subset: Sequence[Tensor] | None) -> Tensor | None:
        if subset is None:
            return None
        for part in subset:
            if bool((part < 0).any()) or bool((part >= self.examples).any()):
                raise InputError(
                    f"subset holds the index {int(part.max())} (smallest {int(part.min())}); the data have "
                    f"{self.examples} examples, so indices must lie in 0 ... {self.examples - 1}."
                )
        return _padded(list(subset)).to(self.device)

    def _noisy(self, rates: Tensor, subset: Sequence[Tensor] | None) -> Tensor | None:
        if not bool((rates > 0).any()):
            return None
        classes = label_classes(self.targets, rates)
        targets = self.targets.cpu()
        rows = []
        for i, (seed, rate) in enumerate(zip(self.seeds, rates.tolist(), strict=True)):
            own = targets if subset is None else targets[subset[i]]
            rows.append(_streams.noisy_labels(own, seed, rate, classes) if rate else own)
        return _padded(rows).to(self.device)

    def static(self, members: Sequence[int]) -> bool:
        """Whether these members see the same at every step."""
        return not self.draws and all(self.batch[i] == self.sizes[i] for i in members)

    def block(self, members: Sequence[int], first: int, steps: int) -> MemberBatches:
        """The batches of some members over some steps."""
        return MemberBatches(self, tuple(members), first, steps)

    def sample(self, examples: int = 8) -> Batch:
        """A small batch of the kind that training will use: shared, or of two members with weights if sizes differ."""
        few = slice(0, examples)
        inputs, targets = _batches.take((self.inputs, self.targets), few)
        count = _batches.size_of((inputs, targets))
        if len(set(self.batch)) == 1 or count < 2:
            return Batch(inputs, targets, True, True, seeds=(0, 1) if self.draws else None)
        weights = torch.full((2, count), 1 / count, dtype=weight_dtype(inputs), device=self.device)
        weights[1], weights[1, -1] = 1 / (count - 1), 0
        twice = tree_map(lambda t: torch.stack([t, t]) if isinstance(t, Tensor) else t, (inputs, targets))
        return Batch(twice[0], twice[1], False, False, weights, seeds=(0, 1) if self.draws else None)

    def one(self, member: int) -> Batch:
        """A batch of the size that this member sees, shared."""
        inputs, targets = _batches.take((self.inputs, self.targets), slice(0, self.batch[member]))
        return Batch(inputs, targets, True, True, seeds=(0,) if self.draws else None)


class MemberBatches:
    """Callable: ``batch(k)`` is the `Batch` of step ``first + k`` of these members."""

    def __init__(self, batches: Batches, members: tuple[int, ...], first: int, steps: int) -> None:
        self.all = batches
        self.members = members
        self.first, self.steps = first, steps
        self.static = batches.static(members)
        self.width = max(batches.batch[i] for i in members)
        self.weights = self._weights()
        self._index = torch.tensor(members, device=batches.device)
        self._piece: tuple[int, Tensor] | None = None

    def _weights(self) -> Tensor | None:
        sizes = [self.all.batch[i] for i in self.members]
        if len(set(sizes)) == 1:
            return None
        lengths = torch.tensor(sizes)[:, None]
        weights = (torch.arange(self.width) < lengths) / lengths.to(torch.float64)
        return weights.to(dtype=weight_dtype(self.all.inputs), device=self.all.device)

    def __call__(self, k: int) -> Batch:
        """The batch of step k of the block."""
        if self.static:
            if self.all._static is None or self.all._static[0] != self.members:
                self.all._static = (self.members, self._gather(self._positions(0), None))
            return self.all._static[1]
        seeds = None
        if self.all.draws:
            seeds = tuple(
                _streams.derived(self.all.seeds[i], "dropout", self.first + k) for i in self.members
            )
        return self._gather(self._positions(k), seeds)

    def _positions(self, k: int) -> Tensor | None:
        """Shape (members, width): places among the member's own examples; ``None`` for all of the data."""
        everything = all(self.all.batch[i] == self.all.examples for i in self.members)
        if everything and self.all.subset is None:
            return None
        size = max(1, _PIECE // (self.width * len(self.members)))
        start = k - k % size
        if self._piece is None or self._piece[0] != start:
            steps = min(size, self.steps - start) if not self.static else 1
            rows = [
                positions(self.all.seeds[i], self.all.sizes[i], self.all.batch[i], self.first + start, steps)
                for i in self.members
            ]
            # Padding repeats the member's own first example: it has no weight, and must not be a foreign NaN.
            rows = [torch.cat([r, r[:, :1].expand(-1, self.width - r.shape[1])], 1) for r in rows]
            self._piece = (start, torch.stack(rows, 1).to(self.all.device))
        return self._piece[1][k - start]

    def _gather(self, places: Tensor | None, seeds: tuple[int, ...] | None) -> Batch:
        data = self.all
        if places is None:
            targets = data.targets if data.noisy is None else data.noisy[self._index]
            return Batch(data.inputs, targets, True, data.noisy is None, None, seeds)
        rows = places if data.subset is None else data.subset[self._index[:, None], places]
        flat = rows.reshape(-1)

        def pick(t: Any) -> Any:
            # Taking rows of a two-axis index is several times slower than of a flat one.
            return t.index_select(0, flat).unflatten(0, rows.shape) if isinstance(t, Tensor) else t

        inputs = tree_map(pick, data.inputs)
        if data.noisy is None:
            targets = tree_map(pick, data.targets)
        else:
            targets = data.noisy[self._index[:, None], places]
        return Batch(inputs, targets, False, False, self.weights, seeds)


def weight_dtype(inputs: Any) -> torch.dtype:
    """Type of the weights of examples: that of the floating inputs."""
    return next((t.dtype for t in tree_leaves(inputs) if is_float(t)), torch.get_default_dtype())


def label_classes(targets: Any, rates: Tensor) -> int:
    """Number of classes that label noise chooses among; 0 for floating targets that are no labels.

    Raises:
        InputError: The targets are not one tensor, there is one class only, or a share is above 1.
    """
    if not isinstance(targets, Tensor):
        raise InputError(
            f"label_noise needs targets that are one tensor; these are a {type(targets).__name__}. "
            "Put the noise into the data yourself, or pass label_noise=0."
        )
    if targets.is_floating_point():
        binary = bool(((targets == 0) | (targets == 1)).all()) and targets.numel() == len(targets)
        classes = 2 if binary else 0
    else:
        classes = int(targets.max()) + 1
    if classes == 1:
        raise InputError("label_noise needs at least two classes; all targets are 0.")
    if classes and bool((rates > 1).any()):
        raise InputError(f"label_noise is {float(rates.max())}; as a share of wrong labels it is at most 1.")
    return classes


def _padded(rows: list[Tensor]) -> Tensor:
    longest = max(map(len, rows))
    return torch.stack([torch.cat([r, r[:1].expand(longest - len(r), *r.shape[1:])]) for r in rows])

"""Data in any of the forms that PyTorch users have, as a list of batches or as something to index."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from geartrain._torch import rng
from geartrain._torch.finite import is_float
from geartrain.errors import InputError


def size_of(batch: Any) -> int:
    """Number of examples: length of the first axis of the first tensor (1 if there is none)."""
    for leaf in tree_leaves(batch):
        if isinstance(leaf, Tensor):
            return leaf.shape[0] if leaf.ndim else 1
    return 1


def take(batch: Any, index: Any) -> Any:
    """Some examples of a batch: every tensor with the same first axis is indexed, the rest is kept."""
    size = size_of(batch)

    def pick(leaf: Any) -> Any:
        return leaf[index] if isinstance(leaf, Tensor) and leaf.ndim and leaf.shape[0] == size else leaf

    return tree_map(pick, batch)


def join(batches: Sequence[Any]) -> Any:
    """Several batches of one structure as one: tensors are concatenated along the first axis."""
    if len(batches) == 1:
        return batches[0]
    return tree_map(
        lambda *parts: torch.cat(parts) if isinstance(parts[0], Tensor) and parts[0].ndim else parts[0],
        *batches,
    )


def to_device(batch: Any, device: torch.device) -> Any:
    """The batch, its mappings as dicts, with every tensor on the device."""
    return tree_map(lambda t: t.to(device) if isinstance(t, Tensor) else t, plain(batch))


def detached(batch: Any) -> Any:
    """The same memory under other handles: a loss may call ``inputs.requires_grad_()`` without marking the data."""

    def shield(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return leaf.detach().requires_grad_() if leaf.requires_grad else leaf.detach()

    return tree_map(shield, batch)


def plain(data: Any) -> Any:
    """Mappings of other kinds (a tokenizer's output, say) as dicts, which the tree functions see into."""
    if isinstance(data, Mapping) and type(data) is not dict:
        return {key: plain(value) for key, value in data.items()}
    if type(data) in (tuple, list):
        return type(data)(plain(part) for part in data)
    return data


def is_whole(data: Any) -> bool:
    """Whether ``data`` is one structure of tensors holding all examples (not something that yields batches)."""
    if isinstance(data, (Tensor, Mapping)):
        return True
    if not isinstance(data, tuple) or isinstance(data, (DataLoader, Dataset)):
        return False
    return all(isinstance(part, (Tensor, Mapping)) or is_whole(part) for part in data)


def check_finite(data: Any, what: str) -> None:
    """Refuse NaN and infinities in the data, naming the first place.

    Raises:
        InputError: There is one.
    """
    for path, leaf in _named_leaves(data):
        if not is_float(leaf) or bool(torch.isfinite(leaf).all()):
            continue
        bad = ~torch.isfinite(leaf)
        first = tuple(bad.nonzero()[0].tolist())
        rows = int(bad.reshape(bad.shape[0], -1).any(1).sum()) if leaf.ndim else 1
        raise InputError(
            f"The {what} holds NaN or infinite numbers: {rows} of {leaf.shape[0] if leaf.ndim else 1} examples, "
            f"first at index {first} of {path}. Remove or impute them first (torch.isfinite finds them)."
        )


def _named_leaves(data: Any, path: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(data, Mapping):
        for key, value in data.items():
            yield from _named_leaves(value, f"{path}[{key!r}]")
    elif isinstance(data, (tuple, list)) and len(data) == 2 and not path:
        yield from _named_leaves(data[0], "the inputs")
        yield from _named_leaves(data[1], "the targets")
    elif isinstance(data, (tuple, list)):
        for i, value in enumerate(data):
            yield from _named_leaves(value, f"{path}[{i}]")
    else:
        yield path or "the data", data


def check_lengths(data: Any, what: str) -> None:
    """Refuse inputs and targets of different lengths.

    Raises:
        InputError: They differ, or there are no examples.
    """
    sizes = {p: t.shape[0] for p, t in _named_leaves(data) if isinstance(t, Tensor) and t.ndim}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{path}: {n}" for path, n in sizes.items())
        raise InputError(
            f"The {what} has tensors of different lengths ({listed}); they must agree along axis 0."
        )
    if not sizes or not next(iter(sizes.values())):
        raise InputError(f"The {what} is empty; at least one example is needed.")


class Source:
    """Examples that can be fetched by index: tensors or a map-style dataset.

    Args:
        data: A structure of tensors, or a dataset.
        what: Words for messages, ``"training data"``.
    """

    def __init__(self, data: Any, what: str) -> None:
        self.data = data = plain(data)
        self.whole = is_whole(data)
        if self.whole:
            check_lengths(data, what)
            check_finite(data, what)
        self.size = size_of(data) if self.whole else len(data)
        if not self.size:
            raise InputError(f"The {what} is empty; at least one example is needed.")

    def fetch(self, index: Tensor) -> Any:
        """The examples of these indices, as one batch."""
        if self.whole:
            return take(self.data, index)
        return default_collate([self.data[i] for i in index.tolist()])


def indexable(data: Any) -> bool:
    """Whether `Source` can hold it."""
    if isinstance(data, (DataLoader, IterableDataset)):
        return False
    return (
        is_whole(data)
        or isinstance(data, Dataset)
        or (hasattr(data, "__getitem__") and not isinstance(data, list))
    )


def materialise(data: Any, *, probe: int | None, seed: int, what: str) -> list[Any]:
    """The data as a list of batches, fixed once; the program's generators are left as they were.

    Args:
        data: Tensors, dataset, loader, list of batches, or a callable returning an iterable of them.
        probe: Keep that many examples only (a random subset where the data can be indexed, else the first ones).
        seed: Chooses the subset.
        what: Words for messages.

    Returns:
        A list of batches with at least one example.

    Raises:
        InputError: No examples, NaN in the data, or fewer examples than ``probe`` asks for.
    """
    with preserved_loader(data):
        if indexable(data):
            batches = [_subset(Source(data, what), probe, seed, what)]
        else:
            batches = list(_first(map(plain, _opened(data)), probe))
    if not batches:
        raise InputError(f"The {what} yields no batches; at least one example is needed.")
    for batch in batches:
        check_finite(batch, what)
    return batches


def _subset(source: Source, probe: int | None, seed: int, what: str) -> Any:
    if probe is not None and probe > source.size:
        raise InputError(
            f"A probe of {probe} examples was asked for, but the {what} has {source.size}; "
            f"ask for at most {source.size}, or for none to use everything."
        )
    if probe is None or probe == source.size:
        return source.data if source.whole else source.fetch(torch.arange(source.size))
    chosen = torch.randperm(source.size, generator=torch.Generator().manual_seed(seed))[:probe]
    return source.fetch(chosen.sort().values)


def _opened(data: Any) -> Iterable[Any]:
    batches: Any = data() if callable(data) else data
    return batches


def _first(batches: Iterable[Any], probe: int | None) -> Iterable[Any]:
    seen = 0
    for batch in batches:
        size = size_of(batch)
        if probe is not None and seen + size >= probe:
            yield take(batch, slice(0, probe - seen))
            return
        seen += size
        yield batch


class preserved_loader:
    """Iterating a loader inside the block leaves its next order, and the program's generators, as they were."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __enter__(self) -> None:
        self.own = OwnGenerators.take(self.data)
        self.global_state = rng.RngState.take()

    def __exit__(self, *exc: object) -> None:
        self.global_state.put()
        self.own.put()


@dataclass(frozen=True)
class OwnGenerators:
    """The generators that a loader, its samplers and its dataset hold (PyTorch's, NumPy's, Python's), with states."""

    torch: tuple[tuple[torch.Generator, Tensor], ...]
    numpy: tuple[tuple[np.random.Generator, Any], ...]
    python: tuple[tuple[random.Random, Any], ...]

    @staticmethod
    def take(data: Any) -> OwnGenerators:
        """The present states of all that belong to ``data``."""
        found = {id(g): g for holder in _holders(data) for g in vars(holder).values()}.values()
        return OwnGenerators(
            tuple((g, g.get_state()) for g in found if isinstance(g, torch.Generator)),
            tuple((g, g.bit_generator.state) for g in found if isinstance(g, np.random.Generator)),
            tuple((g, g.getstate()) for g in found if isinstance(g, random.Random)),
        )

    def put(self) -> None:
        """Make them the present states again."""
        for generator, state in self.torch:
            generator.set_state(state)
        for generator, state in self.numpy:
            generator.bit_generator.state = state
        for generator, state in self.python:
            generator.setstate(state)

    def seed(self, seed: int) -> None:
        """Seed them all."""
        for generator, _ in self.torch:
            generator.manual_seed(seed)
        for generator, _ in self.numpy:
            generator.bit_generator.state = type(generator.bit_generator)(seed).state
        for generator, _ in self.python:
            generator.seed(seed)


def _holders(data: Any) -> list[Any]:
    """A loader, its samplers and its dataset, and what a wrapped dataset or transform wraps."""
    waiting, found = [data], {}
    while waiting:
        holder = waiting.pop()
        if holder is None or id(holder) in found or not hasattr(holder, "__dict__"):
            continue
        found[id(holder)] = holder
        waiting += [
            vars(holder).get(k) for k in ("dataset", "sampler", "batch_sampler", "transform", "transforms")
        ]
    return list(found.values())


Batch = Any
BatchLoss = Callable[[torch.nn.Module, Batch], Tensor]

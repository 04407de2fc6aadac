"""Directions along which networks are known to be symmetric, as candidates: each is checked before it counts.

Candidates come from what the layers look like (sizes that fit, order of the calls), which may guess wrong; a
direction that changes the outputs is dropped by the check, so that a wrong guess costs time and nothing else.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from geartrain._torch import taps
from geartrain.objective import Objective

MAX_GENERATORS = 1024
"""Larger families (all mixings of 33 and more units) are not tried."""

_REACH = 3  # layers further on that may read a layer's output: normalisation may stand between
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Family:
    """Directions of one kind at one place.

    Attributes:
        kind: What it is, in words.
        place: Names of the layers.
        directions: Shape (k, params).
    """

    kind: str
    place: str
    directions: Tensor


@dataclass(frozen=True)
class _Layer:
    name: str
    module: Any
    weight: str | None
    bias: str | None

    @property
    def width(self) -> int:
        """Number of units that it gives out."""
        module = self.module
        if isinstance(module, nn.Embedding):
            return module.embedding_dim
        return len(module.weight) if module.weight.ndim > 1 else module.weight.numel()


class _Builder:
    """Writes into flat vectors by the names of parameters."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.values = dict(
            zip(objective.layout.names, objective.layout.unflatten(objective.parameters()), strict=True)
        )
        self.slices = objective.layout.slices()

    def zeros(self, count: int) -> Tensor:
        return torch.zeros(
            count, self.objective.num_params, dtype=self.objective.dtype, device=self.objective.device
        )

    def units(self, directions: Tensor, layer: _Layer, name: str) -> Tensor:
        """The same with the units that the layer gives out along axis 1: of an embedding these are the columns."""
        part = self.view(directions, name)
        return part.transpose(1, 2) if isinstance(layer.module, nn.Embedding) else part

    def made(self, layer: _Layer, name: str) -> Tensor:
        """The present values, by the units that the layer gives out."""
        return self.values[name].T if isinstance(layer.module, nn.Embedding) else self.values[name]

    def view(self, directions: Tensor, name: str) -> Tensor:
        """The part of all directions that belongs to a parameter, in its shape: writing to it writes to them."""
        return directions[:, self.slices[name]].unflatten(1, self.values[name].shape)


def families(objective: Objective) -> Iterator[Family]:
    """Candidates, most common ones first."""
    build = _Builder(objective)
    layers = _called(objective)
    for i, first in enumerate(layers):
        for second in layers[i + 1 : i + 1 + _REACH]:
            yield from _between(build, first, second)
            yield from _statistics(build, first, second)
    for layer in layers:
        yield from _shift(build, layer)
    yield from _embeddings(build, layers)
    yield from _attention(build, objective.model, layers)


def _called(objective: Objective) -> list[_Layer]:
    """Layers with weights in the order of their calls; those with tied or restricted weights left out."""
    names = {id(p): n for n, p in objective.model.named_parameters()}
    known = objective.layout.names
    with objective._quiet(), taps.recording(objective.model, known) as record:
        one = objective.batches[0]
        objective._outputs(objective._leaves(None), one)
    order = [m for m in record.calls if len(record.calls[m]) == 1]
    titles = {m: n for n, m in objective.model.named_modules()}
    layers = []
    for module in order:
        weight, bias = (names.get(id(getattr(module, k, None))) for k in ("weight", "bias"))
        if weight in known and len(record.owners[weight]) == 1 and (bias is None or bias in known):
            layers.append(_Layer(titles[module], module, weight, bias))
    return layers


def _inputs_read(layer: _Layer) -> int:
    """Length of the axis of a weight along which it reads units; 0 for layers that read no units one by one."""
    readable = (
        isinstance(layer.module, (nn.Linear, *_CONVOLUTIONS)) and getattr(layer.module, "groups", 1) == 1
    )
    return layer.module.weight.shape[1] if readable else 0


def _between(build: _Builder, first: _Layer, second: _Layer) -> Iterator[Family]:
    """Rescaling each unit of one layer and undoing it in the next; mixing the units; moving a bias on."""
    width, place = first.width, f"{first.name} -> {second.name}"
    read = _inputs_read(second)
    fits = read == width or (isinstance(first.module, _CONVOLUTIONS) and read > 0 and read % width == 0)
    if not fits:
        return
    units = torch.arange(width)
    scale = build.zeros(width)
    for name in filter(None, (first.weight, first.bias)):
        build.units(scale, first, name)[units, units] = build.made(first, name)
    _read(build, second, scale, width, units, units)
    yield Family("rescaling of units", place, scale)
    if first.bias is not None and second.bias is not None:
        move = build.zeros(width)
        build.view(move, first.bias)[units, units] = 1
        weight = build.values[second.weight or ""]
        build.view(move, second.bias).copy_(-weight.reshape(len(weight), width, -1).sum(2).T)
        yield Family("bias moved on", place, move)
    if 1 < width and width * (width - 1) <= MAX_GENERATORS and first.module.weight.ndim > 1:
        pairs = (~torch.eye(width, dtype=torch.bool)).nonzero()
        mix, which = build.zeros(len(pairs)), torch.arange(len(pairs))
        for name in filter(None, (first.weight, first.bias)):
            build.units(mix, first, name)[which, pairs[:, 0]] = build.made(first, name)[pairs[:, 1]]
        _read(build, second, mix, width, pairs[:, 1], pairs[:, 0])
        yield Family("mixing of linear units", place, mix)


def _read(
    build: _Builder, layer: _Layer, directions: Tensor, width: int, into: Tensor, source: Tensor
) -> None:
    """Subtract from what the layer reads of unit ``into`` what it reads of unit ``source``, direction by direction."""
    assert layer.weight is not None  # kept by `_called`
    weight, part = build.values[layer.weight], build.view(directions, layer.weight)
    # After flattening, one unit of a convolution is read in several neighbouring places.
    repeats = weight.shape[1] // width
    for k, (target, origin) in enumerate(zip(into.tolist(), source.tolist(), strict=True)):
        part[k, :, target * repeats : (target + 1) * repeats] -= weight[
            :, origin * repeats : (origin + 1) * repeats
        ]


def _statistics(build: _Builder, first: _Layer, second: _Layer) -> Iterator[Family]:
    """Rescaling a unit before a batch normalisation with fixed statistics, undone by its scale; moving its bias on."""
    norm = second.module
    if (
        not isinstance(norm, nn.modules.batchnorm._BatchNorm)
        or norm.running_mean is None
        or second.bias is None
    ):
        return
    if (
        first.width != second.width
        or first.bias is None
        or first.module.weight.ndim < 2
        or norm.running_var is None
    ):
        return
    units = torch.arange(first.width)
    scale, move = build.zeros(first.width), build.zeros(first.width)
    weight, bias = first.weight or "", first.bias
    build.view(scale, weight)[units, units] = build.values[weight]
    build.view(scale, bias)[units, units] = build.values[bias] - norm.running_mean
    build.view(scale, second.weight or "")[units, units] = -build.values[second.weight or ""]
    build.view(move, bias)[units, units] = 1
    spread = (norm.running_var + norm.eps).sqrt()
    build.view(move, second.bias)[units, units] = -build.values[second.weight or ""] / spread
    yield Family("rescaling of units", f"{first.name} -> {second.name}", scale)
    yield Family("bias moved on", f"{first.name} -> {second.name}", move)


def _shift(build: _Builder, layer: _Layer) -> Iterator[Family]:
    """The same added to all units: unseen by a softmax or a normalisation over them. And a common factor."""
    if not isinstance(layer.module, (nn.Linear, *_CONVOLUTIONS)):
        return
    assert layer.weight is not None  # kept by `_called`
    weight = build.values[layer.weight]
    per_unit = weight[0].numel()
    if per_unit + 1 <= MAX_GENERATORS:
        shift = build.zeros(per_unit + (layer.bias is not None))
        flat = build.view(shift, layer.weight).flatten(2)
        flat[torch.arange(per_unit), :, torch.arange(per_unit)] = 1
        build.view(shift, layer.weight).copy_(flat.view(-1, *weight.shape))
        if layer.bias is not None:
            build.view(shift, layer.bias)[per_unit] = 1
        yield Family("shift of all units (softmax or normalisation)", layer.name, shift)
    factor = build.zeros(layer.width)
    units = torch.arange(layer.width)
    for name in filter(None, (layer.weight, layer.bias)):
        build.view(factor, name)[units, units] = build.values[name]
    common = factor.sum(0, keepdim=True)
    yield Family("scale before a normalisation", layer.name, torch.cat([common, factor]))


def _embeddings(build: _Builder, layers: list[_Layer]) -> Iterator[Family]:
    """A vector added to every token and taken from every position."""
    tables = [layer for layer in layers if isinstance(layer.module, nn.Embedding)]
    for first, second in itertools.pairwise(tables):
        if first.width == second.width:
            move, units = build.zeros(first.width), torch.arange(first.width)
            for layer, sign in ((first, 1.0), (second, -1.0)):
                assert layer.weight is not None  # kept by `_called`
                build.view(move, layer.weight)[units, :, units] = sign
            yield Family("vector moved between embeddings", f"{first.name}, {second.name}", move)


@dataclass(frozen=True)
class _Block:
    """Rows of a weight that make queries, keys or values."""

    weight: str
    bias: str | None
    start: int


def _attention(build: _Builder, model: nn.Module, layers: list[_Layer]) -> Iterator[Family]:
    """Mixings of each head's queries against its keys and of its values against the output; a shift of the keys."""
    titles = {n: m for n, m in model.named_modules()}
    for name, module in titles.items():
        if isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
            prefix = f"{name}." if name else ""
            weight, bias = f"{prefix}in_proj_weight", f"{prefix}in_proj_bias"
            if weight in build.values:
                held = bias if bias in build.values else None
                blocks = [_Block(weight, held, k * module.embed_dim) for k in range(3)]
                yield from _heads(
                    build, name, blocks, f"{prefix}out_proj.weight", module.embed_dim, module.num_heads
                )
    for i, layer in enumerate(layers):
        blocks, width = _projections(layers, i)
        if blocks:
            after = i + len({block.weight for block in blocks})
            later = [o.weight for o in layers[after : after + _REACH] if isinstance(o.module, nn.Linear)]
            owner = titles.get(layer.name.rpartition(".")[0])
            heads = next(
                (h for k in ("num_heads", "n_head", "n_heads", "heads") if (h := getattr(owner, k, 0))), 1
            )
            for count in sorted({int(heads), 1} if width % int(heads) == 0 else {1}, reverse=True):
                outputs = [w for w in later if w is not None and build.values[w].shape[1] == width]
                yield from _heads(build, layer.name, blocks, outputs[0] if outputs else None, width, count)


def _projections(layers: list[_Layer], i: int) -> tuple[list[_Block], int]:
    """Queries, keys and values: one layer of three times the width, or three layers alike in a row."""
    layer = layers[i]
    if not isinstance(layer.module, nn.Linear) or layer.weight is None:
        return [], 0
    outputs, inputs = layer.module.weight.shape
    if outputs == 3 * inputs:
        return [_Block(layer.weight, layer.bias, k * inputs) for k in range(3)], inputs
    three = layers[i : i + 3]
    alike = len(three) == 3 and all(
        isinstance(o.module, nn.Linear) and o.module.weight.shape == layer.module.weight.shape for o in three
    )
    return ([_Block(o.weight or "", o.bias, 0) for o in three], outputs) if alike else ([], 0)


def _heads(
    build: _Builder, name: str, blocks: list[_Block], output: str | None, width: int, heads: int
) -> Iterator[Family]:
    size = width // heads
    if heads * size * size > MAX_GENERATORS:
        return
    query, key, value = blocks
    pairs = [(h, a, b) for h in range(heads) for a in range(size) for b in range(size)]
    against, through = build.zeros(len(pairs)), build.zeros(len(pairs))
    for k, (h, a, b) in enumerate(pairs):
        first, second = h * size + a, h * size + b
        _copy_row(build, against, k, query, first, second, 1.0)
        _copy_row(build, against, k, key, second, first, -1.0)
        _copy_row(build, through, k, value, first, second, 1.0)
        if output in build.values:
            build.view(through, output)[k, :, second] -= build.values[output][:, first]
    place = f"{name}, {heads} heads" if heads > 1 else name
    yield Family("mixing of queries against keys", place, against)
    if output in build.values:
        yield Family("mixing of values against outputs", place, through)
    if key.bias is not None:
        shift, units = build.zeros(width), torch.arange(width)
        build.view(shift, key.bias)[units, key.start + units] = 1
        yield Family("shift of the keys (softmax)", place, shift)


def _copy_row(
    build: _Builder, directions: Tensor, k: int, block: _Block, into: int, source: int, sign: float
) -> None:
    for name in filter(None, (block.weight, block.bias)):
        build.view(directions, name)[k, block.start + into] += sign * build.values[name][block.start + source]

"""Small multilayer perceptrons in machine code: forward, backward and update of one network at a time, in the cache.

For chains of linear layers and activations of up to some ten thousand parameters, numba compiles a loop that takes a
whole block of steps with one network before it turns to the next: a tile of points, the weights, the gradient and the
optimizer's state never leave the cache, and nothing is dispatched. Needs the optional extra: ``geartrain[fast]``.
Members are shared out over as many threads as torch has.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from geartrain._torch.flat import Layout
from geartrain.ensemble.engines import stack
from geartrain.ensemble.engines._base import Batch, Block, Buffers, LossFunction
from geartrain.ensemble.engines._stack._layer import Declined
from geartrain.ensemble.engines._stack._program import Program
from geartrain.ensemble.engines._stack.activation import Activation, Same
from geartrain.ensemble.engines._stack.linear import Linear
from geartrain.ensemble.engines._stack.loss import CrossEntropy, Loss
from geartrain.ensemble.engines._stack.shape import Move

MAX_PARAMS = 50_000
"""More no longer stay in a core's own cache with their gradient and moments."""

PIECE_BYTES = 16 << 20
"""Batches gathered for one call, where they differ from step to step."""

COMPILE_SECONDS, LOAD_SECONDS = 12.0, 1.5
"""What the first call costs: translating the kernel, or reading what was translated in an earlier process."""

_KINDS = {"relu": 1, "leaky_relu": 2, "tanh": 3, "sigmoid": 4, "silu": 5, "gelu": 6}
# Their derivative follows from their output, so that it may take the input's place.
_IN_PLACE = (0, 1, 2, 3, 4)
_OPTIMIZERS = {"sgd": 0, "adam": 1, "adamw": 2, "rmsprop": 3}
_OPTIONS = ("weight_decay", "momentum", "nesterov", "beta1", "beta2", "eps", "alpha")


def supports(model: nn.Module, loss_fn: LossFunction, sample: Batch) -> str | None:
    """Recognises chains of linear layers, after asking the stack engine, with which it shares the recognition."""
    if importlib.util.find_spec("numba") is None:
        return "numba is not installed; install geartrain[fast]"
    if next(iter(model.parameters())).device.type != "cpu":
        return "compiled networks run on the CPU only"
    if (why := stack.supports(model, loss_fn, sample)) is not None:
        return why
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    layout = Layout(
        tuple(named), tuple(p.shape for p in named.values()), tuple(p.dtype for p in named.values())
    )
    if layout.num_params > MAX_PARAMS:
        return f"compiled networks have at most {MAX_PARAMS:,} parameters; this one has {layout.num_params:,}"
    try:
        _chain(Program(model, loss_fn), layout)
    except Declined as reason:
        return f"the model cannot be compiled: {reason}"
    if not isinstance(sample.inputs, Tensor) or not sample.inputs.is_floating_point():
        return "compiled networks take one floating tensor"
    if sample.inputs.dtype != layout.dtype:
        return "the inputs are not of the parameters' type"
    return None


@dataclass(frozen=True)
class _Chain:
    """A perceptron as the kernel wants it; see `_compiled.kernel.train`."""

    net: np.ndarray
    kinds: np.ndarray
    slopes: np.ndarray
    room: int
    cross_entropy: bool
    ignore: int


def _chain(program: Program, layout: Layout) -> _Chain:
    """The layers one after the other.

    Raises:
        Declined: The structure is no chain of linear layers and activations.
    """
    first = len(program.depends) - len(program.steps)
    if len(program.input_names) != 1:
        raise Declined("it has several inputs")
    linear: list[Linear] = []
    acts: list[tuple[int, float]] = []
    last = 0
    for at, step in enumerate(program.steps, first):
        if step.inputs[:1] != (last,) or isinstance(step.layer, Loss) != (at == len(program.depends) - 1):
            raise Declined("it is no chain of layers")
        last = at
        if isinstance(step.layer, Linear):
            linear.append(step.layer)
            acts.append((0, 0.0))
        elif isinstance(step.layer, Activation):
            kind = _KINDS.get(step.layer.kind)
            if kind is None or not linear or acts[-1][0]:
                raise Declined("an activation does not directly follow a linear layer, or is not known")
            acts[-1] = (kind, step.layer.option)
        elif not (isinstance(step.layer, Same) or (isinstance(step.layer, Move) and not linear)):
            if not isinstance(step.layer, Loss):
                raise Declined(
                    f"it has a {type(step.layer).__name__}, not only linear layers and activations"
                )
    loss = program.steps[-1].layer
    names = [name for layer in linear for name in layer.weight_names]
    if not linear or sorted(names) != sorted(layout.names):
        raise Declined("its weights are tied, frozen, or not all in linear layers")
    if acts[-1][0]:
        raise Declined("an activation follows the last linear layer")
    return _laid_out(linear, acts, layout, loss)


def _laid_out(linear: list[Linear], acts: list[tuple[int, float]], layout: Layout, loss: Any) -> _Chain:
    from geartrain.ensemble.engines._compiled.kernel import TILE

    places, shapes = layout.slices(), dict(zip(layout.names, layout.shapes, strict=True))
    rows, transposed, room = [], 0, 0
    for layer, (kind, slope) in zip(linear, acts, strict=True):
        n_out, n_in = shapes[layer.weight]
        in_place = kind in _IN_PLACE and (kind != _KINDS["leaky_relu"] or slope > 0)
        z, y = room, room if in_place else room + TILE * n_out
        gradient = y + TILE * n_out
        bias = places[layer.bias].start if layer.bias else -1
        rows.append((n_in, n_out, places[layer.weight].start, bias, transposed, z, y, gradient))
        transposed += n_in * n_out
        room = gradient + TILE * n_out
    kinds, slopes = zip(*acts, strict=True)
    return _Chain(
        net=np.array(rows, np.int64),
        kinds=np.array(kinds, np.int64),
        slopes=np.array(slopes, np.float64),
        room=room,
        cross_entropy=isinstance(loss, CrossEntropy),
        ignore=loss.ignore if isinstance(loss, CrossEntropy) else 0,
    )


def build(model: nn.Module, loss_fn: LossFunction, layout: Layout) -> Compiled:
    """The engine for this architecture and loss.

    Raises:
        Declined: The structure is not known; `supports` says so beforehand.
    """
    return Compiled(Program(model, loss_fn), layout)


class Compiled:
    """See the module; meets `engines._base.FusedEngine`. Single gradients and outputs are the stack engine's."""

    def __init__(self, program: Program, layout: Layout) -> None:
        self.chain = _chain(program, layout)
        self.stack = stack.Stack(program, layout)
        self.outputs_per_example = int(self.chain.net[-1, 1])

    @property
    def start_seconds(self) -> float:
        """See `engines._base.Engine`."""
        kernel = sys.modules.get("geartrain.ensemble.engines._compiled.kernel")
        if kernel is not None and kernel.train.signatures:
            return 0.0
        kept = Path(__file__).parent.glob("_compiled/__pycache__/kernel.train-*.nbi")
        return LOAD_SECONDS if any(kept) else COMPILE_SECONDS

    def loss_and_gradient(self, params: Tensor, buffers: Buffers, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `engines._base.Engine`."""
        return self.stack.loss_and_gradient(params, buffers, batch)

    def outputs(self, params: Tensor, buffers: Buffers, inputs: Any) -> Tensor:
        """See `engines._base.Engine`."""
        return self.stack.outputs(params, buffers, inputs)

    def members_at_once(self, chunk: int) -> int:
        """One per thread."""
        return min(chunk, torch.get_num_threads())

    def can_run(self, block: Block) -> str | None:
        """All optimizers, clipping and masks; on the CPU."""
        if block.optimizer not in _OPTIMIZERS:
            return f"no compiled update for {block.optimizer}"
        if block.params.device.type != "cpu" or not block.params.is_contiguous():
            return "the parameters do not lie in a row on the CPU"
        return None

    def run(self, block: Block) -> Tensor:
        """See `engines._base.FusedEngine`."""
        from geartrain.ensemble.engines._compiled.kernel import train

        members = len(block.params)
        params = block.params.detach().numpy()
        empty = np.empty((1, 0), params.dtype)
        momentum = block.state.get("momentum_buffer", block.state.get("exp_avg"))
        square = block.state.get("square_avg", block.state.get("exp_avg_sq"))
        first, second, mask = (empty if t is None else t.numpy() for t in (momentum, square, block.mask))
        clip, below = (
            np.full(members, fill) if t is None else t.double().numpy()
            for t, fill in ((block.clip, np.inf), (block.below, -np.inf))
        )
        options = _options(block)
        taken, lr = block.taken.cpu().numpy(), _exact(block.lr)
        alive, losses = np.ones(members, np.bool_), np.empty((block.steps, members), params.dtype)
        chain = self.chain

        def some(data: _Data, start: int, part: slice) -> None:
            own = np.empty((data.steps, part.stop - part.start), losses.dtype)
            train(
                chain.net, chain.kinds, chain.slopes, params[part], _part(first, part), _part(second, part),
                _part(mask, part), clip[part], below[part], options[part], taken[part] + start,
                np.ascontiguousarray(lr[start : start + data.steps, part]), *data.of(part),
                int(not chain.cross_entropy), chain.ignore, _OPTIMIZERS[block.optimizer], chain.room, alive[part], own,
            )  # fmt: skip
            losses[start : start + data.steps, part] = own

        threads = min(torch.get_num_threads(), members)
        parts = [slice(i * members // threads, (i + 1) * members // threads) for i in range(threads)]
        start = 0
        for data in self._pieces(block):
            if threads == 1:
                some(data, start, parts[0])
            else:
                with ThreadPoolExecutor(threads) as pool:
                    list(pool.map(lambda part, d=data, s=start: some(d, s, part), parts))
            start += data.steps
        return torch.from_numpy(losses)

    def _pieces(self, block: Block) -> Iterator[_Data]:
        """Batches of as many steps as fit; of all steps if they are always the same."""
        if block.static:
            yield self._data([block.batch(0)], block.steps)
            return
        batches: list[Batch] = []
        for k in range(block.steps):
            batches.append(block.batch(k))
            size = batches[0].inputs.nbytes + batches[0].targets.nbytes
            if k == block.steps - 1 or (len(batches) + 1) * size > PIECE_BYTES:
                yield self._data(batches, len(batches))
                batches = []

    def _data(self, batches: list[Batch], steps: int) -> _Data:
        first = batches[0]
        dtype = first.inputs.dtype
        x = _steps([b.inputs for b in batches], first.shared_inputs)
        y = _steps([b.targets for b in batches], first.shared_targets)
        x = x.reshape(*x.shape[:3], -1)
        points = x.shape[2]
        labels, targets = np.zeros((1, 1, 0), np.int64), np.zeros((1, 1, 0, 1), x.dtype)
        if self.chain.cross_entropy:
            labels = y.reshape(*y.shape[:2], points)
            counted = labels[labels != self.chain.ignore]
            classes = self.outputs_per_example
            if counted.size and (counted.min() < 0 or counted.max() >= classes):
                raise IndexError(
                    f"Labels run from {counted.min()} to {counted.max()}; there are {classes} classes."
                )
        else:
            targets = y.reshape(*y.shape[:2], points, -1)
        weights = torch.full((1, points), 1 / points, dtype=dtype) if first.weights is None else first.weights
        if not self.chain.cross_entropy:
            weights = weights / targets.shape[-1]
        return _Data(steps, x, labels, targets, np.ascontiguousarray(weights.numpy()))


@dataclass(frozen=True)
class _Data:
    """Some steps' batches as arrays; see `_compiled.kernel.train`."""

    steps: int
    x: np.ndarray
    labels: np.ndarray
    targets: np.ndarray
    weights: np.ndarray

    def of(self, part: slice) -> tuple[np.ndarray, ...]:
        """Those of some members."""
        # Contiguous, since numba would compile the kernel anew for another layout.
        stacks = (np.ascontiguousarray(_axis_part(a, part)) for a in (self.x, self.labels, self.targets))
        return (*stacks, _part(self.weights, part))


def _steps(tensors: list[Tensor], shared: bool) -> np.ndarray:
    whole = tensors[0].unsqueeze(0) if len(tensors) == 1 else torch.stack(tensors)
    whole = whole.unsqueeze(1) if shared else whole
    return np.ascontiguousarray(whole.detach().numpy())


def _axis_part(array: np.ndarray, part: slice) -> np.ndarray:
    return array if array.shape[1] == 1 else array[:, part]


def _part(array: np.ndarray, part: slice) -> np.ndarray:
    return array if array.shape[0] == 1 else array[part]


def _options(block: Block) -> np.ndarray:
    members = len(block.params)
    columns = [block.settings.get(name) for name in _OPTIONS]
    return np.stack([np.zeros(members) if c is None else _exact(c) for c in columns], axis=1)


def _exact(numbers: Tensor) -> np.ndarray:
    """As float64, where 0.999 that has been through float32 is 0.999 again: the bias correction needs 1 - 0.999."""
    if numbers.dtype == torch.float64:
        return numbers.numpy()
    values, where = np.unique(numbers.float().numpy(), return_inverse=True)
    return np.array([float(str(v)) for v in values])[where].reshape(numbers.shape)

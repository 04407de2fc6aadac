"""Common stacks by hand: batched products forward and backward, no graph, into buffers that are allocated once.

The structure is read off the modules with `torch.fx` (nested `nn.Sequential`, or any forward method that can be
traced): linear layers, activations, layer normalisation, embeddings, small convolutions, pooling, attention, residual
sums; cross-entropy or squared error. One file of ``_stack/`` per kind of layer. A chunk is worked through a few members
at a time, as many as keep their activations in the cache, so the cost per network does not grow with their number.
Where the inputs of the first layer are mostly zeros (one-hot codes), its products become sums of gathered rows.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from geartrain._torch.flat import Layout
from geartrain._torch.loss import call_model
from geartrain.ensemble.engines._base import Batch, Buffers, LossFunction
from geartrain.ensemble.engines._stack._layer import Declined, Weights
from geartrain.ensemble.engines._stack._program import Program

CACHE_BYTES = 4 << 20
"""Activations, forward only, that are to stay in the cache together."""


def supports(model: nn.Module, loss_fn: LossFunction, sample: Batch) -> str | None:
    """Recognises the structure, and checks the gradient of one random member against autograd."""
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    layout = Layout(
        tuple(named), tuple(p.shape for p in named.values()), tuple(p.dtype for p in named.values())
    )
    if any(dtype not in (torch.float32, torch.float64) or dtype != layout.dtype for dtype in layout.dtypes):
        return "the parameters are not all of one type, float32 or float64"
    try:
        engine = build(model, loss_fn, layout)
        return _disagreement(engine, model, loss_fn, layout, sample)
    except Declined as reason:
        return f"the model cannot be run as a stack: {reason}"
    except Exception as error:  # a shape or type that the hand-written passes did not foresee
        line = (str(error).strip().splitlines() or [""])[0][:120]
        return f"the model cannot be run as a stack ({type(error).__name__}: {line})"


def _disagreement(
    engine: Stack, model: nn.Module, loss_fn: LossFunction, layout: Layout, sample: Batch
) -> str | None:
    own = {n: t.detach() for n, t in (*model.named_parameters(), *model.named_buffers())}
    device = next(iter(own.values())).device
    noise = torch.Generator().manual_seed(0)
    params = torch.randn(2, layout.num_params, generator=noise, dtype=layout.dtype).mul_(0.3).to(device)
    buffers = {n: torch.stack([t, t]) for n, t in own.items() if n not in layout.names}
    batch = sample
    losses, gradient = engine.loss_and_gradient(params, buffers, batch)
    for i in range(2):
        leaf = params[i].clone().requires_grad_()
        parts = dict(zip(layout.names, _shaped(leaf, layout), strict=True))
        inputs, targets = _of_member(batch, i)
        outputs = torch.func.functional_call(
            _Called(model), {f"model.{n}": t for n, t in parts.items()}, (inputs,)
        )
        loss = _plain_loss(loss_fn, outputs, targets, None if batch.weights is None else batch.weights[i])
        (truth,) = torch.autograd.grad(loss, leaf)
        loose = 1e-9 if layout.dtype == torch.float64 else 1e-3
        scale = truth.norm()
        if torch.isfinite(scale) and (gradient[i] - truth).norm() > loose * scale:
            return "the hand-written gradient differs from autograd's for this model"
        if torch.isfinite(loss) and abs(losses[i] - loss.detach()) > loose * (1 + abs(loss.detach())):
            return "the hand-written loss differs from autograd's for this model"
    return None


class _Called(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Any) -> Any:
        return call_model(self.model, inputs)


def _shaped(row: Tensor, layout: Layout) -> list[Tensor]:
    return [part.view(shape) for part, shape in zip(row.split(layout.sizes), layout.shapes, strict=True)]


def _plain_loss(loss_fn: LossFunction, outputs: Any, targets: Any, weights: Tensor | None) -> Tensor:
    if weights is None:
        return loss_fn(outputs, targets)
    each = [loss_fn(outputs[j : j + 1], targets[j : j + 1]) for j in range(len(weights))]
    return torch.stack([w * loss for w, loss in zip(weights, each, strict=True)]).sum()


def _of_member(batch: Batch, i: int) -> tuple[Any, Any]:
    def pick(t: Any) -> Any:
        return t[i] if isinstance(t, Tensor) else t

    inputs = batch.inputs if batch.shared_inputs else tree_map(pick, batch.inputs)
    return inputs, batch.targets if batch.shared_targets else tree_map(pick, batch.targets)


def build(model: nn.Module, loss_fn: LossFunction, layout: Layout) -> Stack:
    """The engine for this architecture and loss.

    Raises:
        Declined: The structure is not known; `supports` says so beforehand.
    """
    return Stack(Program(model, loss_fn), layout)


class Stack:
    """See the module; meets `engines._base.Engine`."""

    def __init__(self, program: Program, layout: Layout) -> None:
        self.program, self.layout = program, layout
        self._gradient: Tensor | None = None
        self._room: dict[Any, int] = {}

    def loss_and_gradient(self, params: Tensor, buffers: Buffers, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `engines._base.Engine`."""
        members = len(params)
        kept = self._gradient
        if (
            kept is None
            or kept.shape[0] < members
            or kept.dtype != params.dtype
            or kept.device != params.device
        ):
            kept = self._gradient = torch.empty_like(params)
        gradient = kept[:members]
        losses = params.new_empty(members)
        size = self._members_that_fit(params, buffers, batch)
        size = math.ceil(members / math.ceil(members / size))  # equal parts, no straggler
        with torch.no_grad():
            for start in range(0, members, size):
                part = slice(start, min(start + size, members))
                weights = None if batch.weights is None else batch.weights[part]
                stacked = self._weights(params[part], buffers, part, weights, gradient[part])
                values = self._values(batch, part, stacked.members)
                losses[part] = self.program.forward(stacked, values, with_loss=True)[-1]
                self.program.backward(stacked)
        return losses, gradient

    def _weights(
        self, params: Tensor, buffers: Buffers, part: slice, examples: Tensor | None, gradient: Tensor | None
    ) -> Weights:
        values = self._views(params)
        for name, t in buffers.items():
            values[name] = t[part]
        return Weights(values, {} if gradient is None else self._views(gradient), len(params), examples)

    def _views(self, matrix: Tensor) -> dict[str, Tensor]:
        parts = matrix.split(self.layout.sizes, dim=1)
        named = zip(self.layout.names, parts, self.layout.shapes, strict=True)
        return {name: part.view(len(matrix), *shape) for name, part, shape in named}

    def _values(self, batch: Batch, part: slice, members: int) -> list[Any]:
        inputs = _stacked(batch.inputs, batch.shared_inputs, part, members)
        return self.program.start(inputs, _stacked(batch.targets, batch.shared_targets, part, members))

    def _members_that_fit(self, params: Tensor, buffers: Buffers, batch: Batch) -> int:
        """How many members' activations stay in the cache, from a pass of one of them; all of them on a GPU."""
        if params.device.type != "cpu":
            return len(params)
        key = (
            tree_map(lambda t: t.shape if isinstance(t, Tensor) else None, batch.inputs),
            batch.shared_inputs,
        )
        key = str(key)
        if key not in self._room:
            with torch.no_grad():
                one = slice(0, 1)
                weights = None if batch.weights is None else batch.weights[one]
                stacked = self._weights(params[one], buffers, one, weights, None)
                values = self.program.forward(stacked, self._values(batch, one, 1), with_loss=True)
            first = len(values) - len(self.program.steps)
            spent = sum(t.nbytes for t in values[first:] if isinstance(t, Tensor))
            self._room[key] = max(1, CACHE_BYTES // max(spent, 1))
        return self._room[key]

    def outputs(self, params: Tensor, buffers: Buffers, inputs: Any) -> Tensor:
        """See `engines._base.Engine`."""
        results = []
        size = min([16, *self._room.values()])
        with torch.no_grad():
            for start in range(0, len(params), size):
                part = slice(start, min(start + size, len(params)))
                stacked = self._weights(params[part], buffers, part, None, None)
                values = self.program.start(_stacked(inputs, True, part, stacked.members), None)
                self.program.forward(stacked, values, with_loss=False)
                results.append(values[self.program.output.index].clone())
        return torch.cat(results)

    def members_at_once(self, chunk: int) -> int:
        """Those that stay in the cache together, as far as that is known yet."""
        return min([chunk, *self._room.values()])


def _stacked(thing: Any, shared: bool, part: slice, members: int) -> Any:
    """Leaves with a leading member axis: that part of them, or the shared ones seen by each."""

    def of(t: Any) -> Any:
        if not isinstance(t, Tensor):
            return t
        return t.expand(members, *t.shape) if shared else t[part]

    return tree_map(of, thing)

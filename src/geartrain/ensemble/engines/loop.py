"""One network after the other, by plain autograd: any module, any loss; the fastest where networks are large.

The template's parameters are pointed at the member's row of the matrix, so nothing is copied but the gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from geartrain._torch import kernels, rng
from geartrain._torch.flat import Layout
from geartrain._torch.loss import call_model, check_scalar
from geartrain.ensemble.engines._base import Batch, Buffers, LossFunction


def supports(model: nn.Module, loss_fn: LossFunction, sample: Batch) -> str | None:
    """Everything that trains at all is supported."""
    return None


def build(model: nn.Module, loss_fn: LossFunction, layout: Layout) -> Loop:
    """The engine for this architecture and loss."""
    return Loop(model, loss_fn, layout)


class Loop:
    """See the module; meets `engines._base.Engine`."""

    def __init__(self, model: nn.Module, loss_fn: LossFunction, layout: Layout) -> None:
        self.model, self.loss_fn, self.layout = model, loss_fn, layout
        named = dict(model.named_parameters())
        self._parameters = [named[name] for name in layout.names]
        self._casts = any(dtype != layout.dtype for dtype in layout.dtypes)
        self._owners = dict(_owners(model))
        self._gradient: Tensor | None = None

    def loss_and_gradient(self, params: Tensor, buffers: Buffers, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `engines._base.Engine`."""
        losses = params.new_empty(len(params))
        if (
            self._gradient is None
            or self._gradient.shape != params.shape
            or self._gradient.dtype != params.dtype
        ):
            self._gradient = torch.empty_like(params)
        gradient = self._gradient
        for i, row in enumerate(params):
            self._point_at(row, {name: t[i] for name, t in buffers.items()})
            inputs, targets = member_batch(batch, i)
            if batch.seeds is None:
                loss = self._loss(inputs, targets)
            else:
                with rng.fixed(batch.seeds[i]):
                    loss = self._loss(inputs, targets)
            parts = torch.autograd.grad(loss, self._parameters, allow_unused=True, materialize_grads=True)
            if self._casts or any(part.is_sparse for part in parts):
                gradient[i] = self.layout.flatten(parts)
            else:
                torch.cat([part.reshape(-1) for part in parts], out=gradient[i])
            losses[i] = loss.detach()
            self._read_back(i, buffers)
        return losses, gradient

    def _loss(self, inputs: Any, targets: Any) -> Tensor:
        return check_scalar(self.loss_fn(call_model(self.model, inputs), targets))

    def outputs(self, params: Tensor, buffers: Buffers, inputs: Any) -> Any:
        """See `engines._base.Engine`."""
        results = []
        with kernels.mode(self.model, False), torch.no_grad():
            for i, row in enumerate(params):
                self._point_at(row, {name: t[i].clone() for name, t in buffers.items()})
                results.append(call_model(self.model, inputs))
        return tree_map(lambda *parts: torch.stack(parts), *results)

    def members_at_once(self, chunk: int) -> int:
        """One."""
        return 1

    def _point_at(self, row: Tensor, buffers: Buffers) -> None:
        parts = row.split(self.layout.sizes)
        for parameter, part, shape in zip(self._parameters, parts, self.layout.shapes, strict=True):
            parameter.data = part.view(shape).to(parameter.dtype)
        for name, value in buffers.items():
            module, attribute = self._owners[name]
            held = getattr(module, attribute)
            if isinstance(held, nn.Parameter):
                held.data = value
            else:
                module._buffers[attribute] = value

    def _read_back(self, i: int, buffers: Buffers) -> None:
        # In-place updates went straight into the stack; a module may also put another tensor in the buffer's place.
        for name, stack in buffers.items():
            module, attribute = self._owners[name]
            held = getattr(module, attribute)
            if held.data_ptr() != stack[i].data_ptr():
                stack[i].copy_(held.detach())


def member_batch(batch: Batch, i: int) -> tuple[Any, Any]:
    """Inputs and targets of one member, without its padding."""
    kept = slice(None) if batch.weights is None else slice(0, int((batch.weights[i] > 0).sum()))

    def pick(t: Any) -> Any:
        return t[i][kept] if isinstance(t, Tensor) else t

    inputs = batch.inputs if batch.shared_inputs else tree_map(pick, batch.inputs)
    targets = batch.targets if batch.shared_targets else tree_map(pick, batch.targets)
    return inputs, targets


def _owners(model: nn.Module) -> Iterator[tuple[str, tuple[nn.Module, str]]]:
    for prefix, module in model.named_modules():
        for attribute in (*module._parameters, *module._buffers):
            yield (f"{prefix}.{attribute}" if prefix else attribute), (module, attribute)

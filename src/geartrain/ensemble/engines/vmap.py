"""All members of a chunk in one vectorised forward and backward pass: any module that `torch.func.vmap` can handle.

The forward pass is `vmap` of `functional_call` over the stacked parameters; one backward pass of the sum of the
losses then gives every member's gradient, since each loss depends on its own row alone. This is what
``vmap(grad(...))`` computes, with one layer of transformation less, and it lets stacked buffers (running statistics of
batch normalisation) be updated in place.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map

from geartrain._torch import kernels
from geartrain._torch.flat import Layout
from geartrain._torch.loss import call_model, check_scalar
from geartrain.ensemble.engines import loop
from geartrain.ensemble.engines._base import Batch, Buffers, LossFunction, stacked_views
from geartrain.errors import GeartrainError


def supports(model: nn.Module, loss_fn: LossFunction, sample: Batch) -> str | None:
    """Tries it: two members must get the gradients that plain autograd gives them."""
    if kernels.draws_random_numbers(model):
        return "dropout draws one mask per call: vectorised members could not draw what each draws alone"
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    layout = Layout(
        tuple(named), tuple(p.shape for p in named.values()), tuple(p.dtype for p in named.values())
    )
    row = layout.flatten(p.detach() for p in named.values())
    # Two different members, or a mix-up between them would not show.
    params = torch.stack([row, 0.9 * row + 0.01])
    others = {**dict(model.named_buffers()), **{n: p for n, p in model.named_parameters() if n not in named}}
    buffers = {name: torch.stack([t.detach()] * 2) for name, t in others.items()}
    copies = {name: t.clone() for name, t in buffers.items()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mine = build(model, loss_fn, layout).loss_and_gradient(params, buffers, sample)
    except GeartrainError as error:
        return str(error)
    except Exception as error:  # whatever vmap makes a module raise, the reason is its first line
        told = (str(error).strip().splitlines() or [""])[0][:120]
        return f"vmap cannot run this model or loss ({type(error).__name__}: {told})"
    theirs = loop.build(model, loss_fn, layout).loss_and_gradient(params, copies, sample)
    loose = 1e-9 if layout.dtype == torch.float64 and not _narrow(layout) else 1e-3
    agree = all(
        torch.allclose(m, t, rtol=loose, atol=loose * float(t.abs().max()), equal_nan=True)
        for m, t in zip((*mine, *buffers.values()), (*theirs, *copies.values()), strict=True)
        if t.numel() and bool(torch.isfinite(t.double()).all())
    )
    return None if agree else "vmap gives other gradients than plain autograd for this model"


def _narrow(layout: Layout) -> bool:
    return any(dtype != layout.dtype for dtype in layout.dtypes)


def build(model: nn.Module, loss_fn: LossFunction, layout: Layout) -> Vmap:
    """The engine for this architecture and loss."""
    return Vmap(model, loss_fn, layout)


class Vmap:
    """See the module; meets `engines._base.Engine`."""

    def __init__(self, model: nn.Module, loss_fn: LossFunction, layout: Layout) -> None:
        self.model, self.loss_fn, self.layout = model, loss_fn, layout

    def loss_and_gradient(self, params: Tensor, buffers: Buffers, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `engines._base.Engine`."""
        leaves = leaves_of(params, self.layout)
        losses = member_losses(self.model, self.loss_fn, leaves, buffers, batch)
        parts = torch.autograd.grad(
            losses.sum(), list(leaves.values()), allow_unused=True, materialize_grads=True
        )
        return losses.detach().to(params.dtype), flatten(parts, params)

    def outputs(self, params: Tensor, buffers: Buffers, inputs: Any) -> Any:
        """See `engines._base.Engine`."""

        def one(parameters: dict[str, Tensor], others: Buffers) -> Any:
            return functional_call(Caller(self.model), _prefixed(parameters, others), (inputs,))

        with kernels.mode(self.model, False), torch.no_grad(), _quiet():
            others = {name: t.clone() for name, t in buffers.items()}
            return torch.vmap(one)(stacked_views(params, self.layout), others)

    def members_at_once(self, chunk: int) -> int:
        """All of them."""
        return chunk


class Caller(nn.Module):
    """The model under the name ``model``, its inputs as one argument."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Any) -> Any:
        """The model's outputs."""
        return call_model(self.model, inputs)


def _prefixed(*dicts: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"model.{name}": t for part in dicts for name, t in part.items()}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides the warnings of operations that vmap runs one by one: calibration has weighed that."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*batching rule.*")
        yield


def leaves_of(params: Tensor, layout: Layout) -> dict[str, Tensor]:
    """The stacked parameters by name, each a leaf that wants a gradient."""
    return {name: t.detach().requires_grad_() for name, t in stacked_views(params, layout).items()}


def flatten(parts: Any, like: Tensor) -> Tensor:
    """Stacked tensors in the order of the layout as one matrix (members, params) of the type of ``like``."""
    return torch.cat([part.reshape(len(like), -1).to(like.dtype) for part in parts], dim=1)


def member_losses(
    model: nn.Module, loss_fn: LossFunction, leaves: dict[str, Tensor], buffers: Buffers, batch: Batch
) -> Tensor:
    """Losses of all members with a graph to the leaves, shape (members,); buffers are updated in place.

    Raises:
        InputError: The loss is no scalar.
    """
    caller = Caller(model)

    def one(
        parameters: dict[str, Tensor], others: Buffers, inputs: Any, targets: Any, weights: Tensor | None
    ) -> Tensor:
        outputs = functional_call(caller, _prefixed(parameters, others), (inputs,))
        if weights is None:
            return check_scalar(loss_fn(outputs, targets))

        def of_example(output: Any, target: Any) -> Tensor:
            lone = tree_map(lambda t: t[None] if isinstance(t, Tensor) else t, (output, target))
            return check_scalar(loss_fn(*lone))

        return (torch.vmap(of_example)(outputs, targets) * weights).sum()

    weighted = None if batch.weights is None else 0
    in_dims = (0, 0, None if batch.shared_inputs else 0, None if batch.shared_targets else 0, weighted)
    with _quiet():
        return torch.vmap(one, in_dims=in_dims)(leaves, buffers, batch.inputs, batch.targets, batch.weights)

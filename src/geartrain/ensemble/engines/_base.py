"""What an engine is: something that computes the losses and gradients of a chunk of networks.

An engine is a module of this folder, named like the engine, with two functions::

    supports(model, loss_fn, sample) -> str | None      # None: yes; else one sentence why not
    build(model, loss_fn, layout) -> Engine

``model`` is a template: a module of the right architecture whose own values mean nothing; the engine may write into it
while it computes, and it belongs to this ensemble alone. ``loss_fn(outputs, targets)`` returns a scalar, the mean over
the examples. ``sample`` is a small `Batch` of the kind that training will use, with fewer examples: shared by all
members; where batch sizes differ, that of two members, with weights; with seeds where the model draws random numbers.
``supports`` must not raise: what it cannot run it declines in one sentence, for people. An engine that needs an
optional library imports it inside ``supports`` and ``build`` only.

**Numbers.** Members lie along axis 0 everywhere. Parameters are one matrix ``params`` of shape (members, params),
in the order of ``layout`` (`geartrain._torch.flat.Layout`: those of ``model.parameters()`` that need gradients, a tied
weight once), contiguous, in ``layout.dtype``; a parameter of a narrower type (bfloat16) is cast for the forward pass.
``buffers`` maps names to stacked tensors of shape (members, ...): the module's buffers *and* its frozen parameters.
The number of members may differ from call to call (members that have stopped leave).

**Results** of member s must equal those of the same network trained alone (`geartrain.ensemble.alone`) within rounding,
whatever the engine: same loss (mean over the batch, evaluated before the update), same gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from geartrain._torch.flat import Layout

LossFunction = Callable[[Any, Any], Tensor]
Buffers = dict[str, Tensor]


@dataclass(frozen=True)
class Batch:
    """What a chunk of members sees in one step.

    Attributes:
        inputs: A tensor, or a nested structure of tensors (a tuple is passed as positional arguments, a dict as
            keywords): every leaf (b, ...) if shared, else (members, b, ...).
        targets: The same for the targets.
        shared_inputs: Whether all members see the same inputs (no member axis).
        shared_targets: Whether all members see the same targets. Inputs may be shared where targets are not (label
            noise on full batches).
        weights: ``None``: the loss is ``loss_fn`` of the whole batch. Else shape (members, b), each row summing to
            one: the loss is ``sum_j weights[j] * loss_fn(outputs[j:j+1], targets[j:j+1])``. Rows are 1/b_s for
            the b_s examples of the member, which come first, and 0 for the padding behind them; it is only ever used
            for members whose batches differ in size, and only with losses that are means over the examples.
        seeds: ``None`` for models that draw no random numbers. Else one seed per member: before its forward pass the
            program's generators are to be as after ``rng.seed_all(seed)``, so that dropout draws what the lone
            network draws. An engine that cannot do this declines models that draw (`kernels.draws_random_numbers`).
    """

    inputs: Any
    targets: Any
    shared_inputs: bool
    shared_targets: bool
    weights: Tensor | None = None
    seeds: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Block:
    """Several steps in a row of one chunk, for engines that fuse the update with the gradient (`FusedEngine`).

    Attributes:
        params: Shape (members, params); to be updated in place.
        buffers: Stacked buffers; to be updated in place.
        optimizer: ``"sgd"``, ``"adam"``, ``"adamw"`` or ``"rmsprop"`` (momentum and Nesterov are settings of ``sgd``).
        settings: Hyper-parameters per member, each of shape (members,), in ``params.dtype``: ``weight_decay``; for
            sgd ``momentum`` (and the flag ``nesterov`` as 0/1); for adam and adamw ``beta1``, ``beta2``,
            ``eps``; for rmsprop ``alpha``, ``eps``, ``momentum``. Update rules are those of `torch.optim`.
        state: The optimizer's state, to be updated in place, each (members, params): sgd ``momentum_buffer`` (absent
            where no member has momentum); adam, adamw ``exp_avg``, ``exp_avg_sq``; rmsprop ``square_avg`` and
            ``momentum_buffer`` (absent as above).
        taken: Shape (members,), int64: updates taken before this block (Adam's bias correction uses ``taken + 1``); not
            to be changed by the engine. All members of a chunk that still train have taken the same number.
        lr: Shape (steps, members): step sizes, schedule included.
        steps: Number of steps.
        batch: ``batch(k)`` is the `Batch` of step k of this block, k = 0 ... steps-1.
        static: Whether ``batch(k)`` is the same for every k (full batches).
        clip: Shape (members,) or ``None``: largest allowed norm of the whole gradient; the gradient is multiplied by
            ``min(1, clip / (norm + 1e-6))`` (as `torch.nn.utils.clip_grad_norm_`), infinity where not clipped.
        mask: Shape (members, params) of 0/1 or ``None``: gradients are multiplied by it, before clipping.
        below: Shape (members,) or ``None``: a member whose loss is at or below it stops.
    """

    params: Tensor
    buffers: Buffers
    optimizer: str
    settings: Mapping[str, Tensor]
    state: Mapping[str, Tensor]
    taken: Tensor
    lr: Tensor
    steps: int
    batch: Callable[[int], Batch]
    static: bool
    clip: Tensor | None = None
    mask: Tensor | None = None
    below: Tensor | None = None


@runtime_checkable
class Engine(Protocol):
    """Losses and gradients of a chunk of members.

    An engine may have an attribute ``start_seconds``: roughly what its first step costs once (compilation), 0 if it
    was paid before. Trainings that others finish in such a time do not try it.
    """

    def loss_and_gradient(self, params: Tensor, buffers: Buffers, batch: Batch) -> tuple[Tensor, Tensor]:
        """Loss and gradient of every member at its parameters.

        Args:
            params: Shape (members, params); not changed.
            buffers: Stacked buffers, updated in place where the model updates its own (running statistics).
            batch: What the members see.

        Returns:
            Losses, shape (members,), detached; gradients, shape (members, params), in ``params.dtype``, zero for
            parameters that the loss does not reach. The gradient may be overwritten by the caller, and by the next
            call of this engine.
        """
        ...

    def outputs(self, params: Tensor, buffers: Buffers, inputs: Any) -> Any:
        """Outputs of every member on the same inputs, in evaluation mode, without a graph; changes nothing.

        Args:
            params: Shape (members, params).
            buffers: Stacked buffers.
            inputs: Shared inputs, leaves (b, ...).

        Returns:
            Outputs with a leading member axis: (members, b, ...), nested like the model's own.
        """
        ...

    def members_at_once(self, chunk: int) -> int:
        """How many members' activations are held at the same time for a chunk of that many (memory plan)."""
        ...


@runtime_checkable
class FusedEngine(Engine, Protocol):
    """An engine that can take whole steps, update included. ``run`` is then used wherever `can_run` is None."""

    def can_run(self, block: Block) -> str | None:
        """``None`` if `run` can take this block (its optimizer, clipping, ...); else one sentence why not. Cheap."""
        ...

    def run(self, block: Block) -> Tensor:
        """Take the steps of the block, parameters and optimizer state updated in place.

        A member is frozen (parameters, optimizer state and buffers unchanged from then on) at the first step whose
        loss is not finite, or at or below ``block.below``: that step's loss is returned, its update is not made.

        Returns:
            Shape (steps, members): the loss of each step before its update; NaN after the step at which a member froze.
        """
        ...


def stacked_views(params: Tensor, layout: Layout) -> dict[str, Tensor]:
    """The parameters by name as views (members, *shape) of ``params`` (members, params); casts where types differ.

    >>> import torch
    >>> layout = Layout(("w",), (torch.Size([1, 2]),), (torch.float32,))
    >>> stacked_views(torch.zeros(3, 2), layout)["w"].shape
    torch.Size([3, 1, 2])
    """
    parts = params.split(layout.sizes, dim=1)
    named = zip(layout.names, parts, layout.shapes, layout.dtypes, strict=True)
    return {
        name: part.unflatten(1, shape).to(dtype) if shape else part[:, 0].to(dtype)
        for name, part, shape, dtype in named
    }

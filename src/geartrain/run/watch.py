"""Cheap hooks on an optimizer: what gradient it saw, how far it went, whether it turned back."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class OptimizerWatch:
    """Notes norms and cosines at every optimizer step.

    Works with any loop, the user's own included, because it only hooks ``optimizer.step``.
    **Cost** per step: one copy of the parameters and a few reductions over them.

    Args:
        model: Whose parameters to watch.
        optimizer: Whose steps to watch.

    Attributes:
        row: What was noted at the last step.
        steps: Optimizer steps seen.
        clip_grad_norm: Clip gradients to this norm before the step is taken; ``None`` for never.
        also_after: Called after every step, before the update is measured (a fork's decoupled weight decay, say).
        detail: Set to a dict to have the full ``"gradient"`` and ``"update"`` vectors of the last step put in it.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.model = model
        self.row: dict[str, float] = {}
        self.steps = 0
        self.clip_grad_norm: float | None = None
        self.detail: dict[str, Tensor] | None = None
        self.also_after: Callable[..., None] | None = None
        self.before: list[Tensor] = []
        self._noted = False
        self.update: Tensor | None = None
        self._handles = [
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
        ]

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _trained(self) -> list[nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]

    def begin(self, clip_grad_norm: float | None) -> None:
        """A new training step: forget what was noted at the last one."""
        self.row, self.before, self._noted, self.clip_grad_norm = {}, [], False, clip_grad_norm

    @torch.no_grad()
    def gradients_ready(self) -> None:
        """Note the gradient (the first time in a step), then clip it."""
        if not self._noted:
            self._noted = True
            parameters = self._trained()
            self.row["grad_norm"] = _norm([p.grad for p in parameters if p.grad is not None])
            if self.detail is not None:
                grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
                self.detail["gradient"] = torch.cat([_wide(g).reshape(-1) for g in grads])
        if self.clip_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_grad_norm)

    @torch.no_grad()
    def _before(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        # With a closure the gradients are still those of the step before.
        if not self._noted and not any(callable(a) for a in (*args, *kwargs.values())):
            self.gradients_ready()
        self.row["lr"] = float(optimizer.param_groups[0]["lr"])
        self.before = [p.detach().clone() for p in self._trained()]

    @torch.no_grad()
    def _after(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if self.also_after is not None:
            self.also_after()
        parameters = self._trained()
        pairs = zip(parameters, self.before, strict=True)
        update = torch.cat([_wide(p - old).reshape(-1) for p, old in pairs])
        length, size = float(update.norm()), _norm(self.before)
        self.row["update_norm"], self.row["param_norm"] = length, size
        earlier = self.update
        if earlier is not None and earlier.shape == update.shape:
            scale = length * float(earlier.norm())
            self.row["cosine"] = (
                float(update @ earlier) / scale if scale > 0 and math.isfinite(scale) else math.nan
            )
        if self.detail is not None:
            self.detail["update"] = update
        self.update = update
        self._noted = False
        self.steps += 1


def _norm(tensors: list[Tensor]) -> float:
    if not tensors:
        return 0.0
    return float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(_wide(t)) for t in tensors])))


def _wide(tensor: Tensor) -> Tensor:
    """At least single precision; double stays double; sparse gradients (of embeddings) become dense."""
    tensor = tensor.to_dense() if tensor.is_sparse else tensor
    return tensor if tensor.dtype == torch.float64 else tensor.float()

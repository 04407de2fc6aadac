"""What every group of observables shares: the scene of one step, and when it is asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from geartrain.monitor._parameters import Parameters
from geartrain.monitor.record import Row


@dataclass
class Scene:
    """One optimizer step, from the end of the one before to its own.

    Attributes:
        parameters: What the optimizer holds.
        row: What is noted.
        loss_scale: By what the loss was multiplied before the backward pass (mixed precision); 1 if not known.
        grad_scale: By what the gradients are still multiplied when the optimizer gets them (fused ones unscale them
            themselves).
        left: Norm of each gradient as the last backward pass left it, before any clipping or unscaling.
        changed: Whether somebody changes the gradients between the backward pass and the step.
        backwards: Backward passes since the last step.
        cleared: Whether there was no gradient before the first of them.
        batches: Examples of every forward pass since then.
        ranks: Processes that average their gradients.
        charge: Puts seconds on the account of a group.
        clock: Tells them.
    """

    parameters: Parameters
    row: Row
    loss_scale: float = 1.0
    grad_scale: float | Tensor = 1.0
    left: Tensor | None = None
    changed: bool = False
    backwards: int = 0
    cleared: bool = True
    batches: list[int] = field(default_factory=list)
    ranks: int = 1
    charge: Callable[[str, float], None] = lambda name, seconds: None
    clock: Callable[[], float] = time.perf_counter
    _grad_norms: Tensor | None = None
    _param_norms: Tensor | None = None

    def grad_norms(self) -> Tensor:
        """Norm of each gradient as the optimizer uses it, shape (parameters,); computed once."""
        if self._grad_norms is None:
            self._grad_norms = self.parameters.norms(self.parameters.gradients()) / self.grad_scale
        return self._grad_norms

    def param_norms(self) -> Tensor:
        """Norm of each parameter before the step, shape (parameters,); computed once."""
        if self._param_norms is None:
            self._param_norms = self.parameters.norms(self.parameters.tensors)
        return self._param_norms

    def start_over(self) -> None:
        """The gradients were thrown away: what was read of them does not count."""
        self.left = self._grad_norms = self._param_norms = None
        self.backwards, self.batches = 0, self.batches[-1:]
        self.row.numbers.clear()
        self.row.layers.clear()

    def listener(self, name: str, hear: Callable[[Tensor], None]) -> Callable[[Tensor], None]:
        """A hook on a tensor whose work is on the account of a group, and which is never pickled."""

        @torch.utils.hooks.unserializable_hook
        @torch.no_grad()
        def hook(gradient: Tensor) -> None:
            start = self.clock()
            hear(gradient.detach())
            self.charge(name, self.clock() - start)

        return hook

    def number(self, name: str, value: Tensor | float) -> None:
        """Note a number."""
        self.row.numbers[name] = value

    def layers(self, name: str, values: Tensor) -> None:
        """Note one number per layer that owns parameters."""
        self.row.layers[name] = (self.parameters.layers, values)


class Group:
    """Observables that are measured together, because they share their work.

    Attributes:
        name: Its name, for schedules.
        least: Shortest period that its price class permits, in steps.
        length: Successive steps that one occurrence takes.
        inside: Whether it looks into the model's forward pass, at the calls of its layers.
    """

    name: ClassVar[str]
    least: ClassVar[int] = 1
    length: ClassVar[int] = 1
    inside: ClassVar[bool] = False

    def begin(self, scene: Scene) -> None:
        """The step before is over; this group is due at the coming one."""

    def called(
        self, name: str, module: nn.Module, inputs: Tensor | None, output: Tensor, scene: Scene
    ) -> None:
        """A layer was called in a forward pass that will be differentiated."""

    def gradients(self, scene: Scene) -> None:
        """The gradients are as the optimizer will use them; the parameters have not moved."""

    def after(self, scene: Scene) -> None:
        """The optimizer has moved the parameters."""

    def forget(self) -> None:
        """Let go of whatever was attached or kept: the step did not come, or the parameters are others now."""


def watches_inside(groups: Iterable[Group]) -> bool:
    """Whether any of them looks into the forward pass."""
    return any(group.inside for group in groups)


def root_sum_square(norms: Tensor) -> Tensor:
    """Norm of the whole from the norms of its parts, shape ()."""
    return torch.linalg.vector_norm(norms)

"""The hooks that a monitor leaves on the user's objects, made so that they travel nowhere with them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from geartrain.monitor._parameters import Parameters


def nothing(*args: Any, **kwargs: Any) -> None:
    """What is left of a hook in a copy of the model."""


class Hook:
    """A module hook that does not follow when the model is copied or pickled (an average of its weights, say)."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call

    def __call__(self, *args: Any) -> Any:
        return self.call(*args)

    def __deepcopy__(self, memo: Any) -> Callable[..., None]:
        return nothing

    def __reduce__(self) -> Any:
        return (_give_nothing, ())


def _give_nothing() -> Callable[..., None]:
    return nothing


CERTAIN = 64
"""Steps of one backward pass each, after which a loop is believed to go on like that."""


class Listener(Protocol):
    """Who hears of backward passes."""

    def accumulated(self, fresh: bool) -> bool:
        """A backward pass has reached the sentinel."""
        ...

    def backward_is_over(self) -> None:
        """It is over."""
        ...


class Sentinel:
    """One small parameter from which everything about the order of backward passes, clearing and steps is told.

    Autograd adds to a gradient in place, which counts its version up by one. A new tensor, or another version, means
    that somebody cleared it (or clipped it, or unscaled it) in between.

    Args:
        listener: Who is told.

    Attributes:
        changed: Whether gradients were ever changed between a backward pass and the step.
    """

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.changed = False
        self._parameters: Parameters | None = None
        self._parameter: Tensor | None = None
        self._handle: Any = None
        self._grad: Tensor | None = None
        self._version = -1
        self._heard = False
        self._silent = self._dull = 0

    @property
    def listening(self) -> bool:
        """Whether it is attached."""
        return self._handle is not None

    def attach(self, parameters: Parameters) -> None:
        """Choose a parameter and listen."""
        self._parameters = parameters
        self._choose(None)

    def _choose(self, avoid: Tensor | None) -> None:
        self.detach()
        assert self._parameters is not None
        able = [p for p in self._parameters.tensors if p.requires_grad and p.is_leaf and p is not avoid]
        arrived = [p for p in able if p.grad is not None and not p.grad.is_sparse] or able
        if not arrived:
            return
        # Biases are small, and their gradients are never sparse.
        chosen = min(arrived, key=lambda p: (p.ndim > 1, p.numel()))
        self._parameter, self._grad, self._version = chosen, None, -1
        self._handle = chosen.register_post_accumulate_grad_hook(self._accumulated)

    def rest(self, quiet: bool) -> None:
        """Stay away from steps at which nothing is measured, once it is known that there is nothing to be told.

        That is so where gradients were never changed, cleared without a step, or gathered from several passes.
        """
        if quiet and self._dull >= CERTAIN:
            self.detach()
        elif self._handle is None and self._parameters is not None:
            self._choose(None)

    def detach(self) -> None:
        """Stop listening."""
        if self._handle is not None:
            self._handle.remove()
        self._handle = self._parameter = self._grad = None

    def _accumulated(self, parameter: Tensor) -> None:
        grad = parameter.grad
        if grad is None:
            return
        added = grad is self._grad and grad._version == self._version + 1
        self._grad, self._version, self._heard = grad, grad._version, True
        if added:
            self._dull = -(10**9)
        if self.listener.accumulated(fresh=not added):
            callback = torch.autograd.Variable._execution_engine.queue_callback  # type: ignore[attr-defined]
            # Twice: DistributedDataParallel queues its own, and has averaged the gradients only after that.
            callback(lambda: callback(self.listener.backward_is_over))

    def compare(self, *, several: bool) -> bool:
        """At the optimizer's step: were the gradients changed since the backward pass (by clipping or unscaling)?

        Args:
            several: Several processes average them, which changes them as well.
        """
        if self._handle is None:
            return False
        if not self._heard:
            # Nothing arrived here in this step: another parameter may tell more.
            self._silent += 1
            if self._silent >= 2 and self._parameters is not None:
                self._silent = 0
                self._choose(self._parameter)
            return False
        self._heard, self._silent = False, 0
        here = self._parameter.grad if self._parameter is not None else None
        now = several or here is not self._grad or (here is not None and here._version != self._version)
        self.changed = self.changed or now
        self._dull = -(10**9) if now else self._dull + 1
        return now


def loss_scaler_in_use(depth: int = 12) -> Any:
    """The `torch.amp.GradScaler` that is calling the optimizer right now, or ``None``."""
    frame = sys._getframe(1)
    for _ in range(depth):
        found = frame.f_locals.get("self")
        if isinstance(found, torch.amp.GradScaler):
            return found
        if frame.f_back is None:
            return None
        frame = frame.f_back
    return None

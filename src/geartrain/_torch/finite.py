"""Finds the first module whose output is not finite."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves


def finite(tensor: torch.Tensor) -> bool:
    """Whether a tensor is free of NaN and infinities.

    A finite sum proves it, at a fiftieth of the price; only a sum that is not may have overflowed by itself.

    >>> finite(torch.tensor([3e38, 3e38])), finite(torch.tensor([1.0, float("nan")]))
    (True, False)
    """
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def all_finite(thing: Any) -> bool:
    """Whether every floating tensor in a nested structure is free of NaN and infinities."""
    return all(finite(t) for t in tree_leaves(thing) if is_float(t))


def is_float(thing: Any) -> bool:
    """Whether it is a tensor of real floating numbers."""
    return isinstance(thing, torch.Tensor) and thing.is_floating_point()


def first_nonfinite_module(model: nn.Module, forward: Callable[[], Any]) -> str | None:
    """Name of the first module, in order of execution, that turned finite inputs into a non-finite output.

    Args:
        model: The model to watch.
        forward: Runs it once; exceptions are swallowed, since the point is what came before them.

    Returns:
        The name with its type, ``"layers.3 (LayerNorm)"``; or the name of the first non-finite parameter;
        ``None`` if everything in the model is finite (then the loss function made it).
    """
    for name, parameter in model.named_parameters():
        if not all_finite(parameter.detach()):
            return f"{name} (a parameter)"
    found: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if not found and not all_finite(output):
                found.append(f"{name or 'the model'} ({type(module).__name__})")

        return hook

    handles = [m.register_forward_hook(watch(name)) for name, m in model.named_modules()]
    try:
        forward()
    except (RuntimeError, ValueError, ArithmeticError):
        pass
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None

"""Growth of gradients backwards through time, in recurrent layers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from geartrain._torch import batches as _batches
from geartrain.instruments._layers import leaf_outputs
from geartrain.objective import Objective

EXAMPLES = 64


def recurrent_growth(objective: Objective) -> float:
    """Log growth per time step of the gradient of the last state with respect to earlier inputs or states.

    The slope of ln rms(∂h_T/∂x_t) over T - t (least squares): the log of the spectral radius for a linear
    recurrence and long times. NaN where the model has no recurrent layer and calls no layer at least four times.
    """
    recurrent = [m for m in objective.model.modules() if isinstance(m, nn.RNNBase)]
    cells = any(isinstance(m, nn.RNNCellBase) for m in objective.model.modules())
    if not recurrent and not cells and not _may_loop(objective.model):
        return math.nan
    part = _batches.take(objective.batches[0], slice(0, EXAMPLES))
    sizes = _through_layer(objective, recurrent[0], part) if recurrent else _through_calls(objective, part)
    return slope(sizes)


def slope(sizes: np.ndarray) -> float:
    """Least-squares slope of ln(size) over the lag; NaN with fewer than four positive sizes.

    >>> round(slope(np.array([1.0, 0.5, 0.25, 0.125])) - math.log(0.5), 12) == 0
    True
    """
    lags = np.flatnonzero(sizes > 0)
    return float(np.polyfit(lags, np.log(sizes[lags]), 1)[0]) if len(lags) >= 4 else math.nan


def _may_loop(model: nn.Module) -> bool:
    # Only code that the library does not know can call one layer several times.
    return not isinstance(model, nn.Sequential)


def _through_layer(objective: Objective, layer: nn.RNNBase, part: Any) -> np.ndarray:
    """Rms of the gradient of the last output with respect to the input at each lag."""
    seen: dict[str, Tensor] = {}

    def enter(module: nn.Module, args: tuple[Any, ...]) -> Any:
        if "input" in seen or not isinstance(args[0], Tensor):
            return None
        seen["input"] = args[0].detach().requires_grad_()
        return (seen["input"], *args[1:])

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        seen.setdefault("output", output[0])

    handles = [layer.register_forward_pre_hook(enter), layer.register_forward_hook(leave)]
    try:
        with objective._quiet():
            objective._loss(objective._leaves(None), part)
    finally:
        for handle in handles:
            handle.remove()
    output = seen.get("output")
    if not isinstance(output, Tensor) or not isinstance(seen.get("input"), Tensor):
        return np.array([])
    axis = (1 if layer.batch_first else 0) if output.ndim == 3 else 0
    last = output.select(axis, output.shape[axis] - 1)
    with objective._quiet():
        grad = torch.autograd.grad(last, seen["input"], _probe_like(last))[0]
    sizes = grad.double().movedim(axis, 0).reshape(grad.shape[axis], -1).square().mean(1).sqrt()
    return sizes.flip(0).cpu().numpy()


def _through_calls(objective: Objective, part: Any) -> np.ndarray:
    """The same for cells and layers called in a loop: gradient of the last call's output in each earlier one's."""
    calls: dict[nn.Module, list[Tensor]] = {}

    def tap(name: str, module: nn.Module, output: Tensor) -> Tensor | None:
        if not output.requires_grad or next(module.parameters(), None) is None:
            return None
        calls.setdefault(module, []).append(output)
        return output.clone()

    with objective._quiet(), leaf_outputs(objective.model, tap):
        objective._loss(objective._leaves(None), part)
    chains = [
        outputs for outputs in calls.values() if len(outputs) >= 4 and len({o.shape for o in outputs}) == 1
    ]
    # Layers that only read the input are called as often, but their calls do not depend on each other.
    return max((_along(objective, chain) for chain in chains), key=np.count_nonzero, default=np.array([]))


def _along(objective: Objective, chain: list[Tensor]) -> np.ndarray:
    with objective._quiet():
        grads = torch.autograd.grad(
            chain[-1], chain[:-1], _probe_like(chain[-1]), retain_graph=True, allow_unused=True
        )
    return np.array([0.0 if g is None else float(g.double().square().mean().sqrt()) for g in reversed(grads)])


def _probe_like(last: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(last.shape, generator=generator, dtype=torch.float64).to(last)

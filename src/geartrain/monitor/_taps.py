"""Looking into forward passes: hooks on the layers, attached for one pass at a time.

Attached all the time they would slow down every pass, and change the kernels that PyTorch chooses in evaluation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from geartrain.instruments._layers import first_tensor, leaf_modules
from geartrain.monitor._parameters import plain_model

Visit = Callable[[str, nn.Module, Tensor | None, Tensor], None]


def is_compiled(module: nn.Module) -> bool:
    """Whether calls of the module run a graph from `torch.compile`."""
    return hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None


def visible_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Layers whose calls can be seen: not those inside compiled graphs or replicas."""
    if is_compiled(model) or isinstance(model, nn.DataParallel):
        return {}
    plain = plain_model(model)
    hidden = tuple(f"{name}." for name, m in plain.named_modules() if name and is_compiled(m))
    if is_compiled(plain):
        return {}
    return {
        n: m
        for n, m in leaf_modules(plain).items()
        if not (n.startswith(hidden) if hidden else False) and not is_compiled(m)
    }


class Taps:
    """Hooks on the visible layers of a model.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        self.layers = visible_layers(model)
        self._handles: list[Any] = []

    def attach(self, visit: Visit) -> None:
        """Report every call of a layer as ``visit(name, layer, first input, first output)``, until `detach`."""
        self.detach()

        def watch(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, inputs: Any, output: Any) -> None:
                if torch.compiler.is_compiling():
                    return
                found = first_tensor(output)
                if found is not None:
                    visit(name or type(module).__name__, module, _first(inputs), found)

            return hook

        self._handles = [m.register_forward_hook(watch(n)) for n, m in self.layers.items()]

    def detach(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles = []


def _first(inputs: Any) -> Tensor | None:
    return next((t for t in tree_leaves(inputs) if isinstance(t, Tensor)), None)


def batch_size(args: Any, kwargs: Any) -> int | None:
    """Examples that a model is called with: length of the first axis of the first tensor."""
    for leaf in tree_leaves((args, kwargs)):
        if isinstance(leaf, Tensor) and leaf.ndim:
            return int(leaf.shape[0])
    return None


def loss_in(output: Any) -> Tensor | None:
    """The loss that a model returns with its outputs: ``output.loss``, or the only differentiable scalar among them."""
    loss = output.get("loss") if isinstance(output, dict) else getattr(output, "loss", None)
    if isinstance(loss, Tensor):
        return loss.detach() if loss.numel() == 1 else None
    leaves = (
        [output] if isinstance(output, Tensor) else list(output) if isinstance(output, (tuple, list)) else []
    )
    scalars = [t for t in leaves if isinstance(t, Tensor) and t.ndim == 0 and t.requires_grad]
    return scalars[0].detach() if len(scalars) == 1 else None

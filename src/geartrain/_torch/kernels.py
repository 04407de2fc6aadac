"""Contexts in which any module can be differentiated twice, and the user's modes are put back."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from geartrain._torch import rng


@contextlib.contextmanager
def eager() -> Iterator[None]:
    """Run models from `torch.compile` as they were written.

    Compiled graphs have no second derivative, and every new mode, batch size or hook would compile another one.
    """
    if "torch._dynamo" not in sys.modules:  # nothing can have been compiled, and importing it takes a second
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


@contextlib.contextmanager
def twice_differentiable() -> Iterator[None]:
    """Select kernels that have a double backward.

    Compiled graphs, fused attention, the fast path of `nn.TransformerEncoderLayer` and cuDNN's recurrent kernels
    have none. The selection ends with the block.
    """
    fast_path = torch.backends.mha.get_fastpath_enabled()
    cudnn = torch.backends.cudnn.enabled
    torch.backends.mha.set_fastpath_enabled(False)
    torch.backends.cudnn.enabled = False
    try:
        # Leaving inference mode first: inside it nothing records a graph.
        with torch.inference_mode(False), eager(), sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
            yield
    finally:
        torch.backends.cudnn.enabled = cudnn
        torch.backends.mha.set_fastpath_enabled(fast_path)


@contextlib.contextmanager
def mode(model: nn.Module, training: bool | None) -> Iterator[None]:
    """Put every submodule in training (True) or evaluation (False) mode for the block; ``None`` changes nothing."""
    if training is None:
        yield
        return
    flags = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag


def without_gradients(call: Callable[[], Any]) -> Any:
    """The call's result without a graph, also if the call differentiates something itself (input derivatives)."""
    state = rng.RngState.take()
    try:
        with torch.no_grad():
            return call()
    except RuntimeError as error:
        if "does not require grad" not in str(error):
            raise
    state.put()
    with torch.enable_grad():
        return tree_map(lambda t: t.detach() if isinstance(t, torch.Tensor) else t, call())


class AttentionSpy(TorchFunctionMode):
    """Notes whether scaled dot-product attention was called inside the block."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Pass the call on unchanged."""
        # What is called inside an intercepted function is not intercepted again.
        if getattr(func, "__name__", "") in {"scaled_dot_product_attention", "multi_head_attention_forward"}:
            self.seen = True
        return func(*args, **(kwargs or {}))


_BATCH_NORMS = (nn.modules.batchnorm._BatchNorm,)


def mixes_examples(model: nn.Module) -> bool:
    """Whether a batch-normalisation layer in training mode couples the examples of a batch."""
    return any(
        isinstance(m, _BATCH_NORMS) and (m.training or not m.track_running_stats) for m in model.modules()
    )


def draws_random_numbers(model: nn.Module) -> bool:
    """Whether a dropout layer in training mode makes the loss depend on random numbers."""
    kinds = (nn.modules.dropout._DropoutNd,)
    dropout = any(isinstance(m, kinds) and m.training and m.p > 0 for m in model.modules())
    recurrent = any(isinstance(m, nn.RNNBase) and m.training and m.dropout > 0 for m in model.modules())
    attention = any(
        isinstance(m, nn.MultiheadAttention) and m.training and m.dropout > 0 for m in model.modules()
    )
    return dropout or recurrent or attention

"""Are a model's outputs, almost everywhere, of first degree in every single parameter? Read off the autograd graph.

If they are, every second derivative of an output by one parameter is zero, and the trace of the Hessian of any loss of
the outputs equals that of its Gauss-Newton matrix. Piecewise-linear activations allow it; so do products, as long as
no parameter stands on both sides (weights used twice, attention, normalisation by the batch are thereby excluded).
The graph says what was really computed, functional code and custom functions included.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.autograd.graph import get_gradient_edge

_LINEAR = {
    "Add", "Sub", "Rsub", "Neg", "View", "ReshapeAlias", "UnsafeView", "T", "Transpose", "Permute", "Expand", "Sum",
    "Mean", "Slice", "Select", "Index", "IndexSelect", "Gather", "Cat", "Stack", "Squeeze", "Unsqueeze", "Clone",
    "ToCopy", "Alias", "AsStrided", "Split", "SplitWithSizes", "Unbind", "Chunk", "Repeat", "Flip", "Roll", "Diagonal",
    "AvgPool1D", "AvgPool2D", "AvgPool3D", "AdaptiveAvgPool2D", "AdaptiveAvgPool3D", "ConstantPadNd", "ReflectionPad1D",
    "ReflectionPad2D", "ReplicationPad1D", "ReplicationPad2D", "ReplicationPad3D", "PixelShuffle", "PixelUnshuffle",
    "UpsampleNearest1D", "UpsampleNearest2D", "UpsampleNearest3D", "UpsampleLinear1D", "UpsampleBilinear2D",
    "UpsampleBicubic2D", "UpsampleTrilinear3D", "Im2Col", "Col2Im", "Unfold", "Embedding", "NativeDropout",
    "MaskedFill", "ChannelShuffle", "Tril", "Triu", "Cumsum", "Movedim", "Swapaxes", "Real", "Contiguous",
}  # fmt: skip
_PIECEWISE = {
    "Relu", "LeakyRelu", "LeakyReluWithTraining", "RreluWithNoise", "Threshold", "Hardtanh", "Clamp", "ClampMin",
    "ClampMax", "Abs", "Max", "Min", "Amax", "Amin", "Maximum", "Minimum", "Sort", "Topk", "Where", "MaxPool2D",
    "MaxPool2DWithIndices", "MaxPool3DWithIndices", "AdaptiveMaxPool2D", "AdaptiveMaxPool3D", "Median", "Hardshrink",
    "Softshrink",
}  # fmt: skip
_PRODUCTS: dict[str, tuple[int, int]] = {
    "Mul": (0, 1), "Mm": (0, 1), "Bmm": (0, 1), "Mv": (0, 1), "Dot": (0, 1), "Addmm": (1, 2), "Addmv": (1, 2),
    "Baddbmm": (1, 2), "Addbmm": (1, 2), "Linear": (0, 1), "MkldnnLinear": (0, 1), "Convolution": (0, 1),
    "ConvolutionOverrideable": (0, 1), "MkldnnConvolution": (0, 1), "PreluKernel": (0, 1), "Div": (0, 1),
    "NativeBatchNorm": (0, 1), "CudnnBatchNorm": (0, 1), "MiopenBatchNorm": (0, 1), "Lerp": (0, 1),
}  # fmt: skip
"""Which two inputs are multiplied with one another; the rest is added."""


def obstacle(outputs: Sequence[Tensor], leaves: Mapping[str, Tensor]) -> str | None:
    """Why the outputs are not piecewise linear in every single parameter, in words; ``None`` if they are.

    Args:
        outputs: What the model gave, with its graph.
        leaves: The parameters that count, by name.

    Returns:
        Half a sentence for people: ``"it computes a softmax"``.
    """
    bits = {get_gradient_edge(leaf).node: 1 << i for i, leaf in enumerate(leaves.values())}
    names = list(leaves)
    below: dict[Any, int] = dict(bits)
    for node in ordered([t.grad_fn for t in outputs if t.grad_fn is not None]):
        if node in bits:
            continue
        inputs = [below.get(n, 0) if n is not None else 0 for n, _ in node.next_functions]
        below[node] = _union(inputs)
        if below[node] and (why := _objection(node, inputs, names)):
            return why
    return None


def _objection(node: Any, inputs: list[int], names: list[str]) -> str | None:
    kind = _kind(node)
    if kind in _LINEAR or kind in _PIECEWISE:
        return None
    if kind not in _PRODUCTS:
        return f"it computes a {kind}, which is not piecewise linear"
    if kind.endswith("BatchNorm") and _uses_the_batch(node):
        return "batch normalisation is in training mode and divides by what the parameters changed"
    first, second = (inputs[i] if i < len(inputs) else 0 for i in _PRODUCTS[kind])
    if kind == "Div" and second:
        return "it divides by something that depends on the parameters"
    if both := first & second:
        return f"{names[both.bit_length() - 1]} stands on both sides of a product (a weight used twice, or attention)"
    return None


def _uses_the_batch(node: Any) -> bool:
    return bool(getattr(node, "_saved_training", True))


def _kind(node: Any) -> str:
    """``AddmmBackward0`` -> ``Addmm``; custom functions keep a name that no table holds."""
    return re.sub(r"Backward\d*$", "", node.name().rpartition("::")[2])


def _union(inputs: list[int]) -> int:
    total = 0
    for mask in inputs:
        total |= mask
    return total


def ordered(roots: list[Any]) -> list[Any]:
    """Every node below the roots, inputs before what uses them; without recursion, as graphs are deep."""
    order, seen, waiting = [], set(), [(root, False) for root in roots]
    while waiting:
        node, done = waiting.pop()
        if done:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            waiting.append((node, True))
            waiting += [(n, False) for n, _ in node.next_functions if n is not None and n not in seen]
    return order

"""Inner products of per-example gradients, layer by layer, from what passes through the layer anyway.

With the inputs a and output gradients δ of one ordinary backward pass the gradient of example i at a linear layer is
δ_i a_iᵀ, so that K_ij = (a_i·a_j)(δ_i·δ_j): no further pass, and no gradient is written down. Where an example
has several positions (sequences, images), its gradient is the sum over them and is written down, one layer at a time.

References: Goodfellow (2015), arXiv:1510.01799; Li et al. (2022), arXiv:2110.05679 (ghost norms).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

LARGEST = 2**22
"""Entries of a weight whose gradients may be written down for each example."""

POSITIONS = 2**11
"""Positions of all examples together, for embeddings: their products are taken in pairs."""

Gram = Callable[[Tensor, Tensor], Tensor]
"""K, shape (examples, examples), from (inputs, output gradients) of some examples."""


def gram_of(module: nn.Module) -> Gram | None:
    """How to get the inner products of the gradients of a layer's own parameters; ``None`` where it is not known."""
    if any(p.numel() > LARGEST for p in module.parameters(recurse=False)) and not isinstance(
        module, nn.Embedding
    ):
        return _pairs_of_vectors(module) if type(module) is nn.Linear else None
    if type(module) is nn.Linear:
        return lambda a, d: _linear(module, a, d)
    if isinstance(module, (nn.Conv1d, nn.Conv2d)) and _plain_convolution(module):
        return lambda a, d: _convolution(module, a, d)
    if type(module) is nn.Embedding and not module.scale_grad_by_freq and module.max_norm is None:
        return lambda a, d: _embedding(module, a, d)
    if type(module) is nn.LayerNorm and module.elementwise_affine:
        return lambda a, d: _layer_norm(module, a, d)
    return None


def _pairs_of_vectors(module: nn.Linear) -> Gram:
    """Without positions the weight's size does not matter."""

    def gram(a: Tensor, d: Tensor) -> Tensor:
        if a.ndim != 2:
            raise NotImplementedError("the layer is too large")
        return _linear(module, a, d)

    return gram


def _linear(module: nn.Linear, a: Tensor, d: Tensor) -> Tensor:
    weight, bias = _wanted(module.weight), _wanted(module.bias)
    if a.ndim == 2:
        return (d @ d.T) * ((a @ a.T) * weight + float(bias))
    a, d = a.flatten(1, -2), d.flatten(1, -2)
    return _sum_of(torch.einsum("nto,nti->noi", d, a) if weight else None, d.sum(1) if bias else None)


def _convolution(module: nn.Conv1d | nn.Conv2d, a: Tensor, d: Tensor) -> Tensor:
    kernel, stride = module.kernel_size, module.stride
    padding, dilation = module.padding, module.dilation
    if isinstance(module, nn.Conv1d):
        a, d = a.unsqueeze(2), d.unsqueeze(2)
        kernel, stride, padding, dilation = (1, *kernel), (1, *stride), (0, *padding), (1, *dilation)
    d = d.flatten(2)
    patches = functional.unfold(a, kernel, dilation, padding, stride) if _wanted(module.weight) else None  # type: ignore[arg-type]
    weights = None if patches is None else torch.einsum("nol,nil->noi", d, patches)
    return _sum_of(weights, d.sum(2) if _wanted(module.bias) else None)


def _plain_convolution(module: nn.Conv1d | nn.Conv2d) -> bool:
    zeros = module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return zeros and module.groups == 1 and type(module) in (nn.Conv1d, nn.Conv2d)


def _embedding(module: nn.Embedding, a: Tensor, d: Tensor) -> Tensor:
    count = a.shape[0]
    words, rows = a.reshape(-1), d.reshape(-1, d.shape[-1])
    if len(words) > POSITIONS:
        raise NotImplementedError("too many positions")
    same = words[:, None] == words[None, :]
    if module.padding_idx is not None:
        same = same & (words != module.padding_idx)[:, None]
    each = len(words) // count
    return ((rows @ rows.T) * same).view(count, each, count, each).sum((1, 3))


def _layer_norm(module: nn.LayerNorm, a: Tensor, d: Tensor) -> Tensor:
    axes = tuple(range(1, a.ndim - len(module.normalized_shape)))
    normal = functional.layer_norm(a, module.normalized_shape, eps=module.eps)
    weight = (d * normal).sum(axes) if axes else d * normal
    bias = (d.sum(axes) if axes else d) if _wanted(module.bias) else None
    return _sum_of(weight if _wanted(module.weight) else None, bias)


def _wanted(parameter: Tensor | None) -> bool:
    return parameter is not None and parameter.requires_grad


def _sum_of(*gradients: Tensor | None) -> Tensor:
    """Gram matrix of gradients of several parameters, each of shape (examples, ...)."""
    rows = [g.flatten(1) for g in gradients if g is not None]
    total = rows[0] @ rows[0].T
    for other in rows[1:]:
        total = total + other @ other.T
    return total

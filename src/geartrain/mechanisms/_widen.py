"""Making a net wider: the same layers with more units, weights drawn by each layer's own default rule."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import nn

from geartrain.mechanisms._base import need

_PLAIN = (
    nn.Flatten,
    nn.Dropout,
    nn.Identity,
    nn.ReLU,
    nn.LeakyReLU,
    nn.Tanh,
    nn.Sigmoid,
    nn.GELU,
    nn.SiLU,
    nn.MaxPool2d,
    nn.AvgPool2d,
)


def widen(model: nn.Module, leaves: list[tuple[str, nn.Module]], factor: int) -> None:
    """Multiply the width of every hidden linear layer, in place.

    Works for models whose linear layers form one chain, each executed once: the output of one is the input of the
    next but for activations, normalisation and dropout.

    Args:
        model: The model.
        leaves: Its leaf modules in order of execution.
        factor: How many times as wide.

    Raises:
        UnsupportedError: The layers form no such chain.
    """
    chain = [(n, m) for n, m in leaves if isinstance(m, (nn.Linear, nn.BatchNorm1d, nn.LayerNorm))]
    linear = [(n, m) for n, m in chain if isinstance(m, nn.Linear)]
    others = [m for _, m in leaves if not isinstance(m, (nn.Linear, nn.BatchNorm1d, nn.LayerNorm, *_PLAIN))]
    need(len(linear) > 1 and not others, "only chains of linear layers can be widened")
    need(len({n for n, _ in linear}) == len(linear), "a layer is used twice")
    for (_, first), (_, second) in itertools.pairwise(linear):
        need(first.out_features == second.in_features, "the linear layers form no chain")
    hidden = 0
    for name, layer in chain:
        if isinstance(layer, nn.Linear):
            first, last = layer is linear[0][1], layer is linear[-1][1]
            inputs = layer.in_features * (1 if first else factor)
            hidden = layer.out_features * (1 if last else factor)
            _replace(model, name, nn.Linear(inputs, hidden, layer.bias is not None, **_like(layer.weight)))
        elif hidden:
            _replace(model, name, _norm(layer, hidden, _like(linear[0][1].weight)))


def _norm(old: nn.Module, size: int, like: dict[str, Any]) -> nn.Module:
    """The same normalisation over more units: with other settings, what it wins would not be the width's."""
    if isinstance(old, nn.LayerNorm):
        return nn.LayerNorm(size, old.eps, old.elementwise_affine, old.bias is not None, **like)
    assert isinstance(old, nn.BatchNorm1d)
    return nn.BatchNorm1d(size, old.eps, old.momentum, old.affine, old.track_running_stats, **like)


def _like(weight: torch.Tensor) -> dict[str, Any]:
    return {"device": weight.device, "dtype": weight.dtype}


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)

"""Inputs as something that can be moved: their size, gradients in them, and batches with other inputs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from geartrain.instruments.function._said import LossEar, Said, hear_batch
from geartrain.instruments.function._view import inputs_of, size_of, with_inputs
from geartrain.objective import Objective


@dataclass(frozen=True)
class InputScale:
    """How large the inputs of an objective vary.

    Attributes:
        spread: Root mean square deviation of a feature, over all features.
        size: Root mean square length of the deviation of an example: spread · √features.
        mean: Mean input, of the shape of one example.
    """

    spread: float
    size: float
    mean: Tensor


def movable(batch: Any) -> Tensor | None:
    """The inputs of a batch where they are one tensor of floating numbers, else ``None``."""
    inputs = inputs_of(batch)
    if isinstance(inputs, Tensor) and inputs.is_floating_point() and inputs.ndim >= 2 and inputs[0].numel():
        return inputs.detach()
    return None


def input_scale(objective: Objective) -> InputScale | None:
    """The scale of the inputs; ``None`` where they are tokens, of different shapes, or all equal."""
    found = [movable(batch) for batch in objective.batches]
    tensors = [t for t in found if t is not None]
    if len(tensors) < len(found) or len({t.shape[1:] for t in tensors}) != 1:
        return None
    count = sum(map(len, tensors))
    mean = (
        sum((t.double().sum(0) for t in tensors), torch.zeros_like(tensors[0][0], dtype=torch.float64))
        / count
    )
    square = sum(float(((t.double() - mean) ** 2).sum()) for t in tensors) / count
    if not square > 0:
        return None
    return InputScale(math.sqrt(square / mean.numel()), math.sqrt(square), mean)


def with_gradient(objective: Objective, batch: Any) -> tuple[Tensor, Said | None, Tensor]:
    """Loss of a batch times its size, what was said, and the gradient of that in the inputs, per example."""
    inputs = inputs_of(batch).detach().clone().requires_grad_()
    kept: list[Tensor] = []

    def loss() -> Tensor:
        kept[:] = [_loss(objective, with_inputs(batch, inputs))]
        return kept[0]

    said = hear_batch(objective, batch, loss, graph=True)
    total = kept[0].sum() * size_of(batch)
    (slope,) = torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True)
    return total.detach(), said, slope.detach()


def _loss(objective: Objective, batch: Any) -> Tensor:
    """The loss with a graph that reaches the inputs; parameters are constants."""
    leaves = {name: leaf.detach() for name, leaf in objective._leaves(None).items()}
    return functional_call(objective._caller, objective._state(leaves), (batch,))


def margin_gradients(objective: Objective) -> np.ndarray | None:
    """Length of the gradient of every example's margin in its input, shape (examples,); one gradient."""
    parts = []
    for batch in objective.batches:
        inputs = inputs_of(batch).detach().clone().requires_grad_()
        with objective._quiet(), LossEar() as ear:
            loss = _loss(objective, with_inputs(batch, inputs))
            scores, labels = ear.heard.get("input"), ear.heard.get("target")
            if scores is None or labels is None or len(scores) != len(inputs):
                return None
            if ear.name == "binary_cross_entropy":
                scores = torch.logit(scores, eps=1e-12)
            total = _margins(scores, labels).sum()
            (slope,) = torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True)
            del loss
        parts.append(slope.double().reshape(len(inputs), -1).norm(dim=1).cpu().numpy())
    objective.charge(gradients=1)
    return np.concatenate(parts)


def _margins(scores: Tensor, labels: Tensor) -> Tensor:
    if (
        scores.shape == labels.shape
    ):  # one yes-or-no score each: its margin is itself, with the sign of the answer
        return scores.reshape(-1) * (2 * labels.reshape(-1) - 1)
    labels = labels.reshape(-1, 1) if not labels.is_floating_point() else labels.argmax(1, keepdim=True)
    right = scores.gather(1, labels)[:, 0]
    return right - scores.scatter(1, labels, -math.inf).max(1).values

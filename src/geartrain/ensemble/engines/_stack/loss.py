"""Losses: cross-entropy with labels and the mean squared error, as means over the examples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from geartrain.ensemble.engines._stack._layer import Declined, Layer, Weights

_aten = torch.ops.aten
_MANY_CLASSES = 16


class Loss(Layer):
    """``forward`` gives the losses, shape (members,); ``backward`` takes ``None`` and starts the backward pass."""

    def coefficients(self, weights: Weights, places: int) -> Tensor | None:
        """What each place counts, shape (members, places); ``None`` for a plain mean.

        Places lie example by example, as many of each; `stack.supports` has compared the result with autograd's.
        """
        if weights.examples is None:
            return None
        examples = weights.examples.shape[1]
        if places % examples:
            raise Declined("its loss folds examples together, which batches of different sizes do not allow")
        return (weights.examples / (places // examples)).repeat_interleave(places // examples, 1)


class CrossEntropy(Loss):
    """Mean cross-entropy; classes along axis 1 of a member's outputs."""

    def __init__(self, ignore: int) -> None:
        super().__init__()
        self.ignore = ignore

    def forward(self, weights: Weights, outputs: Tensor, targets: Tensor) -> Tensor:
        """Outputs (members, examples, classes, ...), targets (members, examples, ...)."""
        if targets.dtype != torch.int64:
            raise Declined("its cross-entropy has probabilities, not labels, for targets")
        if outputs.ndim != targets.ndim + 1 or outputs.ndim < 3:
            raise Declined("its outputs and labels do not fit each other")
        self.shape = outputs.shape
        last = outputs.movedim(2, -1)
        members, classes = len(last), last.shape[-1]
        labels = targets.reshape(members, -1)
        self.places = (members, labels.shape[1], classes)
        z = last.reshape(self.places)
        self.p = self._log_softmax(z)
        self.labels, self.coefficient = self._counted(weights, labels)
        picked = self.p.gather(-1, self.labels)[..., 0]
        if isinstance(self.coefficient, float):
            return picked.sum(1).mul_(-self.coefficient)
        return torch.linalg.vecdot(picked, self.coefficient).neg_()

    def _log_softmax(self, z: Tensor) -> Tensor:
        """Along the last axis; where that is short, torch is several times faster with it in the middle."""
        members, number, classes = self.places
        if classes >= _MANY_CLASSES or not z.is_cpu:
            return _aten._log_softmax.out(z, -1, False, out=self.space.get("p", self.places, z))
        turned = self.space.get("p", (members, classes, number), z).copy_(z.mT)
        return _aten._log_softmax.out(turned, 1, False, out=turned).mT

    def _counted(self, weights: Weights, labels: Tensor) -> tuple[Tensor, float | Tensor]:
        """The labels to gather by, shape (members, places, 1), and what each place counts."""
        number = labels.shape[1]
        mine = labels[:1] if labels.stride(0) == 0 else labels
        counted = mine != self.ignore
        coefficients = self.coefficients(weights, number)
        if bool(counted.all()):
            return labels.unsqueeze(-1), 1 / number if coefficients is None else coefficients
        counted = counted.expand(labels.shape).to(self.p.dtype)
        safe = labels.clamp(min=0).unsqueeze(-1)  # what is ignored may lie outside the classes
        if weights.examples is None:
            return safe, counted / counted.sum(1, keepdim=True)
        each = counted.view(*weights.examples.shape, -1)
        each = each / each.sum(2, keepdim=True) * weights.examples.unsqueeze(2)
        return safe, torch.where(weights.examples.unsqueeze(2) == 0, 0, each).flatten(1)

    def backward(
        self, weights: Weights, gradient: Any, wanted: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...]:
        """Softmax minus one-hot, in place of the log-probabilities."""
        g = self.p.exp_()
        g.scatter_add_(-1, self.labels, g.new_full((), -1).expand(self.labels.shape))
        g.mul_(
            self.coefficient if not isinstance(self.coefficient, Tensor) else self.coefficient.unsqueeze(-1)
        )
        rest = (self.shape[0], self.shape[1], *self.shape[3:], self.shape[2])
        return (g.view(rest).movedim(-1, 2),)


class SquaredError(Loss):
    """Mean of squared differences."""

    def forward(self, weights: Weights, outputs: Tensor, targets: Tensor) -> Tensor:
        """Outputs and targets of one shape (members, examples, ...)."""
        if outputs.shape != targets.shape or outputs.dtype != targets.dtype:
            raise Declined("its outputs and targets differ in shape or type")
        members, number = len(outputs), outputs[0].numel()
        self.shape = outputs.shape
        self.d = torch.sub(outputs, targets, out=self.space.get("d", tuple(outputs.shape), outputs))
        square = torch.mul(self.d, self.d, out=self.space.get("square", tuple(self.d.shape), self.d))
        self.coefficient = self.coefficients(weights, number)
        if self.coefficient is None:
            return square.view(members, -1).sum(1).mul_(1 / number)
        return torch.linalg.vecdot(square.view(members, -1), self.coefficient)

    def backward(
        self, weights: Weights, gradient: Any, wanted: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...]:
        """Twice the differences."""
        if self.coefficient is None:
            return (self.d.mul_(2 / self.d[0].numel()),)
        return (self.d.mul_((2 * self.coefficient).view(self.shape)),)


def _cross_entropy(
    outputs: Any, targets: Any, weight: Any = None, size_average: Any = None, ignore_index: int = -100,
    reduce: Any = None, reduction: str = "mean", label_smoothing: float = 0.0,
) -> Layer:  # fmt: skip
    if weight is not None or label_smoothing:
        raise Declined("its cross-entropy weighs classes or smooths labels")
    _mean_only(reduction, size_average, reduce)
    return CrossEntropy(ignore_index)


def _mse(
    outputs: Any, targets: Any, size_average: Any = None, reduce: Any = None, reduction: str = "mean",
    weight: Any = None,
) -> Layer:  # fmt: skip
    if weight is not None:
        raise Declined("its squared error weighs the numbers")
    _mean_only(reduction, size_average, reduce)
    return SquaredError()


def _mean_only(reduction: str, size_average: Any, reduce: Any) -> None:
    if reduction != "mean" or size_average is not None or reduce is not None:
        raise Declined(f"its loss has the reduction {reduction!r}, not 'mean'")


FUNCTIONS = {functional.cross_entropy: _cross_entropy, functional.mse_loss: _mse}

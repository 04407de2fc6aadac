"""What a user may call a loss, made into one function of (model, batch)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from geartrain._torch import batches as _batches
from geartrain.errors import InputError

Loss = Callable[[Any, Any], Tensor]


class LossModule(nn.Module):
    """The loss as a module of the batch, so that `functional_call` can swap the parameters below it."""

    def __init__(self, model: nn.Module, batch_loss: _batches.BatchLoss) -> None:
        super().__init__()
        self.model = model
        self.batch_loss = batch_loss
        self.only_loss = not isinstance(batch_loss, SupervisedLoss)

    def forward(self, batch: Any, *, only_outputs: bool = False) -> Any:
        """The loss of the batch, or the model's outputs on it."""
        if only_outputs:
            return call_model(self.model, batch[0])
        return self.batch_loss(self.model, batch)


@dataclasses.dataclass(frozen=True)
class SupervisedLoss:
    """``loss_fn(model(inputs), targets)`` as a function of the model and a batch (inputs, targets)."""

    loss_fn: Loss

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        """The loss of one batch."""
        return self.loss_fn(call_model(model, batch[0]), batch[1])


def hugging_face_loss(model: nn.Module, batch: Any) -> Tensor:
    """``model(**batch).loss``, the convention of Hugging Face models."""
    return model(**batch).loss


def call_model(model: nn.Module, inputs: Any) -> Any:
    """Dicts are passed as keywords, tuples and lists as positional arguments, the rest as the only argument."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, (tuple, list)):
        return model(*inputs)
    return model(inputs)


def loss_of(
    model: nn.Module, loss_fn: Loss | None, batch_loss: _batches.BatchLoss | None, data: Any
) -> _batches.BatchLoss:
    """The one function ``batch_loss(model, batch)`` that everything else is built on.

    Raises:
        InputError: Both losses or none were given.
    """
    if loss_fn is not None and batch_loss is not None:
        raise InputError("Both loss_fn and batch_loss were given; pass one of them.")
    if batch_loss is not None:
        return batch_loss
    if loss_fn is not None:
        return SupervisedLoss(loss_fn)
    if isinstance(data, Mapping) or hasattr(model, "config"):
        return hugging_face_loss
    raise InputError(
        "No loss was given; pass loss_fn(outputs, targets) or batch_loss(model, batch), returning a scalar."
    )


def check_scalar(loss: Any) -> Tensor:
    """The loss as a tensor of shape ().

    Raises:
        InputError: It is not a scalar tensor.
    """
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        got = (
            f"a tensor of shape {tuple(loss.shape)}"
            if isinstance(loss, Tensor)
            else f"a {type(loss).__name__}"
        )
        raise InputError(
            f"The loss is {got}; it must be a scalar tensor, the mean over the examples. "
            "Average it, for example with .mean(), or build the loss with reduction='mean'."
        )
    return loss.reshape(())

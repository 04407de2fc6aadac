"""What a model says about examples, in evaluation mode and without leaving a trace."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from geartrain._torch import kernels, rng
from geartrain._torch.loss import SupervisedLoss, call_model
from geartrain.instruments._layers import first_tensor
from geartrain.records import Cost
from geartrain.run import Run


def outputs_of(run: Run, inputs: Any) -> Tensor | None:
    """The first tensor of the model's outputs on inputs; ``None`` where the model cannot be called on them."""
    return first_tensor(raw_outputs_of(run, inputs))


def raw_outputs_of(run: Run, inputs: Any) -> Any:
    """What the model returns in evaluation mode, whole, as ``loss_fn`` wants it; ``None`` where it cannot be called."""
    if not (
        run.batch_loss is None or isinstance(run.batch_loss, SupervisedLoss) or isinstance(inputs, Tensor)
    ):
        return None
    buffers = [b.clone() for b in run.model.buffers()]
    try:
        with rng.fixed(run.seed), kernels.mode(run.model, False):
            outputs = kernels.without_gradients(lambda: call_model(run.model, inputs))
    except (RuntimeError, TypeError, ValueError):
        return None
    finally:
        with torch.no_grad():
            for buffer, old in zip(run.model.buffers(), buffers, strict=True):
                if not torch.equal(buffer, old):
                    buffer.copy_(old)
    run.work = run.work + Cost(forwards=1)
    return outputs


def predicted_classes(outputs: Tensor, labels: np.ndarray) -> np.ndarray | None:
    """The class that each row of outputs names, shape (examples,); ``None`` if the outputs are no class scores.

    One column is a score for class 1: above one half if all outputs are probabilities, else above zero.
    """
    rows = outputs.detach().reshape(len(outputs), -1).double()
    if len(rows) != len(labels):
        return None
    if rows.shape[1] == 1 and set(np.unique(labels)) <= {0, 1}:
        probabilities = bool(((rows >= 0) & (rows <= 1)).all())
        return (rows[:, 0] > (0.5 if probabilities else 0.0)).long().cpu().numpy()
    if outputs.ndim != 2 or rows.shape[1] <= labels.max():
        return None
    return rows.argmax(1).cpu().numpy()

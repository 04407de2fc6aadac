"""Wrong loss: the loss does not ask for what the targets mean."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from geartrain.mechanisms._base import Intervention, Mechanism, Prediction, above, below, need
from geartrain.run import Change, Run


def _cross_entropy(run: Run) -> Change:
    batch = run.probe("train")
    need(isinstance(batch, (tuple, list)) and isinstance(batch[1], Tensor), "the targets are not one tensor")
    classes = int(batch[1].max()) + 1
    outputs = run.objective(probe=8).outputs()
    need(
        isinstance(outputs, Tensor) and outputs.ndim == 2 and outputs.shape[1] >= classes,
        "the outputs have too few columns",
    )
    need(batch[1].reshape(-1).shape[0] == batch[1].shape[0], "the targets are not one class per example")
    return Change(loss_fn=lambda o, t: functional.cross_entropy(o, t.reshape(-1).to(torch.long)))


MECHANISM = Mechanism(
    name="wrong_loss",
    title="Wrong loss",
    statement="The loss treats the targets as something they are not (class numbers as quantities, quantities as classes), so that minimising it does not solve the task.",
    predictions=(
        Prediction(
            "loss_match@start",
            "how well the loss suits the targets (1 = it does)",
            below(0.5, soft=0.4),
            "A proper loss is minimised by the truth; a squared loss on class numbers orders classes that have no order.",
            weight=4.0,
            counter=4.0,
        ),
        Prediction(
            "fork:suitable loss",
            "gain from a suitable loss (each against its own baseline)",
            above(0.05, soft=0.1),
            "With the loss that suits the targets the same net gets closer to its optimum.",
            weight=1.0,
            counter=0.6,
        ),
    ),
    interventions=(
        Intervention(
            "suitable loss", "The whole run again with cross-entropy on the class numbers.", _cross_entropy
        ),
    ),
    remedy="Use cross-entropy for classes, a squared or absolute loss for quantities, binary cross-entropy for 0/1 targets.",
    remedy_forks=("suitable loss",),
    principled="proper scoring rules",
    upstream_of=("label_noise", "overfitting", "under_capacity", "output_target_shape"),
)

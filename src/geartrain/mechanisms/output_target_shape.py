"""Shapes that broadcast: the loss compares every output with every target."""

from __future__ import annotations

from torch import Tensor

from geartrain.mechanisms._base import Intervention, Mechanism, Prediction, above, below, need
from geartrain.run import Change, Run


def _reshaped(run: Run) -> Change:
    loss_fn = run.loss_fn
    need(loss_fn is not None, "the run has no loss_fn(outputs, targets)")

    def matched(outputs: Tensor, targets: Tensor) -> Tensor:
        same = outputs.numel() == targets.numel()
        return loss_fn(outputs.reshape(targets.shape) if same else outputs, targets)  # type: ignore[misc]

    return Change(loss_fn=matched)


MECHANISM = Mechanism(
    name="output_target_shape",
    title="Outputs and targets of different shapes",
    statement="Outputs (n, 1) and targets (n,) broadcast to n x n: the loss compares every output with every target, and its minimum is the constant mean.",
    predictions=(
        Prediction(
            "output_target_match@start",
            "loss compares outputs with their own targets (1 = yes)",
            below(0.5, soft=0.4),
            "The mean of squared differences over all pairs is minimised by the mean target, whatever the inputs.",
            weight=4.0,
            counter=4.5,
        ),
        Prediction(
            "fork:targets reshaped",
            "gain from matching shapes",
            above(0.03, soft=0.05),
            "With matching shapes each output is compared with its own target.",
            weight=1.4,
            counter=0.6,
        ),
    ),
    interventions=(
        Intervention(
            "targets reshaped", "The whole run again with the outputs reshaped like the targets.", _reshaped
        ),
    ),
    remedy="Squeeze the outputs or unsqueeze the targets, so that both have the same shape.",
    remedy_forks=("targets reshaped",),
    principled="exact",
    upstream_of=(
        "wrong_loss",
        "under_capacity",
        "local_minimum",
        "label_noise",
        "lr_too_high",
        "too_few_steps",
    ),
)

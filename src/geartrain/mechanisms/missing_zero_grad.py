"""Gradients never cleared: every step uses the sum of all gradients so far."""

from __future__ import annotations

from geartrain.mechanisms._base import Intervention, Mechanism, Prediction, above, below, constant
from geartrain.run import Change

MECHANISM = Mechanism(
    name="missing_zero_grad",
    title="Gradients are not cleared",
    statement="The gradient that the optimizer uses is the sum of all gradients since the start, because nothing clears it: momentum 1, which oscillates for ever.",
    predictions=(
        Prediction(
            "gradient_fidelity@middle",
            "cosine of the used gradient with that of the batch",
            below(0.8, soft=0.2),
            "A cleared gradient is the batch's own, so the cosine is 1 to rounding.",
            weight=1.4,
            counter=3.5,
        ),
        Prediction(
            "gradient_fidelity.accumulation@middle",
            "cosine of the change of the used gradient with that of the batch",
            above(0.9, soft=0.1),
            "If gradients pile up, each step's change of the used gradient is the batch's own gradient.",
            weight=1.4,
            counter=0.6,
        ),
        Prediction(
            "fork:gradients cleared",
            "what clearing them wins",
            above(0.05, soft=0.05),
            "Clearing before every step makes it gradient descent again.",
            weight=2.2,
            counter=1.6,
        ),
    ),
    interventions=(
        Intervention(
            "gradients cleared",
            "The whole run again with gradients cleared before every step.",
            constant(Change(zero_grad=True)),
        ),
    ),
    remedy="Call optimizer.zero_grad() before every backward pass.",
    remedy_forks=("gradients cleared",),
    principled="exact",
    upstream_of=(
        "lr_too_high",
        "exploding_gradients",
        "ill_conditioned",
        "bad_init",
        "batch_too_small",
        "dead_relu",
    ),
)

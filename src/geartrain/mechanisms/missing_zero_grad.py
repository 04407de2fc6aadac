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
            "cosine between the gradient that is used and the batch's own",
            below(0.8, soft=0.2),
            "A cleared gradient is the batch's own, so the cosine is 1 to rounding.",
            weight=1.6,
            counter=3.5,
        ),
        Prediction(
            "gradient_fidelity.uncleared@middle",
            "share of steps whose gradient is what lay there before plus the batch's own",
            above(0.5, soft=0.4),
            "If gradients pile up, each one used is exactly the sum of the one before and the batch's own.",
            weight=2.6,
            counter=1.2,
        ),
        Prediction(
            "fork:gradients cleared | fork:gradients cleared, lr x 10",
            "gain from clearing the gradients, at this step size or ten times it",
            above(0.05, soft=0.05),
            "Clearing before every step makes it gradient descent again. The sum over all steps is many times one gradient, so "
            "a step size that was found with it may be too small without it.",
            weight=1.4,
            counter=0.6,
        ),
    ),
    interventions=(
        Intervention(
            "gradients cleared",
            "The whole run again with gradients cleared before every step.",
            constant(Change(zero_grad=True)),
        ),
        Intervention(
            "gradients cleared, lr x 10",
            "The same with ten times the step size.",
            constant(Change(zero_grad=True, lr_factor=10.0)),
        ),
    ),
    remedy="Call optimizer.zero_grad() before every backward pass.",
    remedy_forks=("gradients cleared", "gradients cleared, lr x 10"),
    principled="exact",
    upstream_of=(
        "lr_too_high",
        "exploding_gradients",
        "ill_conditioned",
        "bad_init",
        "batch_too_small",
        "dead_relu",
        "overfitting",
        "train_val_mismatch",
        "lr_too_low",
    ),
)

"""Wrong output activation: the last activation cannot produce the targets, or is applied twice."""

from __future__ import annotations

from geartrain.mechanisms import _interventions as tried
from geartrain.mechanisms._base import Mechanism, Prediction, above

MECHANISM = Mechanism(
    name="wrong_output_activation",
    title="Wrong output activation",
    statement="The activation after the last layer keeps the outputs from where the loss needs them: bounded below the targets, or a softmax whose logarithm is taken of again.",
    predictions=(
        Prediction(
            "output_reach@start",
            "share of targets outside the reach of the outputs",
            above(0.1, soft=0.1),
            "An output bounded to an interval can never equal a target outside it.",
            weight=2.2,
            counter=0.6,
        ),
        Prediction(
            "output_probability@start",
            "outputs are probabilities already, though the loss applies softmax",
            above(0.5, soft=0.4),
            "Softmax of probabilities over C classes cannot go below ln(1 + (C-1)/e) in cross-entropy.",
            weight=2.2,
            counter=0.6,
        ),
        Prediction(
            "fork:output activation removed",
            "gain from removing the output activation",
            above(0.05, soft=0.05),
            "Without the bound the same net can reach the targets.",
            weight=2.6,
            counter=2.4,
        ),
    ),
    interventions=(tried.NO_OUTPUT_ACTIVATION,),
    remedy="Remove the activation after the last layer (cross-entropy and squared loss want raw outputs).",
    remedy_forks=("output activation removed",),
    principled="exact bound",
    upstream_of=(
        "vanishing_gradients",
        "dead_relu",
        "lr_too_low",
        "local_minimum",
        "unscaled_targets",
        "too_few_steps",
    ),
)

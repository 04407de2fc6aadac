"""Unscaled targets: the outputs have to travel far before anything else is learnt."""

from __future__ import annotations

from geartrain.mechanisms import _interventions as tried
from geartrain.mechanisms._base import Mechanism, Prediction, above

MECHANISM = Mechanism(
    name="unscaled_targets",
    title="Unscaled targets",
    statement="The targets are far from what a freshly initialised net puts out (scale or offset), so gradients are too large or the last bias spends the run travelling.",
    predictions=(
        Prediction(
            "target_scale@start",
            "scale of the targets (a fresh net puts out about 1)",
            above(8.0, soft=3.0, log=True),
            "Squared-loss gradients go with the distance of the outputs from the targets: the stable step size is the same, the "
            "distance to travel is not.",
            weight=1.6,
            counter=2.4,
        ),
        Prediction(
            "fork:targets standardised | fork:inputs and targets standardised",
            "gain from standardised targets (each against its own baseline)",
            above(0.1, soft=0.1),
            "On targets of mean 0 and variance 1 the net starts where it can learn at once.",
            weight=2.6,
            counter=2.6,
        ),
    ),
    interventions=(tried.STANDARDISE_TARGETS, tried.STANDARDISE_BOTH),
    remedy="Standardise the targets for training and undo it in prediction.",
    remedy_forks=("targets standardised", "inputs and targets standardised"),
    principled="exact for the last layer",
    upstream_of=(
        "lr_too_high",
        "lr_too_low",
        "exploding_gradients",
        "bad_init",
        "too_few_steps",
        "ill_conditioned",
        "under_capacity",
        "dead_relu",
        "missing_bias",
    ),
)

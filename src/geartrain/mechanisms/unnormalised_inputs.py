"""Unnormalised inputs: features of very different scales make the loss a long thin valley.

Ledger: 0.13.
"""

from __future__ import annotations

from geartrain.mechanisms import _interventions as tried
from geartrain.mechanisms._base import Mechanism, Prediction, above

MECHANISM = Mechanism(
    name="unnormalised_inputs",
    title="Unnormalised inputs",
    statement="The input features have very different scales or offsets, so the first layer's curvature is badly conditioned: one step size cannot suit all of its weights.",
    predictions=(
        Prediction(
            "input_conditioning.gain_from_standardising@start",
            "condition number of the inputs / the same once standardised",
            above(10.0, soft=4.0, log=True),
            "The Hessian of a linear first layer contains the inputs' second-moment matrix: its condition number multiplies "
            "gradient descent's number of steps (LeCun et al. 1998, Efficient BackProp).",
            weight=1.2,
            counter=1.6,
        ),
        Prediction(
            "feature_scales@start",
            "largest / smallest scale among the features",
            above(30.0, soft=4.0, log=True),
            "The curvature in a first-layer weight goes with the square of its feature's scale.",
            weight=0.8,
            counter=0.4,
        ),
        Prediction(
            "fork:inputs standardised | fork:inputs and targets standardised",
            "gain from standardised inputs",
            above(0.07, soft=0.07),
            "Standardising removes the spread of scales and changes nothing else.",
            weight=2.6,
            counter=2.6,
        ),
    ),
    interventions=(tried.STANDARDISE_INPUTS, tried.STANDARDISE_BOTH),
    remedy="Standardise every input feature (subtract its mean, divide by its standard deviation, both from the training data).",
    remedy_forks=("inputs standardised", "inputs and targets standardised"),
    principled="theorem for linear first layers",
    upstream_of=(
        "ill_conditioned",
        "lr_too_high",
        "lr_too_low",
        "bad_init",
        "dead_relu",
        "too_few_steps",
        "under_capacity",
        "exploding_gradients",
        "local_minimum",
        "vanishing_gradients",
    ),
)

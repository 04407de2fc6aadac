"""Dead rectifiers: units that are zero on all data get no gradient and never come back."""

from __future__ import annotations

from torch import nn

from geartrain.mechanisms import _interventions as tried
from geartrain.mechanisms._base import Intervention, Mechanism, Prediction, above

MECHANISM = Mechanism(
    name="dead_relu",
    title="Dead rectifiers",
    statement="Many rectified units are zero on every example; no gradient flows through them, so they stay so.",
    predictions=(
        Prediction(
            "dead_units@start",
            "share of rectified units that are dead at the start",
            above(0.4, soft=0.2),
            "With symmetric weights and no bias about 2^-n of the units are dead on n inputs in general position; a large "
            "share at the start is the initialisation's doing.",
            weight=1.3,
            counter=0.5,
        ),
        Prediction(
            "dead_units@end",
            "share of rectified units that are dead at the end",
            above(0.4, soft=0.2),
            "The derivative of a rectifier is 0 where its input is negative: a unit dead on all data cannot recover.",
            weight=1.3,
            counter=2.4,
        ),
        Prediction(
            "fork:leaky rectifiers",
            "gain from leaky rectifiers with fresh weights",
            above(0.1, soft=0.1),
            "A leak lets the gradient through dead units; if their death costs the loss, that recovers it (Maas et al. 2013).",
            weight=2.0,
            counter=2.0,
        ),
        Prediction(
            "run:left",
            "training loss at the end / loss of the best constant predictor",
            above(0.3, soft=0.2),
            "Dead units matter when what is left alive cannot do the work.",
            weight=0.4,
            counter=0.8,
            internal=False,
        ),
    ),
    interventions=(
        Intervention(
            "leaky rectifiers",
            "The whole run again with leaky rectifiers (slope 0.1) and He initialisation with zero biases.",
            tried.swap_activations((nn.ReLU, nn.ReLU6), lambda: nn.LeakyReLU(0.1), gain=True),
        ),
    ),
    remedy="Re-draw the weights with He initialisation and zero biases; use leaky rectifiers or a smaller step if units keep dying.",
    remedy_forks=("leaky rectifiers",),
    principled="exact: no gradient flows through a dead unit",
    upstream_of=("bad_init", "vanishing_gradients", "local_minimum", "under_capacity"),
)

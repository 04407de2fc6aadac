"""Bad local minimum: the run has come to rest where other starts would not.

Ledger: 0.10.
"""

from __future__ import annotations

from geartrain.mechanisms import _interventions as tried
from geartrain.mechanisms._base import Mechanism, Prediction, above, below

MECHANISM = Mechanism(
    name="local_minimum",
    title="Stuck in a bad local minimum or plateau",
    statement="The run has come to rest at a stationary point well above what the same net reaches from other initial weights.",
    predictions=(
        Prediction(
            "fork:restart",
            "gain from the best of four fresh starts",
            above(0.12, soft=0.1),
            "Some starts lie in better basins (Ledger 0.10).",
            weight=2.4,
            counter=2.6,
        ),
        Prediction(
            "fork:restart.success",
            "share of fresh starts that gain at least 0.1",
            below(0.9, soft=0.2),
            "A bad minimum catches some starts and not others; where every new start does well, this one was drawn badly.",
            weight=0.0,
            counter=0.9,
        ),
        Prediction(
            "endpoint_certificate.gradient_norm_relative@end",
            "gradient norm at the end / at the start",
            below(0.2, soft=2.5, log=True),
            "At a stationary point the gradient vanishes.",
            weight=0.9,
            counter=1.2,
        ),
        Prediction(
            "run:left",
            "training loss at the end / loss of the best constant predictor",
            above(0.15, soft=0.1),
            "A *bad* minimum keeps a good part of the loss.",
            weight=0.6,
            counter=2.0,
            internal=False,
        ),
        Prediction(
            "loss_slope",
            "slope of the loss at the end (ln loss per ln step, 0 = flat)",
            above(-0.1, soft=0.1),
            "At rest nothing falls any more.",
            weight=0.5,
            counter=0.8,
            internal=False,
        ),
        Prediction(
            "fork:as long again",
            "gain from going on for as long again",
            below(0.08, soft=0.06),
            "More time does not lead out of a minimum.",
            weight=0.6,
            counter=1.4,
        ),
        Prediction(
            "fork:lr / 10",
            "gain from a tenth of the step size",
            below(0.08, soft=0.08),
            "The run is at rest, not bouncing: smaller steps change nothing.",
            weight=0.3,
            counter=1.4,
        ),
    ),
    interventions=(tried.RESTART, tried.KEEP_GOING, tried.LR_TENTH),
    remedy="Restart from other initial weights (or widen the net: wider nets have fewer bad minima).",
    remedy_forks=("restart",),
    upstream_of=("lr_too_low", "under_capacity"),
    principled="definition of a stationary point; restarts decide",
)

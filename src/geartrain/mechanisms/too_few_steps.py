"""Too few steps: the run was stopped while it was still descending.

Ledger: 1.26.
"""

from __future__ import annotations

from geartrain.mechanisms import _interventions as tried
from geartrain.mechanisms._base import Mechanism, Prediction, above, below

MECHANISM = Mechanism(
    name="too_few_steps",
    title="Too few steps",
    statement="The run ends while the loss is still falling at a healthy pace; it needs nothing but more time.",
    predictions=(
        Prediction(
            "fork:as long again",
            "gain from going on for as long again",
            above(0.12, soft=0.08),
            "If time is all that is missing, the same run unchanged goes on to win.",
            weight=2.6,
            counter=2.6,
        ),
        Prediction(
            "loss_slope",
            "slope of the loss at the end (ln loss per ln step, 0 = flat)",
            below(-0.15, soft=0.15),
            "A run near its floor has slope 0; power-law descent keeps a constant slope.",
            weight=0.9,
            counter=0.8,
            internal=False,
        ),
        Prediction(
            "endpoint_certificate@end",
            "share of the loss that a Newton step would still remove",
            above(0.1, soft=3.0, log=True),
            "The end point is no minimum: the quadratic model promises more (Ledger 1.26).",
            weight=0.5,
            counter=0.5,
        ),
        Prediction(
            "fork:lr x 10",
            "gain from ten times the step size",
            below(0.12, soft=0.12),
            "If larger steps did the same in the same time, pace would be the cause, not time.",
            weight=0.2,
            counter=1.4,
        ),
    ),
    interventions=(tried.KEEP_GOING, tried.LR_TIMES_TEN),
    remedy="Train longer (or raise the step size first if there is room).",
    remedy_forks=("as long again",),
    principled="heuristic",
)

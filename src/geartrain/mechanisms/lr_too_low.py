"""Step size too low: every step is a small fraction of what the curvature would allow.

Ledger: 0.21.
"""

from __future__ import annotations

from geartrain.mechanisms import _interventions as tried
from geartrain.mechanisms._base import Mechanism, Prediction, above, below

MECHANISM = Mechanism(
    name="lr_too_low",
    title="Step size too low",
    statement="Every step goes a small fraction of the way to the bottom of its own parabola; nothing is wrong but the pace.",
    predictions=(
        Prediction(
            "fork:lr x 10 | fork:lr x 100 | fork:lr x 1000 | fork:lr x 10000",
            "gain from ten to ten thousand times the step size",
            above(0.1, soft=0.08),
            "If pace is all that is missing, larger steps from the same start get further in the same number of steps; how much "
            "larger they may be is what step size x sharpness says.",
            weight=2.6,
            counter=2.2,
        ),
        Prediction(
            "fork:lr x 10.validation_gain | fork:lr x 100.validation_gain | fork:lr x 1000.validation_gain",
            "gain from ten to a thousand times the step size, on the validation data",
            above(-0.02, soft=0.05),
            "More pace helps everywhere; a gain in training loss alone is memorising sooner.",
            weight=0.2,
            counter=1.8,
        ),
        Prediction(
            "edge_of_stability@max",
            "step size x sharpness / stability threshold (1 = the limit)",
            below(0.15, soft=30.0, log=True),
            "Gradient descent contracts a mode by 1 - lr x lambda: far below the threshold of 2 even the stiffest mode crawls.",
            weight=1.8,
            counter=1.8,
        ),
        Prediction(
            "step_length_gauge@middle",
            "where steps land on their own parabola (-1 = hardly moved, 0 = bottom)",
            below(-0.6, soft=0.3),
            "alpha = lr x curvature along the step - 1 for gradient descent: close to -1 when steps are far too short "
            "(Schneider et al. 2021, arXiv:2102.06604).",
            weight=0.5,
            counter=0.6,
        ),
        Prediction(
            "run:left",
            "training loss at the end / loss of the best constant predictor",
            above(0.3, soft=0.2),
            "Steps that are too short matter only while much of the loss is left.",
            weight=0.5,
            counter=1.2,
            internal=False,
        ),
    ),
    interventions=(
        tried.LR_TIMES_TEN,
        tried.LR_TIMES_HUNDRED,
        tried.LR_TIMES_THOUSAND,
        tried.LR_TIMES_TEN_THOUSAND,
    ),
    remedy="Multiply the step size by ten, and again, while step size x sharpness / threshold stays below 1.",
    remedy_forks=("lr x 10", "lr x 100", "lr x 1000", "lr x 10000"),
    principled="theorem on quadratics",
    upstream_of=("too_few_steps",),
)

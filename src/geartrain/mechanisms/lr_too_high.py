"""Step size too high: steps land beyond the far side of the valley.

Ledger: 0.21, 0.4.
"""

from __future__ import annotations

from geartrain.mechanisms import _interventions as tried
from geartrain.mechanisms._base import Mechanism, Prediction, above, below

MECHANISM = Mechanism(
    name="lr_too_high",
    title="Step size too high",
    statement="Steps overshoot: along the stiffest direction the step size exceeds what the curvature allows, so updates bounce back and forth instead of descending.",
    predictions=(
        Prediction(
            "edge_of_stability@max",
            "step size x sharpness / stability threshold (1 = the limit)",
            above(0.4, soft=2.0, log=True),
            "On a quadratic the top mode grows once lr x lambda > 2 (momentum and Adam shift the threshold; Cohen et al. 2021, "
            "arXiv:2103.00065); sampling noise breaks stability earlier, from about half of it on (Wu et al. 2018).",
            weight=1.2,
            counter=0.6,
        ),
        Prediction(
            "run:largest_update",
            "largest update / size of the weights",
            above(0.1, soft=3.0, log=True),
            "Healthy updates change the weights by about a thousandth; one that changes them by more than a tenth leaves the "
            "neighbourhood in which its gradient meant anything.",
            weight=1.2,
            counter=0.8,
        ),
        Prediction(
            "fork:lr / 10 | fork:lr / 100",
            "gain from a tenth or a hundredth of the step size",
            above(0.1, soft=0.1),
            "If overshooting is what costs the loss, smaller steps from the same start recover it.",
            weight=3.4,
            counter=2.8,
        ),
        Prediction(
            "fork:lr / 10 | fork:lr / 100 - fork:batch x 16",
            "gain from smaller steps minus gain from a 16 times larger batch",
            above(0.05, soft=0.15),
            "Overshooting along curvature does not care about sampling noise; a larger batch cures noise, not overshooting.",
            weight=0.4,
            counter=1.8,
        ),
        Prediction(
            "run:batch_size",
            "batch size",
            above(3.0, soft=2.0, log=True),
            "With one or two examples per batch, sampling noise is the first suspect for steps that do not settle.",
            weight=0.0,
            counter=1.3,
            internal=False,
        ),
        Prediction(
            "predicted_decrease@middle",
            "decrease of the loss in a step / what its gradient promises",
            below(0.5, soft=0.25),
            "The decrease falls to half of the first-order prediction at the bottom of the parabola, and below when the "
            "step lands beyond it: 1 - lr x curvature / 2.",
            weight=0.6,
            counter=0.4,
        ),
        Prediction(
            "back_and_forth@middle",
            "alternation of updates along the steepest direction (1 = every step reverses)",
            above(0.6, soft=0.2),
            "1 - lr x lambda is negative, so the projection changes sign, exactly when lr x lambda > 1; momentum lengthens the "
            "period, so silence says little.",
            weight=0.5,
            counter=0.1,
        ),
        Prediction(
            "run:turbulence",
            "rise of the loss above its best (in baselines, 3 = diverged)",
            above(0.05, soft=0.1),
            "Overshooting shows as a loss that breaks or climbs back from its best level (share of the baseline).",
            weight=0.6,
            counter=0.3,
            internal=False,
        ),
    ),
    interventions=(tried.LR_TENTH, tried.LR_HUNDREDTH, tried.BATCH_TIMES_16),
    remedy="Divide the step size by ten (or warm it up), then raise it again until step size x sharpness / threshold is about 1.",
    remedy_forks=("lr / 10", "lr / 100"),
    principled="theorem on quadratics, observed on networks (edge of stability)",
    upstream_of=(
        "dead_relu",
        "ill_conditioned",
        "exploding_gradients",
        "batch_too_small",
        "too_few_steps",
        "overfitting",
        "bad_init",
        "local_minimum",
        "under_capacity",
    ),
)

"""Ill-conditioning: a long thin valley, steep across and flat along.

Ledger: 0.1, 0.2, 0.3, 0.4, 0.5.
"""

from __future__ import annotations

from geartrain.mechanisms import _interventions as tried
from geartrain.mechanisms._base import Mechanism, Prediction, above, below

MECHANISM = Mechanism(
    name="ill_conditioned",
    title="Ill-conditioned loss (long thin valley)",
    statement="The loss is a long thin valley: the step size is limited by the steep walls while what is left to gain lies along the flat floor.",
    predictions=(
        Prediction(
            "effective_condition_number@end",
            "effective condition number of the Hessian",
            above(1000.0, soft=5.0, log=True),
            "Gradient descent needs about kappa/2 x ln(1/eps) steps; beyond a few thousand that is more than this run has. "
            "Directions without gradient are left out.",
            weight=1.0,
            counter=1.2,
        ),
        Prediction(
            "edge_of_stability@max",
            "step size x sharpness / stability threshold (1 = the limit)",
            above(0.3, soft=2.0, log=True),
            "In a valley the step size is already as large as the walls allow; otherwise it is simply too small.",
            weight=0.6,
            counter=1.6,
        ),
        Prediction(
            "back_and_forth@middle",
            "alternation of updates along the steepest direction (1 = every step reverses)",
            above(0.55, soft=0.2),
            "Across the valley the updates go back and forth once lr x lambda > 1.",
            weight=0.5,
            counter=0.3,
        ),
        Prediction(
            "fork:L-BFGS burst",
            "gain from a curvature-aware optimizer (L-BFGS) from the middle on, at equal cost",
            above(0.12, soft=0.08),
            "Conjugate-gradient-like methods need about sqrt(kappa) where gradient descent needs kappa (Nocedal & Wright, thm 5.5).",
            weight=2.2,
            counter=2.4,
        ),
        Prediction(
            "run:left",
            "training loss at the end / loss of the best constant predictor",
            above(0.15, soft=0.1),
            "A valley is a reason for slowness only while the loss is still far from its floor.",
            weight=0.4,
            counter=1.4,
            internal=False,
        ),
        Prediction(
            "fork:restart",
            "gain from other initial weights",
            below(0.1, soft=0.1),
            "A valley is found from everywhere: restarts do not help, which tells it from a bad local minimum.",
            weight=0.3,
            counter=1.0,
        ),
    ),
    interventions=(tried.LBFGS_BURST, tried.RESTART),
    remedy="Precondition: normalise inputs and layers, or use Adam, momentum, or a quasi-Newton method.",
    remedy_forks=("L-BFGS burst",),
    principled="theorem on quadratics",
    upstream_of=("too_few_steps",),
)

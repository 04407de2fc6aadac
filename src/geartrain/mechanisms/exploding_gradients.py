"""Exploding gradients: the backward signal grows with depth or time, and single steps throw the run off.

Ledger: 0.14.
"""

from __future__ import annotations

from geartrain.mechanisms import _interventions as tried
from geartrain.mechanisms._base import Mechanism, Prediction, above

MECHANISM = Mechanism(
    name="exploding_gradients",
    title="Exploding gradients",
    statement="The backward signal is multiplied at every layer or time step by more than 1; rare huge gradients throw the weights far off.",
    predictions=(
        Prediction(
            "gradient_spikes",
            "largest gradient norm / typical (median) one",
            above(7.0, soft=3.0, log=True),
            "A product of Jacobians with gain above 1 is heavy-tailed: the largest norms exceed the typical one by orders of magnitude "
            "(Pascanu et al. 2013, arXiv:1211.5063).",
            weight=1.4,
            counter=1.4,
        ),
        Prediction(
            "run:gradient_growth",
            "growth of the gradient per layer or time step, going backwards (log of the factor)",
            above(0.3, soft=0.3),
            "Linear recurrence: the gradient grows as the spectral radius to the power of the number of steps.",
            weight=1.0,
            counter=0.6,
        ),
        Prediction(
            "fork:gradients clipped",
            "gain from clipping gradients to their typical norm",
            above(0.05, soft=0.05),
            "Clipping removes the rare huge steps and leaves the others as they were.",
            weight=2.4,
            counter=2.2,
        ),
        Prediction(
            "fork:gradients clipped - fork:lr / 10",
            "gain from clipping minus gain from a tenth of the step size",
            above(-0.1, soft=0.2),
            "If rare huge gradients are the trouble, clipping does at least as well as making every step small.",
            weight=0.5,
            counter=0.8,
        ),
    ),
    interventions=(tried.CLIPPED, tried.LR_TENTH),
    remedy="Clip the gradient to its typical norm; then mend its source (initial gain, depth, sequence length, normalisation).",
    remedy_forks=("gradients clipped",),
    principled="random-matrix argument",
    upstream_of=("lr_too_high", "lr_too_low", "bad_init", "local_minimum", "too_few_steps"),
)

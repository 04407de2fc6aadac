"""Bad initialisation: the weights start where the loss is far too large, flat, or symmetric."""

from __future__ import annotations

from geartrain.mechanisms import _interventions as tried
from geartrain.mechanisms._base import Mechanism, Prediction, above, below

MECHANISM = Mechanism(
    name="bad_init",
    title="Bad initialisation",
    statement="The initial weights are far too large, far too small, or copies of one another, and the run does not recover from it.",
    predictions=(
        Prediction(
            "initial_scale@start",
            "loss at the start / loss of the best constant predictor",
            above(2.0, soft=2.0, log=True),
            "A calm initialisation predicts about the prior: the loss starts near the constant predictor's.",
            weight=1.0,
            counter=0.2,
        ),
        Prediction(
            "parameter_symmetry@start",
            "share of units that copy another one",
            above(0.3, soft=0.2),
            "Equal units get equal gradients and stay equal for ever.",
            weight=2.0,
            counter=0.0,
        ),
        Prediction(
            "run:activation_drift",
            "growth or shrinkage of the signal per layer at the start (log of the factor, 0 = none)",
            above(0.6, soft=0.4),
            "Variance-preserving initialisation keeps the growth near 0 (Glorot & Bengio 2010; He et al. 2015).",
            weight=0.8,
            counter=0.2,
        ),
        Prediction(
            "run:gradient_shrinkage",
            "growth of the gradient per layer at the start, going backwards (log of the factor)",
            below(-1.5, soft=1.0),
            "Weights that are far too small pass back as little as they pass on: each layer multiplies the gradient by their scale.",
            weight=1.0,
            counter=0.0,
        ),
        Prediction(
            "saturated_units@start",
            "share of sigmoid or tanh units that are flat at the start",
            above(0.3, soft=0.2),
            "Weights that are far too large drive bounded units into saturation, where almost no gradient passes (Glorot & "
            "Bengio 2010, section 3).",
            weight=1.0,
            counter=0.0,
        ),
        Prediction(
            "fork:restart.mean_gain",
            "gain from the layers' default initialisation, on average",
            above(0.1, soft=0.08),
            "If the initial weights are the trouble, weights drawn by the default rule remove it, every time.",
            weight=2.6,
            counter=2.6,
        ),
        Prediction(
            "fork:restart.success",
            "share of fresh starts that gain at least 0.1",
            above(0.8, soft=0.2),
            "A bad initialisation is mended by every good one; a bad minimum only by some.",
            weight=0.5,
            counter=0.8,
        ),
    ),
    interventions=(tried.RESTART,),
    remedy="Use the layers' default initialisation, or one that preserves the variance (He for rectifiers, Glorot for tanh).",
    remedy_forks=("restart",),
    principled="variance propagation at initialisation",
    upstream_of=(
        "vanishing_gradients",
        "exploding_gradients",
        "local_minimum",
        "lr_too_high",
        "lr_too_low",
        "dead_relu",
        "under_capacity",
        "missing_nonlinearity",
        "too_few_steps",
    ),
)

"""Vanishing gradients: each layer passes on a fraction of the signal, so early layers do not learn.

Ledger: 0.14.
"""

from __future__ import annotations

from torch import nn

from geartrain.mechanisms import _interventions as tried
from geartrain.mechanisms._base import Intervention, Mechanism, Prediction, above, below

_SATURATING = (nn.Sigmoid, nn.Tanh, nn.Softmax, nn.Hardtanh)

MECHANISM = Mechanism(
    name="vanishing_gradients",
    title="Vanishing gradients",
    statement="The backward signal shrinks by a factor at every layer, so the first layers hardly move while the last ones cannot do the work alone.",
    predictions=(
        Prediction(
            "run:gradient_shrinkage",
            "growth of the gradient per layer, going backwards (log of the factor)",
            below(-0.5, soft=0.4),
            "A product of layer Jacobians with gain g per layer shrinks as g to the depth; for sigmoids g is at most 1/4 of the "
            "weight gain (Glorot & Bengio 2010; Ledger 0.14).",
            weight=1.2,
            counter=1.6,
        ),
        Prediction(
            "gradient_flow.first_to_last@start",
            "gradient of the first layer / of the last (each relative to its weights)",
            below(0.03, soft=5.0, log=True),
            "With equal relative gradients all layers learn at one pace; a ratio below a few per cent means that the first stand still.",
            weight=1.2,
            counter=1.6,
        ),
        Prediction(
            "run:left",
            "training loss at the end / loss of the best constant predictor",
            above(0.5, soft=0.3),
            "A net whose first layers stand still stays near the constant predictor.",
            weight=0.5,
            counter=1.0,
            internal=False,
        ),
        Prediction(
            "fork:rectifiers | fork:rectifiers, lr / 10",
            "gain from rectifiers with matching initial weights",
            above(0.1, soft=0.1),
            "He initialisation with rectifiers keeps the backward variance at 1 per layer (He et al. 2015, arXiv:1502.01852).",
            weight=2.0,
            counter=1.0,
        ),
        Prediction(
            "fork:rectifiers | fork:rectifiers, lr / 10 - fork:restart",
            "gain from rectifiers minus gain from fresh weights in the same net",
            above(0.05, soft=0.1),
            "If depth and activations shrink the signal, they do so from every start; where new weights are enough, the old "
            "ones were at fault.",
            weight=0.0,
            counter=1.6,
        ),
    ),
    interventions=(
        tried.RESTART,
        Intervention(
            "rectifiers",
            "The whole run again with ReLU in place of saturating activations and He initialisation.",
            tried.swap_activations(_SATURATING, nn.ReLU, gain=True),
        ),
        Intervention(
            "rectifiers, lr / 10",
            "The same with a tenth of the step size: what carries the signal also carries larger gradients.",
            tried.swap_activations(_SATURATING, nn.ReLU, gain=True, lr_factor=0.1),
        ),
    ),
    remedy="Use rectifiers (or residual connections and normalisation) with He initialisation in place of deep stacks of saturating units.",
    remedy_forks=("rectifiers", "rectifiers, lr / 10"),
    principled="random-matrix argument at initialisation",
    upstream_of=("bad_init", "local_minimum", "too_few_steps", "lr_too_low", "under_capacity"),
)

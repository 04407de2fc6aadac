"""Frozen layer: part of the net does not learn, on purpose or by mistake."""

from __future__ import annotations

from geartrain.mechanisms._base import Intervention, Mechanism, Prediction, above, constant
from geartrain.run import Change

MECHANISM = Mechanism(
    name="frozen_layer",
    title="Frozen layers",
    statement="Some parameters never move (no gradient asked for, or missing from the optimizer), and the rest cannot make up for it.",
    predictions=(
        Prediction(
            "frozen_parameters@start",
            "share of parameters that never move",
            above(0.05, soft=0.05),
            "A parameter without updates stays at its initial value, exactly.",
            weight=2.0,
            counter=4.5,
        ),
        Prediction(
            "fork:all layers thawed",
            "gain from letting the frozen parameters move",
            above(0.04, soft=0.04),
            "If what is frozen is needed, letting it move lowers the loss.",
            weight=2.6,
            counter=2.6,
        ),
    ),
    interventions=(
        Intervention(
            "all layers thawed",
            "The whole run again with every parameter trained.",
            constant(Change(thaw=True)),
        ),
    ),
    remedy="Set requires_grad on the frozen layers and hand all parameters to the optimizer.",
    remedy_forks=("all layers thawed",),
    principled="exact",
    upstream_of=("under_capacity", "local_minimum", "lr_too_low", "too_few_steps"),
)

"""Missing biases: the net cannot shift its outputs or thresholds."""

from __future__ import annotations

import torch
from torch import nn

from geartrain.mechanisms import _interventions as tried
from geartrain.mechanisms._base import Intervention, Mechanism, Prediction, above, need
from geartrain.run import Change, Run


def _add(run: Run) -> Change:
    bare = [n for n, m in run.model.named_modules() if isinstance(m, tried.LINEAR) and m.bias is None]
    need(bool(bare), "every linear layer has a bias")

    def edit(model: nn.Module) -> None:
        for name in bare:
            layer = model.get_submodule(name)
            weight = layer.weight
            assert isinstance(weight, torch.Tensor)
            layer.bias = nn.Parameter(torch.zeros(weight.shape[0], dtype=weight.dtype, device=weight.device))

    return Change(edit=edit)


MECHANISM = Mechanism(
    name="missing_bias",
    title="Missing biases",
    statement="Layers without bias force the net through the origin; an offset in inputs or targets cannot be represented.",
    predictions=(
        Prediction(
            "missing_biases@start",
            "share of layers without a bias",
            above(0.4, soft=0.3),
            "A net of layers without bias and with odd or rectified units maps 0 to 0, exactly.",
            weight=1.4,
            counter=4.5,
        ),
        Prediction(
            "fork:biases added",
            "gain from adding biases",
            above(0.04, soft=0.04),
            "With biases the offset is learnt in a few steps.",
            weight=2.8,
            counter=2.8,
        ),
    ),
    interventions=(
        Intervention(
            "biases added", "The whole run again with a bias, initially zero, in every linear layer.", _add
        ),
    ),
    remedy="Give the layers biases (bias=True).",
    remedy_forks=("biases added",),
    principled="exact",
    upstream_of=("under_capacity", "local_minimum", "lr_too_low", "too_few_steps", "overfitting"),
)

"""Missing nonlinearity: stacked linear layers are one linear layer."""

from __future__ import annotations

from torch import nn

from geartrain.mechanisms import _interventions as tried
from geartrain.mechanisms._base import Intervention, Mechanism, Prediction, above, below, need
from geartrain.run import Change, Run


def _insert(run: Run) -> Change:
    linear = [n for n, m in tried.executed_leaves(run) if isinstance(m, tried.LINEAR)]
    need(len(linear) > 1, "the model has fewer than two linear layers")

    def edit(model: nn.Module) -> None:
        for name in linear[:-1]:
            tried.swap(model, name, nn.Sequential(model.get_submodule(name), nn.ReLU()))

    return Change(edit=edit)


MECHANISM = Mechanism(
    name="missing_nonlinearity",
    title="Missing nonlinearity",
    statement="No nonlinear function stands between the layers, so the whole net is one affine map and can learn no more than a linear model.",
    predictions=(
        Prediction(
            "input_affinity@start",
            "how far the net bends away from an affine (linear plus constant) map",
            below(0.001, soft=10.0, log=True),
            "A composition of affine maps is affine, exactly.",
            weight=1.6,
            counter=4.5,
        ),
        Prediction(
            "fork:rectifiers between layers",
            "gain from rectifiers between the layers",
            above(0.05, soft=0.05),
            "If the task is not linear, nonlinearity lowers the loss.",
            weight=3.4,
            counter=2.4,
        ),
    ),
    interventions=(
        Intervention(
            "rectifiers between layers",
            "The whole run again with a ReLU after every linear layer but the last.",
            _insert,
        ),
    ),
    remedy="Put a nonlinearity (ReLU, GELU, tanh) between the layers.",
    remedy_forks=("rectifiers between layers",),
    principled="exact",
    upstream_of=("under_capacity", "local_minimum"),
)

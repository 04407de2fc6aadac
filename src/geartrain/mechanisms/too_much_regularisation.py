"""Too much regularisation: decay or dropout holds the weights where they cannot fit."""

from __future__ import annotations

from torch import nn

from geartrain.mechanisms._base import Intervention, Mechanism, Prediction, above, need
from geartrain.run import Change, Run


def _free(run: Run) -> Change:
    dropouts = [
        n for n, m in run.model.named_modules() if isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0
    ]
    decays = any(group.get("weight_decay", 0.0) > 0 for group in run.optimizer.param_groups)
    need(bool(dropouts) or decays, "there is neither weight decay nor dropout")

    def edit(model: nn.Module) -> None:
        for name in dropouts:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, nn.Identity())

    return Change(edit=edit, weight_decay=0.0 if decays else None)


MECHANISM = Mechanism(
    name="too_much_regularisation",
    title="Too much regularisation",
    statement="Weight decay or dropout pulls harder than the loss, so that even the training data are not fitted.",
    predictions=(
        Prediction(
            "fork:no regularisation",
            "gain from training without weight decay and dropout",
            above(0.1, soft=0.08),
            "If regularisation holds the loss up, it falls once that is gone.",
            weight=2.8,
            counter=2.8,
        ),
        Prediction(
            "run:regularised",
            "pull of the weight decay / pull of the loss, or the dropout rate (the larger of the two)",
            above(0.4, soft=2.0, log=True),
            "At the equilibrium of decay and gradient the two balance along the weights: the ratio is 1.",
            weight=1.2,
            counter=1.8,
        ),
        Prediction(
            "run:left",
            "training loss at the end / loss of the best constant predictor",
            above(0.3, soft=0.2),
            "Too much means that the training data themselves are not fitted.",
            weight=0.5,
            counter=1.4,
            internal=False,
        ),
    ),
    interventions=(
        Intervention("no regularisation", "The whole run again without weight decay and dropout.", _free),
    ),
    remedy="Reduce weight decay and dropout until the training loss falls.",
    remedy_forks=("no regularisation",),
    principled="exact at the equilibrium of the penalised loss",
    upstream_of=("under_capacity", "vanishing_gradients", "local_minimum", "lr_too_low"),
)

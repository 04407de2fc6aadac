"""Too little capacity: the net cannot represent what the data ask for.

Ledger: 0.19.
"""

from __future__ import annotations

from geartrain.mechanisms import _interventions as tried
from geartrain.mechanisms._base import Intervention, Mechanism, Prediction, above, below
from geartrain.mechanisms._widen import widen
from geartrain.run import Change, Run


def _wider(run: Run) -> Change:
    leaves = tried.executed_leaves(run)
    return Change(edit=lambda model: widen(model, leaves, 4))


MECHANISM = Mechanism(
    name="under_capacity",
    title="Too little capacity",
    statement="The training loss has settled above what the data allow because the net is too small; neither smaller steps, nor restarts, nor more time help, width does.",
    predictions=(
        Prediction(
            "run:left",
            "training loss at the end / loss of the best constant predictor",
            above(0.25, soft=0.15),
            "What a net cannot represent stays in the training loss (Eckart-Young in the linear case; Ledger 0.19).",
            weight=0.6,
            counter=2.0,
            internal=False,
        ),
        Prediction(
            "fork:four times as wide",
            "gain from four times the width",
            above(0.12, soft=0.08),
            "If capacity is the limit, width removes it, on the same data with the same training.",
            weight=2.8,
            counter=2.6,
        ),
        Prediction(
            "fork:four times as wide.validation_gain",
            "gain from four times the width, on the validation data",
            above(0.04, soft=0.04),
            "What a larger net can represent and a small one cannot holds on other data too; else it has only memorised more.",
            weight=0.2,
            counter=2.0,
        ),
        Prediction(
            "fork:as long again",
            "gain from going on for as long again",
            below(0.1, soft=0.08),
            "At a floor set by capacity little is left to gain, however long the run goes on.",
            weight=0.6,
            counter=1.4,
        ),
        Prediction(
            "fork:restart",
            "gain from other initial weights",
            below(0.08, soft=0.08),
            "A floor set by capacity is met from every start.",
            weight=0.6,
            counter=1.4,
        ),
        Prediction(
            "neighbour_agreement@start",
            "how far nearest neighbours agree in their labels (0 = chance)",
            above(0.2, soft=0.2),
            "A net that is too small is to blame only if there is something to represent.",
            weight=0.2,
            counter=1.0,
        ),
    ),
    interventions=(
        Intervention(
            "four times as wide", "The whole run again with every hidden layer four times as wide.", _wider
        ),
        tried.RESTART,
        tried.KEEP_GOING,
    ),
    remedy="Make the hidden layers wider (or add one).",
    remedy_forks=("four times as wide",),
    principled="theorem in the linear case",
)

"""Overfitting: the net goes on fitting the training data after the validation loss has turned."""

from __future__ import annotations

import torch

from geartrain.mechanisms._base import Intervention, Mechanism, Prediction, above, below
from geartrain.run import Change, Run


def _decay(run: Run) -> Change:
    strength = 3.0 / max(run.total_steps or 1000, 1)

    def prepare(fork: Run) -> None:
        # Decoupled from the optimizer, so that it means the same for SGD and Adam.
        @torch.no_grad()
        def shrink(*_: object) -> None:
            for parameter in fork.model.parameters():
                if parameter.requires_grad and parameter.ndim > 1:
                    parameter.mul_(1.0 - strength)

        fork.watch_optimizer().also_after = shrink

    return Change(prepare=prepare)


MECHANISM = Mechanism(
    name="overfitting",
    title="Overfitting",
    statement="The labels can be learnt, but the net has gone on to fit what is particular to the training examples: the validation loss has turned and climbs.",
    predictions=(
        Prediction(
            "run:validation_rise",
            "rise of the validation loss above its best (share of the baseline)",
            above(0.06, soft=0.05),
            "Early stopping at the minimum of the validation loss would have been better (Prechelt 1998).",
            weight=2.2,
            counter=2.4,
            internal=False,
        ),
        Prediction(
            "train_validation_gap@end",
            "(validation loss - training loss) / baseline",
            above(0.25, soft=0.15),
            "Fitting particulars lowers the training loss only.",
            weight=1.2,
            counter=1.8,
        ),
        Prediction(
            "fork:weight decay.validation_gain",
            "gain from weight decay and stopping early, on the validation data",
            above(0.04, soft=0.04),
            "A penalty on the weights keeps particulars from being fitted.",
            weight=1.2,
            counter=0.8,
        ),
        Prediction(
            "neighbour_agreement@start",
            "how far nearest neighbours agree in their labels (0 = chance)",
            above(0.2, soft=0.2),
            "There is something to learn; where neighbours do not agree, noise is the better name.",
            weight=0.3,
            counter=1.2,
        ),
        Prediction(
            "distribution_shift@start",
            "how well training and validation inputs can be told apart (AUC, 0.5 = not)",
            below(0.7, soft=0.15),
            "Overfitting is a gap between data drawn alike; a gap between data drawn differently has another cause.",
            weight=0.0,
            counter=2.0,
        ),
    ),
    interventions=(
        Intervention(
            "weight decay",
            "The whole run again with decoupled weight decay such that lr x decay x steps = 3.",
            _decay,
        ),
    ),
    remedy="Stop at the minimum of the validation loss, add weight decay, augmentation or data, or make the net smaller.",
    remedy_forks=("weight decay",),
    principled="convention (validation minimum)",
    validates=True,
    upstream_of=("train_val_mismatch",),
)

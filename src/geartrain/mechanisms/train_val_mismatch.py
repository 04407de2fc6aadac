"""Training and validation data differ: the net is judged on something that it was not shown."""

from __future__ import annotations

import torch

from geartrain._torch import batches as _batches
from geartrain.mechanisms import _interventions as tried
from geartrain.mechanisms._base import Intervention, Mechanism, Prediction, above, need
from geartrain.run import Change, Run


def _split(run: Run) -> Change:
    need(run.validation_data is not None, "the run has no validation data")
    train = tried.whole_training_data(run)
    held = _batches.join(
        _batches.materialise(run.validation_data, probe=None, seed=run.seed, what="validation data")
    )
    pool = _batches.join([train, tuple(held)])
    size = _batches.size_of(train)
    order = torch.randperm(_batches.size_of(pool), generator=torch.Generator().manual_seed(run.seed + 3))

    def prepare(fork: Run) -> None:
        fork.replace_data(
            train=_batches.take(pool, order[:size]), validation=_batches.take(pool, order[size:])
        )

    return Change(prepare=prepare)


MECHANISM = Mechanism(
    name="train_val_mismatch",
    title="Training and validation data differ",
    statement="The validation data come from another distribution (other scale, other preprocessing, other classes) than the training data.",
    predictions=(
        Prediction(
            "distribution_shift@start",
            "how well training and validation inputs can be told apart (AUC, 0.5 = not)",
            above(0.7, soft=0.1),
            "If both were drawn alike, no classifier could tell them apart (Lopez-Paz & Oquab 2017, arXiv:1610.06545).",
            weight=1.8,
            counter=2.6,
        ),
        Prediction(
            "train_validation_gap@end",
            "(validation loss - training loss) / baseline",
            above(0.2, soft=0.15),
            "What was learnt on one distribution does not hold on the other.",
            weight=0.8,
            counter=1.6,
        ),
        Prediction(
            "fork:split anew.validation_gain",
            "gain from a fresh random split, on the validation data",
            above(0.08, soft=0.06),
            "After pooling and splitting at random the two are alike.",
            weight=2.2,
            counter=2.2,
        ),
    ),
    interventions=(
        Intervention(
            "split anew", "The whole run again after pooling all data and splitting them at random.", _split
        ),
    ),
    remedy="Apply the same preprocessing to both; split at random, or collect validation data like those to be met in use.",
    remedy_forks=("split anew",),
    principled="two-sample test",
    validates=True,
    upstream_of=("overfitting",),
)

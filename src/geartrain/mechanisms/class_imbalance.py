"""Class imbalance: the majority class is all that the loss rewards."""

from __future__ import annotations

import torch
from torch import Tensor

from geartrain._torch import batches as _batches
from geartrain.mechanisms import _interventions as tried
from geartrain.mechanisms._base import Intervention, Mechanism, Prediction, above, below, need
from geartrain.run import Change, Run


def _balance(run: Run) -> Change:
    inputs, targets = tried.whole_training_data(run)
    need(
        isinstance(targets, Tensor) and targets.reshape(-1).shape[0] == targets.shape[0],
        "the targets are not one class per example",
    )
    labels = targets.reshape(-1).to(torch.long)
    counts = torch.bincount(labels)
    need(2 <= int((counts > 0).sum()) <= 1000, "the targets are not a handful of classes")
    wanted = int(counts.max())
    # Repeated whole, then topped up: every example of a rare class is used about equally often.
    rows = [
        r.repeat(-(-wanted // len(r)))[:wanted]
        for c in counts.nonzero()
        if len(r := (labels == c).nonzero()[:, 0])
    ]
    index = torch.cat(rows)
    index = index[torch.randperm(len(index), generator=torch.Generator().manual_seed(run.seed))]

    def prepare(fork: Run) -> None:
        fork.replace_data(train=_batches.take((inputs, targets), index))

    return Change(prepare=prepare)


MECHANISM = Mechanism(
    name="class_imbalance",
    title="Class imbalance",
    statement="One class makes up most of the examples; predicting it is nearly optimal for the loss, and the rare ones are not learnt.",
    predictions=(
        Prediction(
            "label_balance.excess@start",
            "share of the largest class / its share if all were equally frequent",
            above(1.5, soft=1.2, log=True),
            "The gradient is an average over examples: classes count by their numbers.",
            weight=0.9,
            counter=2.6,
            internal=False,
        ),
        Prediction(
            "class_recall@end",
            "recall of the worst class (share of its examples that are recognised)",
            below(0.5, soft=0.25),
            "Classes that the loss does not reward are not recalled.",
            weight=1.6,
            counter=1.8,
        ),
        Prediction(
            "fork:classes balanced.class_recall - class_recall@end",
            "recall that the worst class gains when the classes are balanced",
            above(0.15, soft=0.15),
            "With equal numbers of each class the loss rewards all of them.",
            weight=2.2,
            counter=2.2,
        ),
    ),
    interventions=(
        Intervention(
            "classes balanced",
            "The whole run again with rare classes repeated until all are equally frequent.",
            _balance,
            measure=("class_recall",),
        ),
    ),
    remedy="Weight the classes in the loss, or sample them equally; judge by recall per class.",
    remedy_forks=("classes balanced",),
    principled="the loss is an average over examples",
    upstream_of=("local_minimum", "under_capacity"),
)

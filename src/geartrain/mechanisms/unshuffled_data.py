"""Unshuffled data: batches arrive sorted, so the net keeps chasing the current class."""

from __future__ import annotations

from geartrain.mechanisms import _interventions as tried
from geartrain.mechanisms._base import Intervention, Mechanism, Prediction, above
from geartrain.run import Change, Run


def _shuffled(run: Run) -> Change:
    if run.stream.indexed:
        return Change(shuffle=True)
    whole = tried.whole_training_data(run)

    def prepare(fork: Run) -> None:
        fork.replace_data(train=whole)
        fork.stream.shuffle = True

    return Change(prepare=prepare)


MECHANISM = Mechanism(
    name="unshuffled_data",
    title="Unshuffled data",
    statement="The training data come in an order that carries information (sorted by class, by time), so every batch pulls towards its own and undoes the last.",
    predictions=(
        Prediction(
            "data_order@start",
            "variance of the labels between batches / the same in random order",
            above(4.0, soft=2.0, log=True),
            "Random batches of size b have a label mean with variance sigma^2 / b: a ratio of 1; sorted data up to b.",
            weight=1.8,
            counter=3.0,
        ),
        Prediction(
            "fork:shuffled order",
            "gain from shuffling",
            above(0.06, soft=0.05),
            "Random batches are unbiased: the pull towards the current class is gone.",
            weight=2.4,
            counter=2.4,
        ),
    ),
    interventions=(
        Intervention(
            "shuffled order", "The whole run again with the training data shuffled in every epoch.", _shuffled
        ),
    ),
    remedy="Shuffle the training data in every epoch.",
    remedy_forks=("shuffled order",),
    principled="sampling theory",
    upstream_of=(
        "lr_too_high",
        "batch_too_small",
        "overfitting",
        "exploding_gradients",
        "local_minimum",
        "too_few_steps",
        "dead_relu",
    ),
)

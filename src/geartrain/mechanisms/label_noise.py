"""Label noise: the labels hold little or no information about the inputs, and are memorised.

Ledger: 0.22.
"""

from __future__ import annotations

from geartrain.mechanisms import _interventions as tried
from geartrain.mechanisms._base import Mechanism, Prediction, above, below

MECHANISM = Mechanism(
    name="label_noise",
    title="Label noise (memorisation)",
    statement="The labels are not determined by the inputs; the net can only memorise them, which it does or fails to do without learning anything that holds on other data.",
    predictions=(
        Prediction(
            "neighbour_agreement@start",
            "how far nearest neighbours agree in their labels (0 = chance)",
            below(0.35, soft=0.2),
            "If inputs determined labels smoothly, near inputs would share them (Cover & Hart 1967: the nearest-neighbour error is "
            "at most twice the irreducible one).",
            weight=2.4,
            counter=1.8,
        ),
        Prediction(
            "fork:labels shuffled",
            "gain from shuffling the labels (0 = it makes no difference)",
            above(-0.08, soft=0.06),
            "Labels without information are fitted as well, or as badly, after they are shuffled (Zhang et al. 2017, arXiv:1611.03530).",
            weight=2.2,
            counter=2.4,
        ),
        Prediction(
            "fork:labels shuffled.validation_gain",
            "gain from shuffling the labels, on the validation data (0 = it makes no difference)",
            above(-0.2, soft=0.15),
            "A net that can memorise fits any labels; whether these held information shows where it has not seen them.",
            weight=0.3,
            counter=2.4,
        ),
        Prediction(
            "run:validation_left",
            "validation loss at the end / loss of the best constant predictor",
            above(0.95, soft=0.08),
            "What was memorised does not hold elsewhere: the validation loss stays at the constant predictor's or rises above it.",
            weight=1.4,
            counter=1.6,
            internal=False,
        ),
        Prediction(
            "run:progress",
            "share of the best constant predictor's loss that training has removed",
            above(0.03, soft=0.03),
            "A run that has learnt nothing at all says nothing about its labels.",
            weight=0.4,
            counter=1.2,
            internal=False,
        ),
    ),
    interventions=(tried.SHUFFLED_LABELS,),
    remedy="Look at the labels: repair or remove the wrong ones, check that rows of inputs and targets still belong together.",
    remedy_forks=("labels shuffled",),
    principled="nearest-neighbour bound and randomisation test",
    validates=True,
    upstream_of=(
        "overfitting",
        "train_val_mismatch",
        "under_capacity",
        "too_few_steps",
        "lr_too_low",
        "batch_too_large",
        "ill_conditioned",
    ),
)

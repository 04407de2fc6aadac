"""Batch too large: examples are spent on precision that the steps do not need.

Ledger: 4.3, 4.5.
"""

from __future__ import annotations

from geartrain.mechanisms import _interventions as tried
from geartrain.mechanisms._base import Mechanism, Prediction, above, below

MECHANISM = Mechanism(
    name="batch_too_large",
    title="Batch too large",
    statement="The batch is far beyond the gradient noise scale: the gradient is precise, but there are too few steps for the number of examples seen.",
    predictions=(
        Prediction(
            "run:noise_over_batch",
            "gradient noise scale / batch size",
            below(0.3, soft=3.0, log=True),
            "Beyond the noise scale a larger batch buys almost nothing (McCandlish et al. 2018).",
            weight=1.0,
            counter=1.6,
        ),
        Prediction(
            "fork:batch / 8",
            "gain from an eighth of the batch, after the same number of examples",
            above(0.12, soft=0.08),
            "Eight times as many steps on the same examples.",
            weight=2.4,
            counter=2.6,
        ),
        Prediction(
            "run:batch_share",
            "batch size / number of examples",
            above(0.2, soft=2.0, log=True),
            "A batch that is most of the data leaves few steps per epoch.",
            weight=0.6,
            counter=1.4,
            internal=False,
        ),
        Prediction(
            "fork:lr x 10",
            "gain from ten times the step size",
            below(0.12, soft=0.12),
            "If the step size has room, it is the first thing to raise.",
            weight=0.2,
            counter=0.8,
        ),
    ),
    interventions=(tried.BATCH_EIGHTH, tried.LR_TIMES_TEN),
    remedy="Use a smaller batch (or raise the step size with it).",
    remedy_forks=("batch / 8",),
    principled="noise-scale theory",
    upstream_of=("too_few_steps",),
)

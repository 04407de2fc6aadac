"""Batch too small: sampling noise, not curvature, keeps the loss up.

Ledger: 4.5, 4.3.
"""

from __future__ import annotations

from geartrain.mechanisms import _interventions as tried
from geartrain.mechanisms._base import Mechanism, Prediction, above, below

MECHANISM = Mechanism(
    name="batch_too_small",
    title="Batch too small (noise-dominated)",
    statement="Each gradient is mostly sampling noise at this step size; the weights wander in a cloud around the minimum that a larger batch would shrink.",
    predictions=(
        Prediction(
            "fork:batch x 16",
            "gain from a 16 times larger batch",
            above(0.08, soft=0.06),
            "The variance of the stationary cloud goes with lr / batch (Mandt et al. 2017, arXiv:1704.04289): at a sixteenth of the "
            "noise the loss settles lower within the same number of steps.",
            weight=2.8,
            counter=2.8,
        ),
        Prediction(
            "run:largest_noise_over_batch",
            "largest gradient noise scale / batch size",
            above(10.0, soft=3.0, log=True),
            "Batches far below the noise scale tr(Sigma)/|G|^2 give gradients that are mostly noise (McCandlish et al. 2018, arXiv:1812.06162).",
            weight=0.8,
            counter=1.2,
        ),
        Prediction(
            "update_cosine@middle",
            "cosine of successive updates",
            below(0.3, soft=0.3),
            "Independent noise makes successive updates nearly orthogonal.",
            weight=0.3,
            counter=0.4,
        ),
        Prediction(
            "run:batch_size",
            "batch size",
            below(10.0, soft=3.0, log=True),
            "Noise falls as one over the batch size; beyond a few dozen other causes come first.",
            weight=1.5,
            counter=1.0,
            internal=False,
        ),
        Prediction(
            "edge_of_stability@max",
            "step size x sharpness / stability threshold (1 = the limit)",
            below(1.5, soft=2.0, log=True),
            "Without noise the same step size would be stable; otherwise the step is too large for any batch.",
            weight=0.5,
            counter=1.2,
        ),
    ),
    interventions=(tried.BATCH_TIMES_16,),
    remedy="Use a larger batch, or a smaller step size at the end (decay it), or average the weights.",
    remedy_forks=("batch x 16",),
    principled="stochastic-approximation theory near a minimum",
    upstream_of=("lr_too_high", "exploding_gradients", "too_few_steps", "overfitting"),
)

"""Target leakage: the inputs contain the answer."""

from __future__ import annotations

from geartrain.mechanisms._base import Mechanism, Prediction, above, below

MECHANISM = Mechanism(
    name="target_leakage",
    title="Target leakage",
    statement="The answer is among the inputs (a feature made from the target, or the next token in plain sight), so the loss is far better than it will be in use.",
    predictions=(
        Prediction(
            "run:leak",
            "outputs see the future, or one feature gives the target away (0 to 1)",
            above(0.9, soft=0.08),
            "A causal model's output at time t does not change when later inputs do; a single honest feature hardly ever determines the target.",
            weight=3.2,
            counter=4.5,
        ),
        Prediction(
            "run:validation_left",
            "validation loss at the end / loss of the best constant predictor",
            below(0.5, soft=0.25),
            "With the answer in sight the loss becomes suspiciously good, on validation data too.",
            weight=0.8,
            counter=0.6,
            internal=False,
        ),
        Prediction(
            "leak_price@end",
            "rise of the loss when the leak is closed (in baselines)",
            above(0.2, soft=0.15),
            "Take the leak away (later inputs hidden, the feature scrambled) and the loss goes up.",
            weight=1.6,
            counter=1.6,
        ),
    ),
    interventions=(),
    remedy="Mask the future (causal attention), or remove the feature that is made from the target; then judge again.",
    remedy_forks=(),
    principled="exact invariance of causal models",
    validates=True,
)

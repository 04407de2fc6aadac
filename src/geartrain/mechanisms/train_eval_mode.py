"""Wrong mode: dropout or batch normalisation runs in training mode while evaluating, or the reverse."""

from __future__ import annotations

from typing import Any

from geartrain.mechanisms._base import Intervention, Mechanism, Prediction, above, below
from geartrain.run import Change, Run


def _right(run: Run) -> Change:
    def prepare(fork: Run) -> None:
        step, evaluate = fork.user_step, fork.user_evaluate
        fork.training_mode = True

        def train_first(batch: Any) -> Any:
            fork.model.train()
            return step(batch)  # type: ignore[misc]

        def eval_first() -> Any:
            fork.model.eval()
            return evaluate()  # type: ignore[misc]

        fork.user_step = train_first if step is not None else None
        fork.user_evaluate = eval_first if evaluate is not None else None

    return Change(prepare=prepare)


MECHANISM = Mechanism(
    name="train_eval_mode",
    title="Training and evaluation modes mixed up",
    statement="Dropout or batch normalisation is in the wrong mode during training or evaluation, so what is evaluated is not what was trained.",
    predictions=(
        Prediction(
            "mode_consistency@start",
            "modes are as they should be (1 = yes)",
            below(0.5, soft=0.4),
            "Dropout and batch normalisation compute different functions in the two modes.",
            weight=4.5,
            counter=4.5,
        ),
        Prediction(
            "fork:modes put right.validation_gain",
            "gain from the right modes, on the validation data",
            above(0.0, soft=0.05),
            "With the right modes the validation loss is that of the net that was trained.",
            weight=0.5,
            counter=0.5,
        ),
    ),
    interventions=(
        Intervention(
            "modes put right",
            "The whole run again with training mode in every step and evaluation mode in every evaluation.",
            _right,
        ),
    ),
    remedy="Call model.train() before every training step and model.eval() before every evaluation.",
    remedy_forks=("modes put right",),
    principled="exact",
    validates=True,
    upstream_of=("overfitting", "train_val_mismatch"),
)

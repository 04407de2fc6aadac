"""How calm the network is at initialisation: its first loss over that of outputs that say nothing.

A calm initialisation gives outputs near zero: ln C for C classes, the mean square of the targets for a
regression; the value is then about 1. Far above, the network begins with confident nonsense that it must first
unlearn. Misleads for outputs that are not logits (a softmax or sigmoid inside the model squeezes every loss towards
1) and where pretrained weights begin well below 1. References: He et al. (2015), arXiv:1502.01852; Zhang, Dauphin,
Ma (2019), arXiv:1901.09321. Ledger: 0.13.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geartrain._torch.loss import SupervisedLoss
from geartrain.budget import Budget
from geartrain.errors import GeartrainError, NonFiniteError
from geartrain.instruments import _outputs
from geartrain.instruments._answers import answer, no_answer
from geartrain.instruments._base import instrument
from geartrain.objective import Objective
from geartrain.records import Cost, Measurement, State
from geartrain.run import Run


def _price(run: Any, **options: Any) -> Cost:
    return Cost(forwards=2)


@instrument(needs="run", unit="1", price=_price)
def initial_scale(
    run: Run | Objective,
    *,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure loss at initialisation / loss of a predictor that says nothing.

    The predictor says nothing by giving every class the same probability (ln C), every yes-or-no answer one half, or
    zero for every number.

    **Cost** two forward passes over the probe at step 0; later one, and the first recorded batch loss stands
    for the initial one.

    **Assumes** ``loss_fn(outputs, targets)``.

    **Misleads** for outputs that are not logits (a softmax or sigmoid inside the model squeezes every loss
    towards 1) and where pretrained weights begin well below 1.

    Args:
        run: A `Run`, or an `Objective` at its initial parameters.
        generator: Not used.
        budget: Not used.

    Returns:
        The ratio, a pure number: 1 = calm, far above 1 = bad initialisation. The standard error is 0 at step 0 (exact
        on the probe) and unknown (NaN) from a single batch. ``details``: ``loss``, ``reference``, ``output_std``
        (standard deviation of the outputs over examples, root mean square over outputs), ``output_mean`` (root mean
        square), ``logit_std`` (mean standard deviation across the classes of one example), ``num_classes``,
        ``at_start`` (whether outputs are those of the initial parameters; NaN outputs otherwise).
    """
    recorded = None
    if isinstance(run, Run):
        if run.step_count:
            recorded = _first_loss(run)
            if recorded is None:
                return no_answer(
                    "initial_scale", "The run is past its start and its first loss was not recorded."
                )
        if not isinstance(run.batch_loss, SupervisedLoss):
            return no_answer(
                "initial_scale", "The run hides the model's outputs, so nothing is known of their scale."
            )
    try:
        objective = run.objective("train") if isinstance(run, Run) else run
        outputs, targets = objective.outputs(), _targets(objective)
        loss = recorded if recorded is not None else float(objective.value())
    except NonFiniteError as error:
        return no_answer("initial_scale", str(error), state=State.NON_FINITE)
    except GeartrainError as error:
        return no_answer("initial_scale", str(error))
    return _measurement(objective, outputs, targets, loss, recorded is None)


def _measurement(
    objective: Objective, outputs: Any, targets: Any, loss: float, at_start: bool
) -> Measurement:
    if not isinstance(outputs, Tensor):
        return no_answer("initial_scale", "The model's output is not one tensor.")
    axis = _outputs.class_axis(outputs, targets)
    reference = _reference(objective, outputs, targets, axis)
    if not (math.isfinite(reference) and reference > 0):
        return no_answer(
            "initial_scale", "The loss of an output that says nothing is not known for this loss function."
        )
    details = {
        "loss": loss,
        "reference": reference,
        **(_scales(outputs, axis) if at_start else _scales(outputs * float("nan"), axis)),
        "num_classes": outputs.shape[axis] if axis is not None else 0,
        "at_start": at_start,
    }
    where = "on the probe at step 0" if at_start else "in the first recorded batch"
    sentence = f"Loss {loss:.3g} {where}; {reference:.3g} for an output that says nothing."
    state, error = (State.EXACT, 0.0) if at_start else (State.ESTIMATE, float("nan"))
    return answer("initial_scale", loss / reference, sentence, error=error, state=state, details=details)


def _reference(objective: Objective, outputs: Tensor, targets: Any, axis: int | None) -> float:
    if axis is not None:
        return math.log(outputs.shape[axis]) if outputs.shape[axis] > 1 else float("nan")
    if getattr(objective.loss_fn, "__name__", type(objective.loss_fn).__name__) in {
        "binary_cross_entropy",
        "BCELoss",
    }:
        return math.log(2.0)
    assert objective.loss_fn is not None
    with torch.no_grad():
        return float(objective.loss_fn(torch.zeros_like(outputs), targets))


def _scales(outputs: Tensor, axis: int | None) -> dict[str, float]:
    rows = outputs.double().reshape(len(outputs), -1)
    variance, mean = rows.var(dim=0, correction=0), rows.mean(dim=0)
    logits = (
        outputs.double().std(dim=axis, correction=0).mean() if axis is not None else torch.tensor(math.nan)
    )
    return {
        "output_std": float(variance.mean().sqrt()),
        "output_mean": float((mean**2).mean().sqrt()),
        "logit_std": float(logits),
    }


def _targets(objective: Objective) -> Any:
    parts = [batch[1] for batch in objective.batches]
    return torch.cat(parts) if all(isinstance(p, Tensor) for p in parts) else None


def _first_loss(run: Run) -> float | None:
    steps, losses = run.history.column("step"), run.history.column("loss")
    if not len(losses) or steps[0] != 0 or not np.isfinite(losses[0]):
        return None
    return float(losses[0])

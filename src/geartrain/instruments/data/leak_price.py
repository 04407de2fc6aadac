"""Leak price: how much worse the loss is once the answer is taken out of the inputs.

A leak matters as much as the model leans on it. Later places of a sequence are hidden (exchanged with those of
another example) and only the answer before them is judged; in a table the feature that predicts the target best is
shuffled among the examples. A large price for a *honest* feature only says that the feature is useful: read it
together with `feature_leak` and `future_dependence`.

Ledger: 0.13
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geartrain._torch import rng
from geartrain._torch.batches import take
from geartrain._torch.loss import SupervisedLoss
from geartrain.budget import Budget
from geartrain.instruments._answers import estimate, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments._predictions import outputs_of, raw_outputs_of
from geartrain.instruments.data.feature_leak import feature_leak
from geartrain.instruments.wiring.constant_loss import constant_loss
from geartrain.records import Cost, Measurement
from geartrain.run import Run

EXAMPLES = 64
PLACES = 8
NAME = "leak_price"


def _price(run: Run, **options: object) -> Cost:
    return Cost(forwards=PLACES + 2 if _answers_at_every_place(run.probe("train", EXAMPLES)) else 2)


@instrument(needs="run", unit="1", price=_price)
def leak_price(
    run: Run,
    *,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure (loss without the leak - loss with it) / loss of the best constant predictor, in evaluation mode.

    Sequences with an answer at every place: at up to 8 places, the loss of the answer there when all later inputs
    are those of the next example, minus the loss with the true ones. Tables: the loss with the feature of the
    highest single power (see `feature_leak`) shuffled, minus the loss without, on the validation data if there are
    some.

    **Cost** 9 forward passes over 64 examples, or 2 over the probe.

    **Assumes** that the model can be run on exchanged inputs: rows of a table, or sequences with an answer at
    every place.

    **Misleads** as proof of a leak: a large price for an honest feature only says that the feature is useful. A
    leak that is spread over many features is underestimated, since only one is taken out. Read it with
    `feature_leak` and `future_dependence`.

    Args:
        run: A run, as far as it has been trained.
        generator: Draws the shuffle; seeded by the run if omitted.
        budget: Not used.

    Returns:
        The price in units of the constant predictor's loss: 0 = the model does not lean on it. The standard error is
        over places (sequences) or chunks of examples. Details: ``kind`` (``"future"`` or ``"feature"``),
        ``loss_with``, ``loss_without``, ``feature``. Not applicable without a ``loss_fn`` or where neither applies.

    Example:
        >>> x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), 0.1)
        >>> run = Run(model, torch.nn.functional.mse_loss, optimizer, train=(x, x[:, :1]))
        >>> with torch.no_grad():
        ...     _ = model.weight.copy_(torch.tensor([[1.0, 0.0, 0.0]])), model.bias.zero_()
        >>> leak_price(run).value > 1.0
        True
    """
    if not isinstance(run.batch_loss, SupervisedLoss):
        return not_applicable(NAME, "The run has no loss_fn(outputs, targets).")
    with rng.preserved():
        rows = _future(run, run.batch_loss.loss_fn) or _feature(run, run.batch_loss.loss_fn, generator)
    if rows is None:
        return not_applicable(NAME, "There is neither an answer at every place nor a table of features.")
    kind, kept, lost, feature = rows
    baseline = float(constant_loss(run.objective(probe=256)))
    if not math.isfinite(baseline) or baseline <= 0:
        return not_applicable(NAME, "The loss of the best constant predictor is not known.")
    differences = (np.array(lost) - np.array(kept)) / baseline
    error = float(differences.std(ddof=1) / math.sqrt(len(differences))) if len(differences) > 1 else 0.0
    details = {
        "kind": kind,
        "loss_with": float(np.mean(kept)),
        "loss_without": float(np.mean(lost)),
        "feature": feature,
    }
    what = "later inputs hidden" if kind == "future" else f"feature {feature} shuffled"
    sentence = (
        f"With the {what} the loss goes from {details['loss_with']:.3g} to {details['loss_without']:.3g}."
    )
    return estimate(NAME, float(differences.mean()), error, sentence, details=details)


_Rows = tuple[str, list[float], list[float], int | None]
_Loss = Callable[..., Tensor]


def _answers_at_every_place(batch: Any) -> bool:
    if not (isinstance(batch, (tuple, list)) and all(isinstance(part, Tensor) for part in batch[:2])):
        return False
    inputs, targets = batch[0], batch[1]
    sequence = inputs.ndim >= 2 and not (inputs.ndim == 2 and inputs.is_floating_point())
    return sequence and targets.shape[:2] == inputs.shape[:2] and len(inputs) >= 2 and inputs.shape[1] >= 3


def _future(run: Run, loss_fn: _Loss) -> _Rows | None:
    batch = run.probe("train", EXAMPLES)
    if not _answers_at_every_place(batch):
        return None
    inputs, targets = batch[0], batch[1]
    kept, lost = [], []
    before = outputs_of(run, inputs)
    for place in np.unique(np.linspace(0, inputs.shape[1] - 2, PLACES).round().astype(int)).tolist():
        hidden = inputs.clone()
        hidden[:, place + 1 :] = inputs.roll(1, dims=0)[:, place + 1 :]
        pair = [_at(o, inputs, place) for o in (before, outputs_of(run, hidden))]
        if pair[0] is None or pair[1] is None:
            return None
        answers = targets[:, place : place + 1]
        with torch.no_grad():
            kept.append(float(loss_fn(pair[0], answers)))
            lost.append(float(loss_fn(pair[1], answers)))
    return "future", kept, lost, None


def _at(outputs: Tensor | None, inputs: Tensor, place: int) -> Tensor | None:
    """The outputs at one place, in the model's own layout."""
    examples, places = inputs.shape[:2]
    if outputs is None:
        return None
    if outputs.shape[:2] == (examples, places):
        return outputs[:, place : place + 1]
    if outputs.ndim == 3 and outputs.shape[2] == places:
        return outputs[:, :, place : place + 1]
    if outputs.shape[0] == examples * places:
        return outputs.reshape(examples, places, -1)[:, place]
    return None


def _feature(run: Run, loss_fn: _Loss, generator: torch.Generator | None) -> _Rows | None:
    found = feature_leak(run, generator=generator)
    batch = run.probe("validation" if run.validation_data is not None else "train")
    feature = found.details.get("feature")
    if (
        not isinstance(feature, int)
        or not isinstance(batch, (tuple, list))
        or not isinstance(batch[0], Tensor)
    ):
        return None
    inputs, targets = batch[0], batch[1]
    source = generator or torch.Generator().manual_seed(run.seed)
    shuffled = inputs.reshape(len(inputs), -1).clone()
    shuffled[:, feature] = shuffled[torch.randperm(len(inputs), generator=source), feature]
    pair = [raw_outputs_of(run, x) for x in (inputs, shuffled.reshape(inputs.shape))]
    if pair[0] is None or pair[1] is None:
        return None
    cuts = [c for c in np.array_split(np.arange(len(inputs)), min(8, len(inputs))) if len(c)]
    spans = [slice(int(c[0]), int(c[-1]) + 1) for c in cuts]
    with torch.no_grad():
        kept, lost = ([float(loss_fn(take(o, s), take(targets, s))) for s in spans] for o in pair)
    return "feature", kept, lost, feature

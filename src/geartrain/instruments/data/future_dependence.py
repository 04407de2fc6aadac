"""Future dependence: whether a sequence model's answer at one place looks at later places.

A language model whose attention mask is missing reads the answer off its own input: the loss falls below what any
honest model can reach, and text written by it is nonsense. Models that may look ahead (tagging, encoders) depend on
the future rightly: see ``targets_are_shifted_inputs``.

Ledger: 0.13
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geartrain._torch import batches as _batches
from geartrain.budget import Budget
from geartrain.errors import NonFiniteError
from geartrain.instruments._answers import estimate, exact, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments._layers import first_tensor, in_evaluation
from geartrain.objective import Objective
from geartrain.records import Cost, Measurement

EXAMPLES = 16
PLACES = 12
CHANGE = 1e-4


def _price(objective: Objective, **options: Any) -> Cost:
    return Cost(forwards=(PLACES + 1) * EXAMPLES / objective.num_examples)


@instrument(needs="objective", unit="1", price=_price)
def future_dependence(
    objective: Objective,
    *,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the share of places whose output changes when the inputs after them do.

    The inputs after place t are replaced by those of another example; the output at t counts as changed if it
    moves by more than 1e-4 of the spread of all outputs (plus a tenth of their size). In evaluation mode, at up to
    12 places of up to 16 examples.

    **Cost** 13 forward passes over 16 examples.

    **Assumes** that the model maps sequences to answers at every place, and runs on exchanged inputs.

    **Misleads** for models that may look ahead (tagging, encoders): they depend on the future rightly, see
    ``targets_are_shifted_inputs``. A dependence below the threshold of 1e-4 of the spread is not seen.

    Args:
        objective: What to measure; inputs (examples, places) of tokens or (examples, places, features).
        generator: Not used: the replacement is the next example.
        budget: Not used.

    Returns:
        The share: 0 = causal, about 1 = no mask. Details: ``targets_are_shifted_inputs`` (share of target[t] equal to
        input[t + 1]; NaN where they cannot be compared), ``places`` (tested), ``largest_change``. Not applicable to
        models that do not answer at every place.

    Raises:
        NonFiniteError: An output is not finite.

    Example:
        A running mean is causal; mixing all places is not:

        >>> class Mean(torch.nn.Linear):
        ...     def forward(self, x): return super().forward(x + x.mean(1, keepdim=True))
        >>> x = torch.randn(4, 5, 2, generator=torch.Generator().manual_seed(0))
        >>> future_dependence(Objective(Mean(2, 1), torch.nn.functional.mse_loss, (x, x[..., :1]))).value
        1.0
        >>> future_dependence(Objective(torch.nn.Linear(2, 1), torch.nn.functional.mse_loss, (x, x[..., :1]))).value
        0.0
    """
    name = "future_dependence"
    inputs = _sequences(objective)
    if inputs is None:
        return not_applicable(
            name, "The inputs are not sequences: (examples, places) or (examples, places, features)."
        )
    quiet = in_evaluation(objective)
    before = _by_place(quiet, inputs) if _targets_by_place(objective, inputs.shape[1]) else None
    if before is None:
        return not_applicable(name, "The model does not answer at every place of its input.")
    length = inputs.shape[1]
    cuts = np.unique(np.linspace(0, length - 2, min(PLACES, length - 1)).round().astype(int)).tolist()
    changes = torch.cat([_changes(quiet, inputs, before, t) for t in cuts])
    objective.charge(forwards=(len(cuts) + 1) * len(inputs) / objective.num_examples)
    if not len(changes):
        return not_applicable(name, "All examples are equal, so nothing can be exchanged.")
    share = float((changes > CHANGE).double().mean())
    details = {
        "targets_are_shifted_inputs": _shifted(objective),
        "places": tuple(cuts),
        "largest_change": float(changes.max()),
    }
    sentence = (
        f"{share:.0%} of the outputs at {len(cuts)} of {length} places change with the inputs after them."
    )
    if len(cuts) == length - 1:
        return exact(name, share, sentence, details=details)
    return estimate(name, share, math.sqrt(share * (1 - share) / len(cuts)), sentence, details=details)


def _sequences(objective: Objective) -> Tensor | None:
    """A few inputs, if they are sequences of at least three places."""
    if objective.loss_fn is None:
        return None
    inputs = objective.batches[0][0]
    if not isinstance(inputs, Tensor) or inputs.ndim not in (2, 3) or inputs.shape[1] < 3 or len(inputs) < 2:
        return None
    if inputs.ndim == 2 and inputs.is_floating_point():
        return None
    return inputs[:EXAMPLES]


def _targets_by_place(objective: Objective, length: int) -> bool:
    """Whether there is a target for every place (flattened ones included)."""
    inputs, targets = objective.batches[0][0], objective.batches[0][1]
    if not isinstance(targets, Tensor):
        return False
    return length in targets.shape[1:] or len(targets) == len(inputs) * length


def _by_place(objective: Objective, inputs: Tensor) -> Tensor | None:
    """Outputs with axes (examples, places, everything else); ``None`` where they have no places."""
    try:
        with objective._quiet():
            outputs = first_tensor(objective._outputs(objective._leaves(None), (inputs,)))
    except (RuntimeError, ValueError, IndexError):
        return None
    if outputs is None:
        return None
    outputs = outputs.detach()
    if not bool(torch.isfinite(outputs).all()):
        raise NonFiniteError("The model's outputs are NaN or infinite.")
    examples, places = inputs.shape[:2]
    if outputs.shape[:2] == (examples, places):
        return outputs.double().reshape(examples, places, -1)
    if outputs.ndim == 3 and outputs.shape[0] == examples and outputs.shape[2] == places:
        return outputs.double().transpose(1, 2)
    merged = outputs.ndim <= 2 and outputs.shape[0] == examples * places
    return outputs.double().reshape(examples, places, -1) if merged else None


def _changes(objective: Objective, inputs: Tensor, before: Tensor, place: int) -> Tensor:
    """Relative change of the output at a place, for the examples whose later inputs really became others."""
    swapped = inputs.clone()
    swapped[:, place + 1 :] = inputs.roll(1, dims=0)[:, place + 1 :]
    really = (swapped != inputs).reshape(len(inputs), -1).any(1)
    after = _by_place(objective, swapped)
    assert after is not None
    gap = (after[:, place] - before[:, place]).norm(dim=1)
    # In units of how much outputs vary at all; a common offset may not hide a change (nor rounding look like one).
    flat = before.reshape(-1, before.shape[2])
    size = (flat - flat.mean(0)).square().sum(1).mean().sqrt() + 0.1 * flat.square().sum(1).mean().sqrt()
    return (gap / size.clamp_min(1e-300))[really]


def _shifted(objective: Objective) -> float:
    """Share of targets that are the next input."""
    inputs, targets = objective.batches[0][0], objective.batches[0][1]
    if not isinstance(targets, Tensor) or targets.shape != inputs.shape or _batches.size_of(inputs) < 1:
        return math.nan
    return float((targets[:, :-1] == inputs[:, 1:]).double().mean())

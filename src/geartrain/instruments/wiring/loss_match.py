"""Loss match: whether the loss suits the targets.

Found by behaviour, not by name: the loss is called on outputs chosen beforehand. It cannot know intentions: class
numbers that are a true scale (ratings) may well be regressed, and are flagged all the same.

Ledger: 0.13
"""

from __future__ import annotations

import math

import numpy as np
import torch

from geartrain.budget import Budget
from geartrain.instruments._answers import exact, forward_price, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments._loss_probe import HIDDEN, LossProbe, loss_probe
from geartrain.objective import Objective
from geartrain.records import Measurement

FIT, HALF, MISFIT = 1.0, 0.5, 0.0
MOST_CLASSES = 100


@instrument(needs="objective", unit="1", price=forward_price)
def loss_match(
    objective: Objective,
    *,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Test how well the loss suits the targets.

    0: the loss ignores the outputs (a softmax over one column); compares a number with the *number* of a class
    (three classes or more); has no lower bound (logistic loss with targets outside [0, 1], log-likelihood of scores
    that are no log-probabilities); cannot see a common offset of numeric targets (softmax over the batch); rises
    when the right class's score does. ½: classes are regressed by a squared error (it works, slowly). 1: none of these.

    **Cost** one forward pass over at most 128 examples and about ten evaluations of the loss.

    **Assumes** that the loss can be called on outputs of the instrument's own making, and has no state.

    **Misleads** about intentions: class numbers that are a true scale (ratings) may well be regressed, and are
    flagged all the same. A loss of one's own invention may fail a test and be right.

    Args:
        objective: What to test; made from ``loss_fn(outputs, targets)``.
        generator: Not used.
        budget: Not used.

    Returns:
        1 = suits, 0 = does not. Details: ``reason`` (a sentence). Not applicable where the loss hides the outputs.

    Example:
        Cross-entropy with a single output column is always 0:

        >>> data = (torch.ones(4, 1), torch.zeros(4, dtype=torch.long))
        >>> loss_match(Objective(torch.nn.Linear(1, 1), torch.nn.functional.cross_entropy, data)).value
        0.0
    """
    probe = loss_probe(objective)
    if probe is None:
        return not_applicable("loss_match", HIDDEN)
    if not math.isfinite(probe.loss(probe.random())):
        return not_applicable("loss_match", "The loss refuses every output that was tried.")
    value, reason = _judge(probe)
    return exact("loss_match", value, reason, details={"reason": reason})


def _judge(probe: LossProbe) -> tuple[float, str]:
    """The first of the known misfits, or none."""
    if _ignores_outputs(probe):
        return (
            MISFIT,
            "The loss does not depend on the outputs at all (a softmax over a single column does that).",
        )
    if _unbounded(probe):
        return (
            MISFIT,
            "The loss has no lower bound for these targets: outputs running off to infinity lower it for ever.",
        )
    number = _compares_numbers(probe)
    if number and _class_numbers(probe) > 2:
        return (
            MISFIT,
            f"The outputs are compared with the numbers of {_class_numbers(probe)} classes, as if they were amounts.",
        )
    if number and probe.kind in ("binary", "one-hot", "classes"):
        return HALF, "Classes are regressed by a distance; a cross-entropy learns them faster."
    if probe.kind == "values" and _blind_to_offset(probe):
        return (
            MISFIT,
            "Adding the same number to all outputs does not change the loss, so it cannot learn the targets' level.",
        )
    if _rewards_errors(probe):
        return MISFIT, "The loss grows when the score of the right class does."
    return FIT, "The loss has a lower bound, depends on the outputs, and prefers right ones."


def _ignores_outputs(probe: LossProbe) -> bool:
    losses = [probe.loss(probe.random(seed)) for seed in range(3)]
    return all(abs(loss - losses[0]) <= 1e-9 * (1 + abs(losses[0])) for loss in losses)


def _unbounded(probe: LossProbe) -> bool:
    """Whether large outputs in the targets' direction, or likelihoods of plain scores, push the loss down for ever."""
    right = probe.one_hot()
    if right is not None:
        rows = probe.outputs.double().movedim(probe.class_axis or 0, -1)
        normalised = bool((rows.logsumexp(-1).abs() < 1e-3).all())
        probabilities = bool(((rows.sum(-1) - 1).abs() < 1e-3).all())
        return not normalised and not probabilities and _falls_for_ever(probe, right)
    if probe.targets.numel() != probe.outputs.numel():
        return False
    targets = probe.targets.reshape(probe.outputs.shape).to(probe.outputs)
    centres = {0.5, float(targets.mean())}
    return any(_falls_for_ever(probe, sign * (targets - c).sign()) for c in centres for sign in (1, -1))


def _falls_for_ever(probe: LossProbe, direction: torch.Tensor) -> bool:
    far, farther = probe.loss(1e3 * direction), probe.loss(2e3 * direction)
    return far < -10 and farther < 1.5 * far


def _compares_numbers(probe: LossProbe) -> bool:
    """Whether the loss is a distance between outputs and targets: 0 where they agree, the same on both sides."""
    if probe.targets.numel() != probe.outputs.numel():
        return False
    equal = probe.targets.reshape(probe.outputs.shape).to(probe.outputs)
    here, above, below = (probe.loss(equal + step) for step in (0.0, 0.5, -0.5))
    if not math.isfinite(above + below):
        return False
    return abs(here) < 1e-6 and above > 1e-3 and abs(above - below) < 1e-3 * above


def _class_numbers(probe: LossProbe) -> int:
    """How many classes the targets number, 0, 1, 2, ..., each seen more than once on average; 0 if they do not."""
    if probe.targets.numel() != len(probe.targets):
        return 0
    numbers = probe.objective.batches[0][1].detach().double().reshape(-1).cpu().numpy()
    found = np.unique(numbers)
    whole = bool((found == np.round(found)).all()) and found[0] in (0.0, 1.0)
    dense = len(found) == found[-1] - found[0] + 1
    return len(found) if whole and dense and len(found) <= min(MOST_CLASSES, len(numbers) / 2) else 0


def _blind_to_offset(probe: LossProbe) -> bool:
    if probe.outputs.numel() != len(probe.outputs):
        return False
    outputs = probe.random()
    here = probe.loss(outputs)
    return abs(probe.loss(outputs + 3.0 * probe.scale[1]) - here) < 1e-4 * (1 + abs(here))


def _rewards_errors(probe: LossProbe) -> bool:
    right = probe.one_hot()
    if right is None and probe.kind in ("binary", "one-hot", "multi-label"):
        if probe.targets.numel() != probe.outputs.numel():
            return False
        right = probe.targets.reshape(probe.outputs.shape).to(probe.outputs)
    if right is None:
        return False
    # Within (0, 1), so that losses of probabilities accept them too.
    good, bad = probe.loss(0.05 + 0.9 * right), probe.loss(0.95 - 0.9 * right)
    return good > bad

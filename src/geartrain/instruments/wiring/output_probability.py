"""Output probability: whether the model turns scores into probabilities before a loss that does so itself.

A softmax in front of a cross-entropy that contains one (likewise a sigmoid in front of the logistic loss) squeezes
the scores into [0, 1]: gradients shrink and the loss cannot fall below a floor far above zero. A log-softmax in
front is harmless (it changes nothing when done twice) and is not counted.

Ledger: 0.13
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from geartrain.budget import Budget
from geartrain.errors import NonFiniteError
from geartrain.instruments._answers import exact, forward_price, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments._loss_probe import HIDDEN, LossProbe, loss_probe
from geartrain.objective import Objective
from geartrain.records import Measurement


@instrument(needs="objective", unit="1", price=forward_price)
def output_probability(
    objective: Objective,
    *,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the share of outputs that are probabilities although the loss expects scores.

    The loss expects scores if adding a constant to all scores of an example does not change it (softmax inside), or
    if it is ln 2 for outputs 0 and falls towards 0 for large scores of the right sign (sigmoid inside). An output is
    a probability if its entries are non-negative and sum to 1, or if it is the result of a sigmoid.

    **Cost** one forward pass over at most 128 examples and a few evaluations of the loss.

    **Assumes** that the loss can be called on outputs of the instrument's own making.

    **Misleads** where the squeezing is meant (a temperature, a bounded score), and for outputs that happen to
    be non-negative and to sum to 1 on these examples. Rescaling after the softmax hides it.

    Args:
        objective: What to measure; made from ``loss_fn(outputs, targets)``.
        generator: Not used.
        budget: Not used.

    Returns:
        The share: 1 = applied twice, 0 = not. Details: ``loss_applies`` (``"softmax"``, ``"sigmoid"`` or ``"none"``),
        ``last_activation``, ``loss_floor`` (least loss within the range of the output activation; 0 where it is
        unbounded), ``log_probability_share``. Not applicable to numbers, and where the loss hides the outputs.

    Raises:
        NonFiniteError: An output is not finite.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.Softmax(dim=1))
        >>> data = (torch.ones(4, 1), torch.arange(4) % 2)
        >>> output_probability(Objective(model, torch.nn.functional.cross_entropy, data)).value
        1.0
    """
    name = "output_probability"
    probe = loss_probe(objective)
    if probe is None:
        return not_applicable(name, HIDDEN)
    if probe.kind in ("values", "none"):
        return not_applicable(name, "The targets are numbers, not classes.")
    if not bool(torch.isfinite(probe.outputs).all()):
        raise NonFiniteError("The model's outputs are NaN or infinite.")
    applies = what_loss_applies(probe)
    share, logs = _shares(probe, applies)
    details = {
        "loss_applies": applies,
        "last_activation": probe.head.activation,
        "loss_floor": _floor(probe, applies),
        "log_probability_share": logs,
    }
    twice = f"The loss applies a {applies} itself, and the model's outputs already are probabilities."
    sentence = twice if share > 0.5 else "The model hands the loss what it expects."
    return exact(name, share, sentence, details=details)


def what_loss_applies(probe: LossProbe) -> str:
    """``"softmax"``, ``"sigmoid"`` or ``"none"``: what the loss does to outputs before it takes logarithms."""
    outputs = probe.random()
    axis = probe.class_axis
    if axis is None and probe.kind == "one-hot" and probe.outputs.ndim == 2:
        axis = 1
    if axis is not None and outputs.shape[axis] > 1:
        here, moved, other = probe.loss(outputs), probe.loss(outputs + 3.0), probe.loss(probe.random(seed=1))
        scale = 1e-4 * (1 + abs(here))
        if abs(here - moved) < scale and abs(here - other) > scale:
            return "softmax"
    if (probe.targets.numel() == outputs.numel() and probe.kind != "classes") or outputs.numel() == len(
        outputs
    ):
        signs = (
            (probe.targets.reshape(outputs.shape).to(outputs) - 0.5).sign()
            if probe.targets.numel() == outputs.numel()
            else None
        )
        flat = probe.loss(torch.zeros_like(outputs))
        if signs is not None and abs(flat - math.log(2)) < 1e-4 and probe.loss(20 * signs) < 1e-4:
            return "sigmoid"
    return "none"


def _shares(probe: LossProbe, applies: str) -> tuple[float, float]:
    """Share of outputs that are probabilities, and log-probabilities, where the loss expects scores."""
    if applies == "sigmoid":
        inside = (probe.outputs >= 0) & (probe.outputs <= 1)
        certain = probe.head.activation in ("sigmoid", "softmax", "hardsigmoid")
        return (1.0 if certain and bool(inside.all()) else 0.0), 0.0
    if applies != "softmax":
        return 0.0, 0.0
    rows = probe.outputs.double().movedim(_axis(probe), -1)
    sums = (rows.sum(-1) - 1).abs() < 1e-4
    probabilities = (rows >= 0).all(-1) & sums
    # A log-probability is at most 0 and its exponentials sum to 1.
    logs = rows.logsumexp(-1).abs() < 1e-4
    return float(probabilities.double().mean()), float(logs.double().mean())


def _axis(probe: LossProbe) -> int:
    axis = probe.class_axis
    return axis if axis is not None else probe.outputs.ndim - 1


def _floor(probe: LossProbe, applies: str) -> float:
    """Least loss that outputs within the range of the output activation can reach."""
    reach = probe.head.high - probe.head.low
    if not math.isfinite(reach) or applies == "none":
        return 0.0
    if applies == "sigmoid":
        best = torch.where(probe.targets.reshape(probe.outputs.shape) > 0.5, probe.head.high, probe.head.low)
        return probe.loss(best.to(probe.outputs))
    right = probe.one_hot()
    if right is None:
        right = probe.targets.reshape(probe.outputs.shape).to(probe.outputs)
    return probe.loss(_stretch(right, probe))


def _stretch(right: Tensor, probe: LossProbe) -> Tensor:
    return probe.head.low + right * (probe.head.high - probe.head.low)

"""Output-target match: whether the loss compares each output with its own target.

Outputs of shape (n, 1) against targets of shape (n,) are silently broadcast to n x n by most losses: every output is
compared with every target, and the model learns the mean. A loss that is *meant* to ignore the pairing would be
flagged as well.

Ledger: 0.13
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from geartrain.budget import Budget
from geartrain.instruments._answers import exact, forward_price, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments._loss_probe import HIDDEN, LossProbe, loss_probe
from geartrain.objective import Objective
from geartrain.records import Measurement


@instrument(needs="objective", unit="1", price=forward_price)
def output_target_match(
    objective: Objective,
    *,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Test whether the loss pairs outputs and targets one to one.

    With random outputs: exchanging the targets among the examples must change the loss (if the outputs matter to
    it at all). Shapes that differ but broadcast, and a loss that warns about sizes, count as a mismatch too.

    **Cost** one forward pass over at most 128 examples and four evaluations of the loss.

    **Assumes** that the loss can be called on outputs of the instrument's own making.

    **Misleads** for losses that are *meant* to ignore the pairing (distances between distributions, contrastive
    losses): they are flagged too. Targets that are all equal cannot be told apart.

    Args:
        objective: What to test; made from ``loss_fn(outputs, targets)``.
        generator: Not used.
        budget: Not used.

    Returns:
        1 = one to one, 0 = silently broadcast. Details: ``output_shape`` and ``target_shape`` (without the number of
        examples), ``pairing_matters``, ``warned``. Not applicable where the loss hides the outputs or where all
        targets are equal.

    Example:
        >>> objective = Objective(
        ...     torch.nn.Linear(1, 1), lambda f, y: ((f - y) ** 2).mean(), (torch.ones(4, 1), torch.arange(4.0))
        ... )
        >>> output_target_match(objective).value
        0.0
    """
    name = "output_target_match"
    probe = loss_probe(objective)
    if probe is None:
        return not_applicable(name, HIDDEN)
    if bool((probe.targets == probe.targets[:1]).all()):
        return not_applicable(
            name, "All targets are equal, so it cannot be told which is compared with which."
        )
    pairing, warned = _pairing_matters(probe), probe.warns()
    details = {
        "output_shape": tuple(probe.outputs.shape[1:]),
        "target_shape": tuple(probe.targets.shape[1:]),
        "pairing_matters": pairing,
        "warned": warned,
    }
    wrong = pairing is False or warned or _stretched(probe)
    shapes = f"outputs {_shape(probe.outputs)} against targets {_shape(probe.targets)}"
    sentence = f"The loss broadcasts {shapes}." if wrong else f"Each output meets its own target: {shapes}."
    return exact(name, 0.0 if wrong else 1.0, sentence, details=details)


def _shape(tensor: Tensor) -> str:
    return f"({', '.join(['n', *map(str, tensor.shape[1:])])})".replace("(n)", "(n,)")


def _pairing_matters(probe: LossProbe) -> bool | None:
    """Whether the loss changes when targets are exchanged; ``None`` where it ignores the outputs anyway."""
    outputs = probe.random()
    here, other = probe.loss(outputs), probe.loss(probe.random(seed=1))
    scale = 1e-5 * max(abs(here), abs(other), 1e-12)
    if not math.isfinite(here) or abs(here - other) <= scale:
        return None
    rolled = [probe.loss(outputs, probe.targets.roll(k, dims=0)) for k in _shifts(len(outputs))]
    return any(not math.isfinite(r) or abs(here - r) > scale for r in rolled)


def _shifts(size: int) -> tuple[int, ...]:
    """Several, since exchanging equal targets changes nothing."""
    return tuple({1, size // 2, size // 3 or 1} - {0})


def _stretched(probe: LossProbe) -> bool:
    """Whether numbers with as many axes but other lengths are compared: one is repeated to fit the other."""
    a, b = probe.outputs.shape, probe.targets.shape
    return probe.targets.is_floating_point() and len(a) == len(b) and a != b and a[0] == b[0]

"""Strength of weight decay against the loss.

At a minimum of the regularised loss both forces balance: the value is 1 and ``along`` is 1. Far above, decay
shrinks the weights faster than the loss builds them. Misleads for scale-invariant weights (those followed by a
normalisation layer): there decay only sets the effective step size, and the balance is one of norms in
time, not of forces (see ``equilibrium_norm``). References: Loshchilov and Hutter (2019), arXiv:1711.05101; Kosson,
Messmer, Jaggi (2023), arXiv:2305.17212, on the equilibrium norm. Ledger: 4.12.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from geartrain._torch import flat
from geartrain.budget import Budget
from geartrain.errors import NonFiniteError, UnsupportedError
from geartrain.instruments import _stability
from geartrain.instruments._answers import answer, no_answer
from geartrain.instruments._base import instrument
from geartrain.records import Cost, Measurement, State
from geartrain.run import Run


def _price(run: Any, **options: Any) -> Cost:
    return Cost(gradients=1)


@instrument(needs="run", unit="1", price=_price)
def decay_pull(
    run: Run,
    *,
    probe: int = 512,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure ‖decay force‖ / ‖loss force‖ over the parameters that decay.

    With weight decay κ, weights w and gradient g of the training loss: ‖κw‖/‖g‖ for an L2 penalty inside the optimizer
    (SGD, Adam), ‖κw‖/‖D⁻¹g‖ for decoupled decay (AdamW), D the optimizer's preconditioner.

    **Cost** one gradient on the probe.

    **Assumes** that decay is the optimizer's; a penalty inside the loss is not seen.

    **Misleads** for scale-invariant weights, those followed by a normalisation layer: there decay only sets the
    effective step size, and the balance is one of norms in time, not of forces (see ``equilibrium_norm``).
    Early in training the loss pulls harder than it will at the end.

    Args:
        run: The run.
        probe: Training examples for the gradient, in evaluation mode.
        generator: Not used: the probe is fixed.
        budget: Not used.

    Returns:
        The ratio, a pure number; 0 without weight decay. ``details``: ``along`` (pull of the loss outward along w
        over the pull of decay inward: -g·w / κ‖w‖²; 1 in balance, negative when both shrink), ``decoupled``,
        ``weight_decay`` (of the first group that has it), ``norm`` (of the decaying weights), ``equilibrium_norm``
        (the norm at which decay per step, η κ ‖w‖², undoes the growth by steps at right angles, η² ‖D⁻¹g‖²/2; for Adam
        with one unit of D⁻¹g per parameter), ``equilibrium_ratio`` (norm over that), ``shrinkage`` (η κ, share of
        the weights lost per step).
    """
    settings = _settings(run)
    if not bool(settings.decay.any()):
        return answer("decay_pull", 0.0, "The optimizer has no weight decay.", state=State.EXACT)
    force = _loss_force(run, settings, probe)
    if isinstance(force, Measurement):
        return force
    where = settings.decay > 0
    weights, decay = settings.weights[where], settings.decay[where]
    inward, outward = decay * weights, -force[where]
    size, loss_size = float(inward.norm()), float(outward.norm())
    if not loss_size > 0:
        return no_answer(
            "decay_pull", "The gradient of the loss is zero: there is nothing to compare decay with."
        )
    norm, power = float(weights.norm()), float(weights @ inward)
    equilibrium = _equilibrium(settings, loss_size, int(where.sum()))
    details = {
        "along": float(outward @ weights) / power if power > 0 else float("nan"),
        "decoupled": settings.decoupled,
        "weight_decay": float(decay[0]),
        "norm": norm,
        "equilibrium_norm": equilibrium,
        "equilibrium_ratio": norm / equilibrium if equilibrium > 0 else float("nan"),
        "shrinkage": settings.lr * float(decay[0]),
    }
    kind = "decoupled" if settings.decoupled else "L2"
    sentence = f"{kind[0].upper()}{kind[1:]} decay of {float(decay[0]):.3g} on {len(weights)} parameters."
    return answer("decay_pull", size / loss_size, sentence, state=State.EXACT, details=details)


class _Settings:
    """Weights and decay per parameter, in the order of the objective."""

    def __init__(self, weights: Tensor, decay: Tensor, decoupled: bool, lr: float, adaptive: bool) -> None:
        self.weights, self.decay, self.decoupled, self.lr = weights, decay, decoupled, lr
        self.adaptive = adaptive


def _settings(run: Run) -> _Settings:
    parameters = flat.select(run.model, None)
    layout = flat.layout_of(parameters)
    weights = layout.flatten(p.detach() for p in parameters.values())
    decay, decoupled, lr = torch.zeros_like(weights), False, run.lr
    places = {id(p): s for p, s in zip(parameters.values(), layout.slices().values(), strict=True)}
    for group in run.optimizer.param_groups:
        for parameter in group["params"]:
            if id(parameter) in places:
                decay[places[id(parameter)]] = float(group.get("weight_decay", 0.0))
        if group.get("weight_decay", 0.0):
            decoupled, lr = _stability.decoupled(run.optimizer, group), float(group["lr"])
    return _Settings(weights, decay, decoupled, lr, "betas" in run.optimizer.param_groups[0])


def _loss_force(run: Run, settings: _Settings, probe: int) -> Tensor | Measurement:
    """What the loss does to the parameters per unit of step size (with sign), or why it cannot be said."""
    try:
        objective = run.objective("train", probe=probe)
        gradient = objective.gradient()
    except UnsupportedError as error:
        return no_answer("decay_pull", str(error))
    except NonFiniteError as error:
        return no_answer("decay_pull", str(error), state=State.NON_FINITE)
    run.work = run.work + objective.work
    if not settings.decoupled:
        return gradient
    moves = _stability.dynamics(run)
    if isinstance(moves, str):
        return no_answer("decay_pull", moves)
    return moves.inverse * gradient


def _equilibrium(settings: _Settings, loss_size: float, count: int) -> float:
    decay = float(settings.decay.max())
    square = float(count) if settings.adaptive and settings.decoupled else loss_size**2
    return (settings.lr * square / (2.0 * decay)) ** 0.5

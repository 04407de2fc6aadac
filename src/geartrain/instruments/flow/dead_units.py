"""Dead units: rectified units that are switched off on every example, and so never learn.

Covers modules and functional calls alike. A unit that is dead on the probe may wake on other data if the probe is
small; and a model that needs fewer units than it has may work well with many dead ones.

References:
    Maas, Hannun, Ng (2013); Lu, Shin, Su, Karniadakis (2020), "Dying ReLU and Initialization", arXiv:1903.06733.

Ledger: 0.13
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from geartrain.budget import Budget
from geartrain.errors import NonFiniteError
from geartrain.instruments._answers import exact, forward_price, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments._layers import Activation, watch_activations
from geartrain.objective import Objective
from geartrain.records import Measurement

RECTIFIERS = {"relu", "relu6", "leaky_relu", "prelu", "rrelu"}


@instrument(needs="objective", unit="1", price=forward_price)
def dead_units(
    objective: Objective,
    *,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the share of rectified units with zero slope on every example.

    A unit is a feature of the layer (a channel, for convolutions, over all positions). ReLU: output 0 everywhere;
    ReLU6: 0 or 6 everywhere; LeakyReLU and its kin have a slope everywhere and are never dead.

    **Cost** one forward pass.

    **Assumes** that the examples stand for the data: a unit that is off on a small probe may wake elsewhere.

    **Misleads** where the model has more units than it needs: many dead ones then cost nothing. Units switched
    off by pruning or by a mask count as dead as well.

    Args:
        objective: What to measure.
        generator: Not used: nothing is drawn.
        budget: Not used: one forward pass is the least that can be spent.

    Returns:
        The share, 0 to 1. Details: ``layers`` (share per layer), ``worst_layer`` and ``worst_layer_name``,
        ``all_dead_layer`` (whether a layer passes on nothing at all), ``inactive_share`` (pairs of unit and example,
        about one half for a fresh model), ``num_units``. Not applicable without a rectifier.

    Raises:
        NonFiniteError: An activation is not finite.

    Example:
        One of two units has a bias that no input lifts:

        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.ReLU())
        >>> for p, v in zip(model.parameters(), ([[1.0], [1.0]], [0.0, -9.0])): p.data = torch.tensor(v)
        >>> dead_units(Objective(model, lambda f, y: f.mean(), (torch.ones(3, 1), torch.ones(3)))).value
        0.5
    """
    alive: dict[str, Tensor] = {}
    active: dict[str, list[float]] = {}

    def visit(activation: Activation) -> None:
        if activation.function not in RECTIFIERS:
            return
        slopes = _has_slope(activation)
        unit = slopes.movedim(activation.unit_axis, 0).reshape(slopes.shape[activation.unit_axis], -1)
        before = alive.get(activation.name)
        alive[activation.name] = (
            unit.any(1) if before is None or len(before) != len(unit) else before | unit.any(1)
        )
        active.setdefault(activation.name, []).append(float(slopes.float().mean()))

    watch_activations(objective, visit)
    if not alive:
        return not_applicable("dead_units", "The model has no rectifier (ReLU or similar).")
    layers = {name: float(1 - units.float().mean()) for name, units in alive.items()}
    total = sum(len(units) for units in alive.values())
    dead = sum(int((~units).sum()) for units in alive.values())
    worst = max(layers, key=layers.__getitem__)
    details = {
        "layers": layers,
        "worst_layer": layers[worst],
        "worst_layer_name": worst,
        "all_dead_layer": layers[worst] == 1.0,
        "inactive_share": 1 - float(np.mean([np.mean(shares) for shares in active.values()])),
        "num_units": total,
    }
    sentence = f"{dead} of {total} rectified units are off on all {objective.num_examples} examples."
    return exact("dead_units", dead / total, sentence, details=details)


def _has_slope(activation: Activation) -> Tensor:
    output = activation.output
    if not bool(torch.isfinite(output).all()):
        raise NonFiniteError(f"The output of {activation.name} is NaN or infinite.", module=activation.name)
    if activation.function == "relu":
        return output > 0
    if activation.function == "relu6":
        return (output > 0) & (output < 6)
    return torch.ones_like(output, dtype=torch.bool)

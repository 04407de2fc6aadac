"""Saturated units: sigmoid and tanh units so far out that almost no gradient passes through them.

Only activations inside the model count: a confident sigmoid at the output is what training with cross-entropy
aims at (its share is in the details). Gates of LSTM and GRU layers are out of sight. A saturated unit may be a
useful switch; a layer in which nearly all are saturated stops learning.

References:
    Glorot and Bengio (2010), section 3; Hochreiter (1991).

Ledger: 0.13
"""

from __future__ import annotations

import math

import numpy as np
import torch

from geartrain._torch import batches as _batches
from geartrain.budget import Budget
from geartrain.errors import NonFiniteError
from geartrain.instruments._answers import exact, forward_price, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments._layers import Activation, final_activation, watch_activations
from geartrain.objective import Objective
from geartrain.records import Measurement

MAXIMUM = {"sigmoid": 0.25, "tanh": 1.0}
"""Greatest slope of each function."""

FLAT = 0.05
"""A unit is saturated where its slope is below this share of the greatest one (|tanh| > 0.975)."""


@instrument(needs="objective", unit="1", price=forward_price)
def saturated_units(
    objective: Objective,
    *,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the share of (unit, example) pairs whose slope is below 5 % of the greatest possible one.

    From the output y: slope y(1 - y) for a sigmoid (at most ¼), 1 - y² for tanh (at most 1).

    **Cost** one forward pass.

    **Assumes** that the activation functions are modules or calls that can be seen; gates inside LSTM and GRU
    layers are not.

    **Misleads** as a fault in itself: a unit that works as a switch is saturated on purpose, and late in
    training many are. What counts is a layer in which nearly all are, and a share that grew early.

    Args:
        objective: What to measure.
        generator: Not used: nothing is drawn.
        budget: Not used: one forward pass is the least that can be spent.

    Returns:
        The share, 0 to 1. Details: ``layers`` (share per layer), ``worst_layer``, ``worst_layer_name``,
        ``mean_log_slope`` per layer (mean of ln slope: at most ln ¼ for a sigmoid, which is why deep stacks of them
        vanish) and ``log_slope_total`` (their sum), ``output_saturated`` (share at a sigmoid or tanh output, NaN if
        there is none). Not applicable without such units inside the model.

    Raises:
        NonFiniteError: An activation is not finite.

    Example:
        Inputs 0 and 9 through tanh: one of two is saturated.

        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False), torch.nn.Tanh(), torch.nn.Linear(1, 1))
        >>> _ = torch.nn.init.ones_(model[0].weight)
        >>> x = torch.tensor([[0.0], [9.0]])
        >>> saturated_units(Objective(model, torch.nn.functional.mse_loss, (x, x))).value
        0.5
    """
    slopes: dict[str, list[np.ndarray]] = {}
    shapes: dict[str, str] = {}

    def visit(activation: Activation) -> None:
        if activation.function in MAXIMUM:
            shapes[activation.name] = activation.function
            slopes.setdefault(activation.name, []).append(_slope(activation))

    watch_activations(objective, visit)
    final = _output_name(objective)
    shares = {n: float(np.mean(np.concatenate(s) < FLAT * MAXIMUM[shapes[n]])) for n, s in slopes.items()}
    at_output = shares.pop(final, math.nan) if final is not None else math.nan
    if not shares:
        where = "only at its output" if at_output == at_output else "nowhere"
        return not_applicable(
            "saturated_units", f"The model uses sigmoid or tanh {where}.", output_saturated=at_output
        )
    inner = {n: np.concatenate(slopes[n]) for n in shares}
    worst = max(shares, key=shares.__getitem__)
    logs = {n: float(np.log(np.maximum(s, 1e-12)).mean()) for n, s in inner.items()}
    total = sum(s.size for s in inner.values())
    value = sum(shares[n] * s.size for n, s in inner.items()) / total
    details = {
        "layers": shares,
        "worst_layer": shares[worst],
        "worst_layer_name": worst,
        "mean_log_slope": logs,
        "log_slope_total": sum(logs.values()),
        "output_saturated": at_output,
    }
    return exact(
        "saturated_units",
        value,
        f"{value:.1%} of {total} sigmoid or tanh activations are flat.",
        details=details,
    )


def _slope(activation: Activation) -> np.ndarray:
    y = activation.output.double()
    if not bool(torch.isfinite(y).all()):
        raise NonFiniteError(f"The output of {activation.name} is NaN or infinite.", module=activation.name)
    slope = y * (1 - y) if activation.function == "sigmoid" else 1 - y * y
    return slope.reshape(-1).cpu().numpy()


def _output_name(objective: Objective) -> str | None:
    """Name of the activation whose result leaves the model, seen on two examples."""
    part = _batches.take(objective.batches[0], slice(0, 2))
    last = final_activation(objective, lambda: objective._loss(objective._leaves(None), part))
    return None if last is None else last.name

"""Activation flow: how large the signal is after each layer, on its way through the model.

Signals that shrink or grow by a constant factor per layer make deep models untrainable. A trained model changes
its scales on purpose: what misleads is reading a single layer; the trend over many layers is what counts.

References:
    Glorot and Bengio (2010); Schoenholz, Gilmer, Ganguli, Sohl-Dickstein (2017), arXiv:1611.01232.

Ledger: 0.14
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from geartrain._torch import batches as _batches
from geartrain.budget import Budget
from geartrain.errors import NonFiniteError
from geartrain.instruments._answers import forward_price, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments._growth import mean_growth, rms_with_error
from geartrain.instruments._layers import has_matrix, leaf_outputs
from geartrain.objective import Objective
from geartrain.records import Measurement, State, Status


@instrument(needs="objective", unit="1", price=forward_price)
def activation_flow(
    objective: Objective,
    *,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the rms activation of every layer, in the order of execution.

    rms_l = √(mean of a² over examples and units) of the output a of layer l. Growth per layer is the mean of
    ln(rms_l / rms_{l-1}) over successive layers *with weight matrices* (an activation function or a normalisation
    between two of them belongs to the step), over all layers where fewer than two have any.
    For Gaussian weights N(0, s²/n) without bias it is ln s + ½[ψ(n/2) + ln(2/n)] ≈ ln s - 1/(2n).

    **Cost** one forward pass.

    **Assumes** that layers are modules that are called, in the order of the signal.

    **Misleads** read at a single layer, or in a trained model, which changes its scales on purpose; the trend
    over many layers of a fresh one is what counts. Normalisation layers reset the scale and hide growth within
    a block.

    Args:
        objective: What to measure.
        generator: Not used: nothing is drawn.
        budget: Not used: one forward pass is the least that can be spent.

    Returns:
        rms per layer, dims ``("layer",)``, in the unit of the activations. Details: ``growth_per_layer`` (log, a
        pure number) and ``growth_error``, ``mean`` and ``std`` per layer, ``matrix_layers`` (names that growth is
        taken over).

    Raises:
        NonFiniteError: An activation is not finite; names the layer.

    Example:
        Two layers that double:

        >>> import torch
        >>> model = torch.nn.Sequential(*(torch.nn.Linear(1, 1, bias=False) for _ in range(2)))
        >>> for p in model.parameters(): _ = torch.nn.init.constant_(p, 2.0)
        >>> x = torch.ones(3, 1)
        >>> activation_flow(Objective(model, torch.nn.functional.mse_loss, (x, x))).value.tolist()
        [2.0, 4.0]
    """
    moments = _Moments()
    for batch in objective.batches:
        moments.begin(_batches.size_of(batch))
        with objective._quiet(), leaf_outputs(objective.model, moments.add):
            objective._loss(objective._leaves(None), batch)
    objective.charge(forwards=1)
    names = moments.names()
    if not names:
        return not_applicable("activation_flow", "No layer of the model has an output of its own.")
    rms, error = moments.rms(names)
    matrices = [n for n in names if n in moments.matrices]
    chosen = matrices if len(matrices) > 1 else names
    growth, growth_error = mean_growth([rms[names.index(n)] for n in chosen])
    details = {
        "growth_per_layer": growth,
        "growth_error": growth_error,
        "mean": {n: moments.mean(n) for n in names},
        "std": {n: math.sqrt(max(r**2 - moments.mean(n) ** 2, 0.0)) for n, r in zip(names, rms, strict=True)},
        "matrix_layers": tuple(matrices),
    }
    sentence = (
        f"{len(names)} layers, signal x {math.exp(growth):.3g} per layer." if len(names) > 1 else "One layer."
    )
    return Measurement(
        "activation_flow",
        rms,
        "1",
        Status(State.ESTIMATE, sentence),
        error,
        ("layer",),
        {"layer": names},
        details=details,
    )


class _Moments:
    """Sums of a and a² per layer over all batches."""

    def __init__(self) -> None:
        self.squares: dict[str, list[Tensor]] = {}
        self.means: dict[str, list[tuple[float, int]]] = {}
        self.matrices: set[str] = set()
        self.batches = 0

    def begin(self, size: int) -> None:
        self.batches += 1
        self.size = size

    def add(self, name: str, module: nn.Module, output: Tensor) -> None:
        values = output.detach().double()
        if not bool(torch.isfinite(values).all()):
            where = f"{name} ({type(module).__name__})"
            raise NonFiniteError(f"An activation is NaN or infinite, first in {where}.", module=where)
        per_example = values.ndim > 0 and values.shape[0] == self.size
        square = (
            values.square().reshape(self.size, -1).mean(1)
            if per_example
            else values.square().mean().expand(self.size)
        )
        self.squares.setdefault(name, []).append(square)
        self.means.setdefault(name, []).append((float(values.mean()), self.size))
        if has_matrix(module):
            self.matrices.add(name)

    def names(self) -> list[str]:
        """Layers that ran in every batch."""
        return [n for n, parts in self.squares.items() if len(parts) == self.batches]

    def mean(self, name: str) -> float:
        means, sizes = zip(*self.means[name], strict=True)
        return float(np.average(means, weights=sizes))

    def rms(self, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
        squares = [torch.cat(self.squares[n]).cpu().numpy() for n in names]
        return rms_with_error(squares)

"""Gradient flow: how large the error signal is at each layer, on its way back through the model.

Where it shrinks by a constant factor per layer, the first layers hardly learn (vanishing gradients); where it
grows, one step size cannot suit all layers (exploding gradients). Adam and normalisation layers hide the
consequences, not the sizes; near a minimum all sizes are small, which is why ratios between layers are what counts.

References:
    Bengio, Simard, Frasconi (1994); Glorot and Bengio (2010); Pascanu, Mikolov, Bengio (2013), arXiv:1211.5063.

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
from geartrain.instruments._answers import gradient_price, not_applicable
from geartrain.instruments._base import instrument
from geartrain.instruments._growth import mean_growth, rms_with_error
from geartrain.instruments._layers import has_matrix, leaf_outputs
from geartrain.instruments._recurrence import recurrent_growth
from geartrain.objective import Objective
from geartrain.records import Measurement, State, Status


@instrument(needs="objective", unit="ℓ", price=gradient_price)
def gradient_flow(
    objective: Objective,
    *,
    generator: torch.Generator | None = None,
    budget: Budget | int | str | None = None,
) -> Measurement:
    """Measure the rms gradient of the loss with respect to every layer's output, in the order of execution.

    rms_l = √(mean over examples i and units u of (∂ℓ_i/∂a_{l,i,u})²), where ℓ_i is example i's own loss
    (n ∂L/∂a for a mean loss L). Growth per layer runs from the output towards the input, over the layers
    with weight matrices: the mean of ln(rms_{l-1} / rms_l); negative = vanishing, positive = exploding.
    For Gaussian weights N(0, s²/n) it is ln s + ½[ψ(n/2) + ln(2/n)].

    **Cost** one gradient (and one more backward pass through a recurrent layer).

    **Assumes** a loss that is a mean over the examples, along axis 0.

    **Misleads** layer by layer: residual connections, normalisation and Adam hide the consequences of unequal
    sizes, and near a minimum all sizes are small. Read the trend over many layers and the ratios.

    Args:
        objective: What to measure.
        generator: Not used: nothing is drawn.
        budget: Not used: one gradient is the least that can be spent.

    Returns:
        rms per layer, dims ``("layer",)``, in ℓ per unit of activation. Details: ``growth_per_layer`` and
        ``growth_error``; ``first_to_last``, the relative gradient |∂L/∂W|/|W| of the first weight matrix over that
        of the last (tiny: vanishing, huge: exploding; NaN with fewer than two); ``relative_weight_gradient`` and
        ``weight_gradient_rms`` per layer with parameters; ``recurrent_growth``, log growth per time step backwards
        through a recurrent layer (NaN where there is none).

    Raises:
        NonFiniteError: A gradient is not finite; names the layer.

    Example:
        Two layers that double: the gradient at the first output is twice that at the second.

        >>> import torch
        >>> model = torch.nn.Sequential(*(torch.nn.Linear(1, 1, bias=False) for _ in range(2)))
        >>> for p in model.parameters(): _ = torch.nn.init.constant_(p, 2.0)
        >>> x = torch.ones(3, 1)
        >>> gradient_flow(Objective(model, lambda f, y: f.mean(), (x, x))).value.tolist()
        [2.0, 1.0]
    """
    flow = _Flow(objective)
    for batch in objective.batches:
        flow.add(batch)
    objective.charge(gradients=1)
    names = flow.names()
    if not names:
        return not_applicable(
            "gradient_flow", "No layer's output depends on a parameter that is trained.", unit="ℓ"
        )
    rms, error = rms_with_error([np.concatenate(flow.squares[n]) for n in names])
    matrices = [n for n in names if n in flow.matrices]
    chosen = matrices if len(matrices) > 1 else names
    growth, growth_error = mean_growth([rms[names.index(n)] for n in reversed(chosen)])
    weights = flow.weights()
    details = {
        "growth_per_layer": growth,
        "growth_error": growth_error,
        "first_to_last": _first_to_last(flow, weights),
        "relative_weight_gradient": {n: relative for n, (_, relative) in weights.items()},
        "weight_gradient_rms": {n: size for n, (size, _) in weights.items()},
        "recurrent_growth": recurrent_growth(objective),
        "matrix_layers": tuple(matrices),
    }
    sentence = (
        f"{len(names)} layers, error signal x {math.exp(growth):.3g} per layer back."
        if len(names) > 1
        else "One layer."
    )
    return Measurement(
        "gradient_flow",
        rms,
        "ℓ",
        Status(State.ESTIMATE, sentence),
        error,
        ("layer",),
        {"layer": names},
        details=details,
    )


class _Flow:
    """Gradients with respect to outputs and weights, batch by batch."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.squares: dict[str, list[np.ndarray]] = {}
        self.matrices: set[str] = set()
        self.order: list[str] = []
        self.gradient = torch.zeros(objective.num_params, dtype=objective.dtype, device=objective.device)
        self.batches = 0

    def add(self, batch: object) -> None:
        objective = self.objective
        taps: dict[str, Tensor] = {}

        def tap(name: str, module: nn.Module, output: Tensor) -> Tensor | None:
            self._note(name, module)
            if not output.requires_grad:
                return None
            taps[name] = output
            # An in-place activation function would otherwise overwrite what is differentiated.
            return output.clone()

        size = _batches.size_of(batch)
        with objective._quiet(), leaf_outputs(objective.model, tap):
            leaves = objective._leaves(None)
            loss = objective._loss(leaves, batch)
            found = torch.autograd.grad(
                loss, [*taps.values(), *leaves.values()], allow_unused=True, materialize_grads=True
            )
        for name, grad in zip(taps, found, strict=False):
            self.squares.setdefault(name, []).append(_per_example(grad * size, size, name))
        self.gradient += objective.layout.flatten(found[len(taps) :]) * (size / objective.num_examples)
        self.batches += 1

    def _note(self, name: str, module: nn.Module) -> None:
        if has_matrix(module):
            self.matrices.add(name)
        plain = name.partition("#")[0]
        if plain not in self.order:
            self.order.append(plain)

    def names(self) -> list[str]:
        return [n for n, parts in self.squares.items() if len(parts) == self.batches]

    def weights(self) -> dict[str, tuple[float, float]]:
        """(rms of ∂L/∂W, |∂L/∂W|/|W|) per layer with parameters (of its matrices, if any), in order of execution."""
        objective, found = self.objective, {}
        slices, params = objective.layout.slices(), objective.parameters()
        shapes = dict(zip(objective.layout.names, objective.layout.shapes, strict=True))
        for layer, names in objective.layers().items():
            chosen = [n for n in names if len(shapes[n]) >= 2] or names
            grad = torch.cat([self.gradient[slices[n]] for n in chosen]).double()
            weight = torch.cat([params[slices[n]] for n in chosen]).double()
            relative = float(grad.norm() / weight.norm()) if bool(weight.any()) else math.nan
            found[layer] = (float(grad.square().mean().sqrt()), relative)
        places = {n: i for i, n in enumerate(self.order)}
        return dict(sorted(found.items(), key=lambda item: places.get(item[0], len(places))))


def _first_to_last(flow: _Flow, weights: dict[str, tuple[float, float]]) -> float:
    """Ratio of the relative gradients of the first and the last weight matrix, in order of execution."""
    ran = [n for n in flow.order if n in flow.matrices and n in weights]
    known = [weights[n][1] for n in ran if math.isfinite(weights[n][1])]
    if len(known) < 2 or known[-1] == 0:
        return math.nan
    return known[0] / known[-1]


def _per_example(grad: Tensor, size: int, name: str) -> np.ndarray:
    values = grad.detach().double()
    if not bool(torch.isfinite(values).all()):
        raise NonFiniteError(f"The gradient at the output of {name} is NaN or infinite.", module=name)
    if values.ndim == 0 or values.shape[0] != size:
        return np.full(size, float(values.square().mean()))
    return values.square().reshape(size, -1).mean(1).cpu().numpy()

"""The other half of a comparison: what users may pass as ``other``, made into an objective on the same data."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from geartrain.errors import InputError
from geartrain.objective import Objective


def other_objective(objective: Objective, other: Any, name: str) -> Objective:
    """``other`` on the data of ``objective``.

    Args:
        objective: What is measured.
        other: An `Objective` (its model is taken, with the data of the first), a model, or a vector of parameters,
            shape (params,), for the same model.
        name: Of the instrument, for messages.

    Returns:
        An objective with the data and loss of the first. A vector of parameters is put into a copy of the model.

    Raises:
        InputError: It is none of these, or its length does not fit.
    """
    if isinstance(other, Objective):
        return _alike(objective, objective.of(other.model))
    if isinstance(other, nn.Module):
        return _alike(objective, objective.of(other))
    if isinstance(other, Tensor):
        if other.shape != (objective.num_params,):
            raise InputError(
                f"{name}: other has shape {tuple(other.shape)}; the model has {objective.num_params} parameters, "
                f"so a vector of shape ({objective.num_params},) is needed."
            )
        model = copy.deepcopy(objective.model)
        named = dict(model.named_parameters())
        with torch.no_grad():
            for name_of, value in zip(objective.layout.names, objective.layout.unflatten(other), strict=True):
                named[name_of].copy_(value)
        return _alike(objective, objective.of(model))
    raise InputError(
        f"{name}: other is a {type(other).__name__}; pass an Objective, a model, or a vector of parameters."
    )


def same_architecture(first: Objective, second: Objective) -> bool:
    """Whether the parameters of both have the same names and shapes, so that points between them exist."""
    return first.layout.names == second.layout.names and first.layout.shapes == second.layout.shapes


def _alike(first: Objective, second: Objective) -> Objective:
    """The second as a function of the same parameters as the first, which may be a restriction."""
    names = set(first.layout.names)
    return second.restrict(lambda n, _: n in names) if names < set(second.layout.names) else second

"""Checks of what a run is made from, each with a message that says what to do."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from geartrain.errors import InputError


def check_parts(model: Any, optimizer: Any, train: Any, epochs: int) -> None:
    """Refuse what no run can be made of.

    Raises:
        InputError: Something is missing or does not fit.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"model is a {type(model).__name__}; it must be a torch.nn.Module.")
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise InputError(
            f"optimizer is a {type(optimizer).__name__}; it must be a torch optimizer made from the model's "
            "parameters, for example torch.optim.SGD(model.parameters(), lr=0.1)."
        )
    if not any(p.requires_grad for p in model.parameters()):
        raise InputError(
            f"No parameter of {type(model).__name__} needs a gradient; at least one must. "
            "Call model.requires_grad_(True)."
        )
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not any(id(p) in held for p in model.parameters()):
        raise InputError(
            f"The optimizer holds no parameter of {type(model).__name__}, so the model would never change. Make it "
            "from this very model's parameters, after the model has got its final layers."
        )
    if train is None:
        raise InputError("No training data were given; pass train=(inputs, targets), a dataset or a loader.")
    if epochs < 1:
        raise InputError(f"epochs is {epochs}; it must be at least 1.")

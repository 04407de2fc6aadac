"""Seeds into networks, networks into one matrix, and rows of the matrix back into networks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from geartrain._torch import flat, rng
from geartrain._torch.flat import Layout
from geartrain.errors import InputError

MakeModel = Callable[[], nn.Module]


@dataclass(frozen=True)
class Members:
    """Networks of one architecture, stacked.

    Attributes:
        template: A module of that architecture, this ensemble's own; its values mean nothing.
        layout: Where each parameter lies in a row.
        params: Shape (members, params).
        buffers: Buffers and frozen parameters by name, stacked, (members, ...).
    """

    template: nn.Module
    layout: Layout
    params: Tensor
    buffers: dict[str, Tensor]


def new_model(
    make_model: MakeModel, seed: int, dtype: torch.dtype | None, device: torch.device | None
) -> nn.Module:
    """``torch.manual_seed(seed); make_model()``, moved and cast; the program's generators are left alone.

    Raises:
        InputError: ``make_model`` returns something else than a module.
    """
    with rng.fixed(seed):
        model = make_model()
    if not isinstance(model, nn.Module):
        raise InputError(
            f"make_model returned a {type(model).__name__}; it must be a function without arguments that returns a new "
            "torch.nn.Module, for example lambda: nn.Linear(2, 1)."
        )
    if dtype is not None or device is not None:
        model = model.to(device=device, dtype=dtype)
    return model


def create(
    make_model: MakeModel,
    seeds: Sequence[int],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
    initial: Any = None,
) -> Members:
    """Make every network in turn and stack their values.

    Args:
        make_model: Makes one network; called once per member, after seeding.
        seeds: One per member.
        dtype: Cast to this type.
        device: Move to this device.
        initial: Parameters to begin from instead: (members, params) or (params,), a state dict, or one per member.

    Returns:
        The stack.

    Raises:
        InputError: The networks differ in architecture, or an initial state does not fit.
    """
    first = new_model(make_model, seeds[0], dtype, device)
    layout = flat.layout_of(flat.select(first, None))
    place = next(first.parameters()).device
    params = torch.empty(len(seeds), layout.num_params, dtype=layout.dtype, device=place)
    rest = {
        name: torch.empty(len(seeds), *t.shape, dtype=t.dtype, device=t.device) for name, t in rest_of(first)
    }
    states = _states(initial, len(seeds))
    model = first
    for row, seed in enumerate(seeds):
        if row:
            model = new_model(make_model, seed, dtype, device)
        if model is first and row:
            raise InputError(
                "make_model returned the same module twice; it must make a new one at every call, so that the seed "
                "decides its initial values."
            )
        if states is not None and isinstance(states[row], Mapping):
            model.load_state_dict(states[row])
        _read(model, layout, params[row], {name: t[row] for name, t in rest.items()})
    if isinstance(initial, Tensor):
        if initial.shape not in (params.shape, params.shape[1:]):
            raise InputError(
                f"initial has shape {tuple(initial.shape)}; it must be {tuple(params.shape)} (members, params), "
                f"({layout.num_params},), a state dict, or one state dict per member."
            )
        params[:] = initial.detach().to(params)
    return Members(copy.deepcopy(first), layout, params, rest)


def _states(initial: Any, members: int) -> list[Any] | None:
    if initial is None or isinstance(initial, Tensor):
        return None
    states = [initial] * members if isinstance(initial, Mapping) else list(initial)
    if len(states) != members or not all(isinstance(state, Mapping) for state in states):
        raise InputError(
            f"initial must be a tensor, a state dict, or one state dict per member ({members}); "
            f"got {len(states)} entries."
        )
    return states


def rest_of(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Frozen parameters and buffers by name."""
    frozen = [(name, p.detach()) for name, p in model.named_parameters() if not p.requires_grad]
    return [*frozen, *model.named_buffers()]


def _read(model: nn.Module, layout: Layout, row: Tensor, rest: Mapping[str, Tensor]) -> None:
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    own = dict(rest_of(model))
    shapes = tuple(p.shape for p in parameters.values())
    if tuple(parameters) != layout.names or shapes != layout.shapes or set(own) != set(rest):
        raise InputError(
            "make_model returned networks of different architecture; all members must have the same parameters and "
            "buffers. Train each architecture as an ensemble of its own."
        )
    row.copy_(layout.flatten(p.detach() for p in parameters.values()))
    for name, target in rest.items():
        target.copy_(own[name])


def write(model: nn.Module, layout: Layout, row: Tensor, rest: Mapping[str, Tensor]) -> None:
    """Copy one member's parameters (params,), buffers and frozen parameters into a module of the architecture."""
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with torch.no_grad():
        for name, value in zip(layout.names, layout.unflatten(row), strict=True):
            own[name].copy_(value)
        for name, value in rest.items():
            own[name].copy_(value)

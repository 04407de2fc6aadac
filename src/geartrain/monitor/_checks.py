"""Checks of what is to be watched, each with a message that says what to do."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from geartrain.errors import InputError
from geartrain.monitor._parameters import named_parameters

if TYPE_CHECKING:
    from geartrain.monitor._loop import Loop

EXTRAS = ("distance", "participation_ratio")

# In evaluation they choose a faster kernel, with other roundings, only while nobody has hooked them.
_CHOOSY = (nn.TransformerEncoderLayer, nn.TransformerEncoder, nn.MultiheadAttention)


def check_parts(model: Any, optimizer: Any) -> None:
    """Refuse what cannot be watched.

    Raises:
        InputError: Something does not fit.
    """
    if not isinstance(model, nn.Module):
        raise InputError(
            f"model is a {type(model).__name__}; gt.watch needs the torch.nn.Module that is trained."
        )
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise InputError(
            f"optimizer is a {type(optimizer).__name__}; gt.watch needs the torch optimizer that trains the model "
            "(of a wrapper, the one inside)."
        )
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not any(id(p) in held for _, p in named_parameters(model)):
        raise InputError(
            f"The optimizer holds no parameter of {type(model).__name__}: there would be nothing to watch. Pass the "
            "model that this optimizer was made for (after moving it to its device, where that makes new parameters)."
        )


def check_options(overhead: Any, extras: Sequence[str]) -> None:
    """Refuse options that are none.

    Raises:
        InputError: One is.
    """
    if overhead is not None and not 0 < overhead < 1:
        raise InputError(
            f"overhead is {overhead!r}; allowed: a share of the step time between 0 and 1 (0.05 = 5 %), or None for no "
            "limit."
        )
    for extra in [extras] if isinstance(extras, str) else extras:
        if extra not in EXTRAS:
            raise InputError(
                f"There is no extra {extra!r}; allowed: {', '.join(EXTRAS)}.{_near(extra, EXTRAS)}"
            )


def periods(every: Mapping[str, int] | int | None, groups: Sequence[str]) -> dict[str, int]:
    """Fixed periods by name of the group.

    Raises:
        InputError: No such group, or a period that cannot be.
    """
    if every is None:
        return {}
    wanted = dict.fromkeys(groups, every) if isinstance(every, int) else dict(every)
    for name, period in wanted.items():
        if name not in groups:
            raise InputError(
                f"every names {name!r}; the groups are: {', '.join(groups)}.{_near(name, groups)}"
            )
        if not isinstance(period, int) or isinstance(period, bool) or period < 0:
            raise InputError(f"every[{name!r}] is {period!r}; allowed: a number of steps, 0 for never.")
    return wanted


def _near(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def check_start(loop: Loop | None) -> Loop:
    """Refuse to watch twice, or nothing.

    Raises:
        InputError: It is so.
    """
    if loop is None:
        raise InputError(
            "This monitor was read from a file: it holds what was seen, not the loop. Make a new one."
        )
    if loop.active:
        raise InputError(
            "This monitor is watching already; stop() it first, or make a second one with gt.watch."
        )
    return loop


def may_be_hooked(model: nn.Module) -> bool:
    """Whether a hook on the whole model changes none of its numbers."""
    return not isinstance(model, _CHOOSY)

"""Schedules: the factor that multiplies every member's step size, as a function of the step."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from geartrain.errors import InputError, UnknownNameError

Kind = Literal["constant", "cosine", "step", "function"]
Factor = Callable[[int], Any]


@dataclass(frozen=True)
class Schedule:
    """Factor of the step size at step t (counted from 0), the same for all members unless a function gives one each.

    Attributes:
        kind: ``"constant"``: 1. ``"cosine"``: from 1 to ``floor`` over ``total`` steps, as
            `torch.optim.lr_scheduler.CosineAnnealingLR`, then ``floor``. ``"step"``: times ``gamma`` after every
            ``every`` steps, as `StepLR`. ``"function"``: ``function(t)``, a number or one per member.
        warmup: Over this many first steps the factor is also multiplied by (t + 1) / warmup.
        total: Length of the cosine, warm-up included; the ``steps`` of the first training if ``None``.
        floor: Where the cosine ends.
        every: Length of a stair.
        gamma: Factor per stair.
        function: The user's own.

    >>> [round(Schedule("cosine", total=4).factor(t), 3) for t in range(5)]
    [1.0, 0.854, 0.5, 0.146, 0.0]
    >>> [Schedule("step", every=2, gamma=0.1, warmup=2).factor(t) for t in range(4)]
    [0.5, 1.0, 0.1, 0.1]
    """

    kind: Kind = "constant"
    warmup: int = 0
    total: int | None = None
    floor: float = 0.0
    every: int = 0
    gamma: float = 0.1
    function: Factor | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("constant", "cosine", "step", "function"):
            raise UnknownNameError("schedule", self.kind, ("constant", "cosine", "step"))
        if self.warmup < 0 or (self.total is not None and self.total < 1):
            raise InputError(
                f"The schedule has warmup={self.warmup} and total={self.total}; both count steps: warmup at least 0, "
                "total at least 1."
            )
        if self.kind == "step" and self.every < 1:
            raise InputError(
                f'A "step" schedule has every={self.every}; it needs the number of steps per stair, for example '
                'Schedule("step", every=1000, gamma=0.1).'
            )

    @staticmethod
    def of(given: Schedule | str | Factor | None, steps: int) -> Schedule:
        """The schedule meant by a name, a function, a `Schedule` or ``None`` (constant); its total filled in."""
        if given is None:
            return Schedule()
        if isinstance(given, str):
            given = Schedule(given)  # type: ignore[arg-type]
        elif not isinstance(given, Schedule):
            if not callable(given):
                raise InputError(
                    f"schedule is a {type(given).__name__}; it must be a name ('constant', 'cosine'), a Schedule, or a "
                    "function of the step that returns the factor of the step size."
                )
            given = Schedule("function", function=given)
        if given.kind == "cosine" and given.total is None:
            given = dataclasses.replace(given, total=steps)
        return given

    def factor(self, step: int) -> Any:
        """The factor at this step: a float, or what the user's function gave."""
        ramp = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        if self.kind == "cosine":
            length = max((self.total or 1) - self.warmup, 1)
            share = min(max(step - self.warmup, 0) / length, 1.0)
            return ramp * (self.floor + (1 - self.floor) * (1 + math.cos(math.pi * share)) / 2)
        if self.kind == "step":
            return ramp * self.gamma ** (step // self.every)
        if self.function is not None:
            own = self.function(step)
            return ramp * (own if isinstance(own, Tensor) else torch.as_tensor(own, dtype=torch.float64))
        return ramp

    def factors(self, first: int, steps: int, members: int) -> Tensor:
        """Factors of consecutive steps, float64 on the CPU, shape (steps, members).

        Raises:
            InputError: The user's function returned something of another length.
        """
        if self.kind != "function":
            column = torch.tensor([self.factor(first + k) for k in range(steps)], dtype=torch.float64)
            return column[:, None].expand(steps, members)
        rows = []
        for k in range(steps):
            row = torch.as_tensor(self.factor(first + k), dtype=torch.float64).cpu()
            if row.ndim and row.shape != (members,):
                raise InputError(
                    f"The schedule gave a value of shape {tuple(row.shape)} at step {first + k}; allowed are one "
                    f"number, or one per member, shape ({members},)."
                )
            rows.append(row.expand(members))
        return torch.stack(rows)

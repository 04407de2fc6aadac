"""Averages of the parameters along the way: exponential (EMA) or uniform from a step on (SWA)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from geartrain.errors import InputError, UnknownNameError


@dataclass(frozen=True)
class Average:
    """What average of the parameters is kept beside them.

    Attributes:
        kind: ``"ema"``: after the first update the parameters, then decay · average + (1 - decay) · parameters, after
            every update (as `torch.optim.swa_utils.AveragedModel` with ``get_ema_avg_fn``). ``"swa"``: the plain mean
            of the parameters after every ``every``-th update behind update ``start`` (Izmailov et al. 2018,
            arXiv:1803.05407); zeros before the first.
        decay: Of the exponential average.
        start: Updates before the plain mean begins.
        every: Updates between its terms.
    """

    kind: Literal["ema", "swa"] = "ema"
    decay: float = 0.999
    start: int = 0
    every: int = 1

    def __post_init__(self) -> None:
        if self.kind not in ("ema", "swa"):
            raise UnknownNameError("average", self.kind, ("ema", "swa"))
        if not 0 <= self.decay < 1:
            raise InputError(f"decay is {self.decay}; it must be at least 0 and below 1, for example 0.999.")
        if self.start < 0 or self.every < 1:
            raise InputError(
                f"The average has start={self.start} and every={self.every}; they count updates: start at least 0, "
                "every at least 1."
            )

    @staticmethod
    def of(given: Average | str | float | None) -> Average | None:
        """``"ema"``, ``"swa"``, a decay, an `Average`, or ``None``."""
        if given is None or isinstance(given, Average):
            return given
        if isinstance(given, str):
            return Average(given)  # type: ignore[arg-type]
        return Average("ema", decay=float(given))

    def terms_before(self, taken: int) -> int:
        """How many parameter vectors are in the average after this many updates."""
        if self.kind == "ema":
            return taken
        return max(0, (taken - self.start) // self.every)

    def update(self, average: Tensor, params: Tensor, taken: int) -> None:
        """Take in the parameters after update number ``taken`` (counted from 1); the average changes in place."""
        count = self.terms_before(taken)
        if count == 0 or count == self.terms_before(taken - 1):
            return
        if count == 1:
            average.copy_(params)
        else:
            average.lerp_(params, 1 - self.decay if self.kind == "ema" else 1 / count)

"""The first question of every measurement: is there anything to spend, and a finite model to measure?"""

from __future__ import annotations

from typing import Any

import torch

from geartrain.budget import Clock
from geartrain.instruments._answers import no_answer
from geartrain.records import Measurement, State


def stopped(name: str, subject: Any, clock: Clock, *, unit: str = "1") -> Measurement | None:
    """An answer without a number where the budget is nothing or a parameter is not finite; else ``None``."""
    if clock.exhausted():
        return out_of_budget(name, unit=unit)
    if not all(bool(torch.isfinite(p).all()) for p in subject.model.parameters()):
        sentence = "A parameter is NaN or infinite; geartrain.diagnose(run) says which broke first."
        return no_answer(name, sentence, unit=unit, state=State.NON_FINITE)
    return None


def out_of_budget(name: str, *, unit: str = "1") -> Measurement:
    """An answer without a number: nothing was affordable."""
    return no_answer(
        name, "The budget ended before anything was measured.", unit=unit, state=State.OUT_OF_BUDGET
    )


def spent(clock: Clock, forwards: float) -> bool:
    """Whether a budget is used up after so many forward passes (a product is two gradients of three each)."""
    return clock.exhausted(int(forwards / 6))

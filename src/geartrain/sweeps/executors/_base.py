"""What an executor does. It computes; the one process that drives it claims units and writes what comes back."""

from __future__ import annotations

import sys
from typing import Any, Protocol

from geartrain.sweeps.reference import Reference
from geartrain.sweeps.unit import Failure, Unit, compute, failed

Outcome = dict[str, bytes] | Failure


class Executor(Protocol):
    """Computes units.

    Attributes:
        slots: How many units it takes at once.
    """

    slots: int

    def start(self, function: Reference) -> None:
        """Get ready; everything that can be wrong with the set-up is raised here, before any unit is claimed."""
        ...

    def submit(self, unit: Unit) -> None:
        """Take a unit; called only while fewer than ``slots`` units are out."""
        ...

    def wait(self, seconds: float) -> list[tuple[Unit, Outcome]]:
        """What has come back, after at most that many seconds."""
        ...

    def stop(self) -> None:
        """Abandon what is out and free everything; may be called at any time, and twice."""
        ...


def compute_named(function: Reference, unit: Unit) -> Outcome:
    """Find the function and compute a unit with one thread, in whatever process this is."""
    try:
        found = function.load()
    except Exception as error:
        return failed(unit, error)
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)
    return compute(found, unit)

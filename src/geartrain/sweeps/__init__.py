"""Sweeps: one function over many configurations and seeds, on one machine or many, resumable.

`sweep` plans one, `load` finds it again from its folder.
"""

from __future__ import annotations

from geartrain.sweeps._sweep import Status, Sweep, load, sweep
from geartrain.sweeps.unit import Failure, Unit

__all__ = ["Failure", "Status", "Sweep", "Unit", "load", "sweep"]

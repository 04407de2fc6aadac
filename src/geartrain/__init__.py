"""geartrain: a gears-level workbench for neural-network training.

``gt.diagnose(run)`` says why a run behaves as it does and what would help; ``gt.measure(objective, [...])`` takes
single measurements. Everything is imported when it is first used: ``import geartrain`` loads torch, numpy and scipy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Where each public name lives. Names of sub-packages stand for themselves.
_HOMES = {
    "Change": "geartrain.run",
    "Diagnosis": "geartrain.diagnosis",
    "Measurement": "geartrain.records",
    "Objective": "geartrain.objective",
    "Run": "geartrain.run",
    "diagnose": "geartrain.diagnosis",
    "llc": "geartrain.sampling.llc",
    "measure": "geartrain.measuring",
    "sweep": "geartrain.sweeps",
    "watch": "geartrain.monitor",
}
_PACKAGES = (
    "builtin",
    "claims",
    "datasets",
    "ensemble",
    "errors",
    "instruments",
    "linalg",
    "mechanisms",
    "sampling",
    "store",
    "sweeps",
    "testing",
    "zoo",
)

if TYPE_CHECKING:
    from geartrain import (
        builtin,
        claims,
        datasets,
        ensemble,
        errors,
        instruments,
        linalg,
        mechanisms,
        sampling,
        store,
        sweeps,
        zoo,
    )
    from geartrain.diagnosis import Diagnosis, diagnose
    from geartrain.measuring import measure
    from geartrain.monitor import watch
    from geartrain.objective import Objective
    from geartrain.records import Measurement
    from geartrain.run import Change, Run
    from geartrain.sampling.llc import llc
    from geartrain.sweeps import sweep

__all__ = [
    "Change",
    "Diagnosis",
    "Measurement",
    "Objective",
    "Run",
    "builtin",
    "claims",
    "datasets",
    "diagnose",
    "ensemble",
    "errors",
    "instruments",
    "linalg",
    "llc",
    "measure",
    "mechanisms",
    "sampling",
    "store",
    "sweep",
    "sweeps",
    "watch",
    "zoo",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    elif name in _PACKAGES:
        value = importlib.import_module(f"geartrain.{name}")
    else:
        raise AttributeError(f"module 'geartrain' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

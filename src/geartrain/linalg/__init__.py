"""Matrix-free linear algebra on plain closures: Lanczos, quadrature, traces, conjugate gradients."""

from __future__ import annotations

from geartrain.linalg.cg import CgResult, conjugate_gradient
from geartrain.linalg.diagonal import DiagonalResult, diagonal
from geartrain.linalg.eigenpairs import EigenResult, top_eigenpairs
from geartrain.linalg.lanczos import (
    LanczosState,
    Ritz,
    lanczos,
    lanczos_init,
    lanczos_restart,
    lanczos_ritz,
    lanczos_run,
    lanczos_step,
)
from geartrain.linalg.operators import Matvec, Meter, ShouldStop, Stop
from geartrain.linalg.slq import MassEstimate, Quadrature, SpectralMeasure, slq
from geartrain.linalg.trace import TraceResult, trace

__all__ = [
    "CgResult",
    "DiagonalResult",
    "EigenResult",
    "LanczosState",
    "MassEstimate",
    "Matvec",
    "Meter",
    "Quadrature",
    "Ritz",
    "ShouldStop",
    "SpectralMeasure",
    "Stop",
    "TraceResult",
    "conjugate_gradient",
    "diagonal",
    "lanczos",
    "lanczos_init",
    "lanczos_restart",
    "lanczos_ritz",
    "lanczos_run",
    "lanczos_step",
    "slq",
    "top_eigenpairs",
    "trace",
]

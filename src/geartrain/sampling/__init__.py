"""Sampling from posteriors of networks, and what follows from it: learning coefficients, evidence, mixing."""

from __future__ import annotations

from geartrain.sampling import diagnostics, kernels, superposition, truths
from geartrain.sampling._progress import Progress
from geartrain.sampling.draws import Draws
from geartrain.sampling.evidence import log_evidence, wbic
from geartrain.sampling.function_space import ThreeSpaces, three_spaces
from geartrain.sampling.kernels import Kernel
from geartrain.sampling.occupancy import Occupancy, find_basins
from geartrain.sampling.optimise import sample_then_optimise
from geartrain.sampling.potential import BasePotential, FunctionPotential, Potential
from geartrain.sampling.sample import price, sample
from geartrain.sampling.symmetries import Symmetries, find_symmetries
from geartrain.sampling.tempering import Tempered, temper

__all__ = [
    "BasePotential",
    "Draws",
    "FunctionPotential",
    "Kernel",
    "Occupancy",
    "Potential",
    "Progress",
    "Symmetries",
    "Tempered",
    "ThreeSpaces",
    "diagnostics",
    "find_basins",
    "find_symmetries",
    "kernels",
    "log_evidence",
    "price",
    "sample",
    "sample_then_optimise",
    "superposition",
    "temper",
    "three_spaces",
    "truths",
    "wbic",
]

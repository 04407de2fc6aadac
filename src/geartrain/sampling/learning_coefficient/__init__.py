"""The local learning coefficient: baseline, step size, error, health, temperatures, trajectories."""

from __future__ import annotations

from geartrain.sampling.learning_coefficient.health import NAMES as WARNINGS
from geartrain.sampling.learning_coefficient.health import Caution, Health
from geartrain.sampling.learning_coefficient.result import LearningCoefficient

__all__ = ["WARNINGS", "Caution", "Health", "LearningCoefficient"]

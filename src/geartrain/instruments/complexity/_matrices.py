"""Parameters as matrices."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def singular_values(parameter: Tensor) -> np.ndarray:
    """Singular values of a tensor as a matrix (first axis x the rest), largest first, float64."""
    matrix = parameter.detach().double().reshape(len(parameter), -1)
    return torch.linalg.svdvals(matrix).cpu().numpy()

"""The cube and networks of one hidden layer with weights written by hand."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor, nn


def cube(dimension: int, low: float = -1.0) -> np.ndarray:
    """All points of {low, 1}^dimension, the last coordinate fastest; shape (2^dimension, dimension)."""
    return np.array(list(itertools.product((low, 1.0), repeat=dimension)))


def relu_network(weight: np.ndarray, bias: np.ndarray, out: np.ndarray) -> nn.Sequential:
    """v·relu(Wx + b) + c in double precision, with v and then c in ``out``."""
    hidden, last = nn.Linear(*weight.T.shape).double(), nn.Linear(len(bias), 1).double()
    put(hidden.weight, weight)
    put(hidden.bias, bias)
    put(last.weight, out[None, :-1])
    put(last.bias, out[-1:])
    return nn.Sequential(hidden, nn.ReLU(), last)


def put(parameter: Tensor | None, values: np.ndarray) -> None:
    """Write numbers into a parameter, in its own shape."""
    assert parameter is not None
    with torch.no_grad():
        parameter.copy_(torch.as_tensor(values, dtype=parameter.dtype).reshape(parameter.shape))

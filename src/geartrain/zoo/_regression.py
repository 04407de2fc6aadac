"""A toy that is least squares on given data: how it is made, and all of `_linear` put together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from geartrain.objective import Objective
from geartrain.run import Run
from geartrain.zoo._base import Toy, Truth
from geartrain.zoo._descent import motion_truths
from geartrain.zoo._linear import (
    LinearModel,
    data_truths,
    function_truths,
    local_truths,
    minimum_truths,
    pair_truths,
)
from geartrain.zoo._matrices import kernel_truths, linear_layer

FEW = 40
"""Examples on which tangent kernels are compared where there are more than the instruments take."""
MOST = 25
"""Parameters up to which volumes of basins are compared: beyond, few of the rays count and the instrument says so."""


def normal(generator: torch.Generator, *shape: int) -> np.ndarray:
    """Standard normal numbers."""
    return torch.randn(*shape, generator=generator, dtype=torch.float64).numpy()


@dataclass(frozen=True)
class Regression(Toy):
    """A linear model on data of its own: subclasses say which (`linear`), and what it is compared with."""

    @cached_property
    def linear(self) -> LinearModel:
        """The model on its data; every subclass has its own."""
        raise NotImplementedError

    @cached_property
    def reference(self) -> np.ndarray:
        """Other weights, shape (outputs, features); every subclass has its own."""
        raise NotImplementedError

    @property
    def step(self) -> float:
        """Step size of full-batch gradient descent: 0.3/λmax, so that no mode is done after one step."""
        return 0.3 / float(np.linalg.eigvalsh(self.linear.moments)[-1])

    def make_objective(self) -> Objective:
        """Half the mean squared error on the data."""
        return self.linear.objective()

    def make_run(self) -> Run:
        """Full-batch gradient descent from there."""
        return self.linear.run(self.step)

    def sample_truths(self) -> dict[str, Truth]:
        """Curvature, noise, kernel, functions, data and motion on these data; comparison with the reference weights."""
        model = self.linear
        truths = local_truths(model) | motion_truths(model.descent(self.step), len(model.inputs))
        if len(model.inputs) > FEW:
            jacobian = linear_layer(model.inputs[:FEW], len(model.weights))
            kernel = kernel_truths(jacobian, model.targets[:FEW])
            truths |= {name: replace(truth, subject=_first_few) for name, truth in kernel.items()}
        truths |= function_truths(model) | data_truths(model)
        truths |= pair_truths(model, self.reference, _at_reference)
        values = np.linalg.eigvalsh(model.moments)
        if len(model.weights) == 1 and len(values) <= MOST and values[0] > 1e-6 * values[-1]:
            truths |= minimum_truths(model, _at_minimum)
        return truths


def _first_few(toy: Regression) -> Objective:
    inputs, targets = toy.linear.data()
    return toy.linear.objective().on([(inputs[:FEW], targets[:FEW])])


def _at_reference(toy: Regression) -> Objective:
    return toy.linear.objective(toy.reference)


def _at_minimum(toy: Regression) -> Objective:
    return toy.linear.objective(toy.linear.minimum)

"""A loss that is a formula in a few parameters, with its derivatives by hand, for toys that are sampled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from geartrain.objective import Objective
from geartrain.run import Run
from geartrain.zoo._base import Truth
from geartrain.zoo._descent import STEPS, Path, motion_truths
from geartrain.zoo._matrices import curvature_truths

_SOURCE = "Derivatives of the potential by hand."


class Energy(nn.Module):
    """The potential at its parameters, for every example alike."""

    def __init__(self, formula: Callable[[Tensor], Tensor], place: np.ndarray) -> None:
        super().__init__()
        self.formula = formula
        self.place = nn.Parameter(torch.from_numpy(np.array(place, dtype=float)))

    def forward(self, x: Tensor) -> Tensor:
        """The potential times x, shape of x."""
        return x * self.formula(self.place)


@dataclass(frozen=True)
class Potential:
    """A loss and its derivatives.

    Attributes:
        formula: The loss for PyTorch, from a vector to a number.
        loss: The same for numpy.
        gradient: Its gradient.
        hessian: Its Hessian.
    """

    formula: Callable[[Tensor], Tensor]
    loss: Callable[[np.ndarray], float]
    gradient: Callable[[np.ndarray], np.ndarray]
    hessian: Callable[[np.ndarray], np.ndarray]

    def objective(self, place: np.ndarray) -> Objective:
        """The loss at a place."""
        return Objective(Energy(self.formula, place), _mean, _ONE)

    def run(self, place: np.ndarray, step: float) -> Run:
        """Gradient descent from a place."""
        model = Energy(self.formula, place)
        optimizer = torch.optim.SGD(model.parameters(), lr=step)
        return Run(model, _mean, optimizer, _ONE, epochs=200, batch_size=1, shuffle=False)

    def path(self, place: np.ndarray, step: float) -> Path:
        """Its first steps, by hand."""
        points = [place]
        for _ in range(STEPS):
            points.append(points[-1] - step * self.gradient(points[-1]))
        gradients = np.array([self.gradient(x) for x in points])
        losses = np.array([self.loss(x) for x in points])
        return Path(np.array(points), gradients, losses, self.hessian(place), step)

    def truths(
        self, place: np.ndarray, step: float, other: np.ndarray, make: Callable[[Any], Objective]
    ) -> dict[str, Truth]:
        """What the instruments read at a place.

        Args:
            place: Where, not critical.
            step: Of the run.
            other: A second state, for comparisons.
            make: From the toy to the objective there.
        """
        known = partial(Truth, source=_SOURCE)
        direction = np.cos(1.0 + np.arange(len(place)))
        t, share = np.linspace(-1, 1, 11), np.linspace(0, 1, 11)
        rise = np.array([self.loss(place + s * direction) for s in t]) - self.loss(place)
        line = np.array([self.loss((1 - s) * place + s * other) for s in share])
        options: dict[str, Any] = {"direction": torch.from_numpy(direction), "points": 11}
        size = (len(place),)
        return {
            **curvature_truths(self.hessian(place), self.gradient(place), layers=size, source=_SOURCE),
            **motion_truths(self.path(place, step), 1),
            "weight_norm": known(np.array([np.linalg.norm(place)])),
            "loss_slice": known(rise, reading="rise", error="none", options=options),
            "distance_from_init": known(float(np.linalg.norm(place - other)), other=make),
            "linear_connectivity": known(
                line - (1 - share) * line[0] - share * line[-1], reading="excess", error="none", other=make
            ),
        }


_ONE = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)


def _mean(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.mean()

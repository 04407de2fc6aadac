"""# The map from parameters to functions, counted

A network is a map from parameters to functions, and the map is lopsided: a few functions own almost all of parameter
space. Here the whole map can be written down. Inputs are the 8 corners of {0, 1}³, two ReLU units feed one
threshold, 1[v₁h₁ + v₂h₂ + c > 0], and each of the 11 weights is -1, 0 or 1: 3¹¹ = 177,147 networks.

**What comes out.** They realise 220 of the 256 Boolean functions of three bits. "Always 0" owns 88,378 networks (half of
them), "always 1" 41,204, while the parity of three bits and its complement own none. Simple functions come up often,
complex ones rarely: with the volume as prior, a learner that samples networks consistent with the data is
already an Occam's razor (Valle-Pérez et al. 2018).

**Counting fast.** A hidden unit is a table of 8 numbers, and there are only 81 of them; an output is a threshold of a
combination of two. So all networks are 81 x 81 pairs times 27 output weights.

**The instruments** look at one member of the family: weights W, b, v, c of a chosen network without the threshold, trained on the
table of another function; its derivatives are written down by the chain rule.

**What to vary.** The network that is looked at (``network``, 11 numbers), and the number of random draws.

Sources: enumeration; setting of Valle-Pérez, Camargo, Louis 2018, arXiv:1805.08522. Ledger: T16
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import nn

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.zoo import _matrices
from geartrain.zoo._base import Toy, Truth, trial_result
from geartrain.zoo._losses import half_square

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from geartrain.records import Measurement

POINTS = np.array(list(itertools.product((0.0, 1.0), repeat=3)))
PARITY = 0b01101001
"""Parity of three bits as a number: bit i is the answer to input number i."""
_SOURCE = "The chain rule; ReLU has no curvature of its own, so the loss ½ mean (f - y)² has H = JᵀJ/n + curvature of f."


@dataclass(frozen=True)
class BooleanMap(Toy):
    """All networks 3-2-1 with weights -1, 0, 1, and the functions that they compute.

    Attributes:
        network: The one that instruments look at: W (2 x 3, row by row), b (2), v (2), c.
        samples: Random networks of the trial.
    """

    title: ClassVar[str] = "From parameters to functions"
    ledger: ClassVar[tuple[str, ...]] = ("T16",)

    network: tuple[int, ...] = (1, 1, 0, 1, 1, 1, 0, -1, 1, -1, 1)
    samples: int = 50_000

    def __post_init__(self) -> None:
        """Refuse what is not in the family."""
        if len(self.network) != 11 or not set(self.network) <= {-1, 0, 1}:
            raise InputError(f"network is {self.network}; allowed: 11 numbers, each -1, 0 or 1.")
        if self.samples < 100:
            raise InputError(f"samples is {self.samples}; at least 100 are needed for an error bar.")

    def weights(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """W (2, 3), b (2,) and v with c behind it (3,)."""
        flat = np.array(self.network, dtype=float)
        return flat[:6].reshape(2, 3), flat[6:8], flat[8:]

    def make_objective(self) -> Objective:
        """½ mean (f - y)² of the network before its threshold, y the majority of the three bits."""
        weight, bias, out = (torch.from_numpy(w) for w in self.weights())
        hidden, last = nn.Linear(3, 2).double(), nn.Linear(2, 1).double()
        with torch.no_grad():
            hidden.weight.copy_(weight), hidden.bias.copy_(bias)
            last.weight.copy_(out[None, :2]), last.bias.copy_(out[2:])
        x = torch.from_numpy(POINTS)
        return Objective(nn.Sequential(hidden, nn.ReLU(), last), half_square, (x, (x.sum(1, keepdim=True) > 1.5).double()))

    def truths(self) -> dict[str, Truth]:
        """The five counts, their shares by sampling, and the network that is looked at."""
        counts = owners()
        weight, bias, out = self.weights()
        outputs, jacobian = _matrices.two_layers(POINTS, weight, bias, out)
        y = (POINTS.sum(1) > 1.5).astype(float)
        hessian = jacobian[:, 0].T @ jacobian[:, 0] / 8 + self._curvature(outputs - y)
        rows = (outputs - y)[:, None] * jacobian[:, 0]
        loss, active = 0.5 * float(((outputs - y) ** 2).mean()), POINTS @ weight.T + bias > 0
        norms = np.array([math.sqrt((weight**2).sum() + bias @ bias), np.linalg.norm(out)])
        truths = {
            "realised": Truth(220.0, source="Enumeration.", trial=_realised),
            "owned": Truth(
                np.array([88_378.0, 41_204.0, 0.0, 0.0]),
                source="Enumeration: always 0, always 1, parity, its complement.",
                trial=_owned,
            ),
            "shares": Truth(counts[[0, 255]] / 3**11, source="Enumeration.", trial=self.sampled),
            "weight_norm": Truth(norms, source="Definition."),
            "dead_units": Truth(float((~active.any(0)).mean()), source="Definition."),
            "dead_units.inactive_share": Truth(float((~active).mean()), source="Definition.", reading="inactive_share"),
            "feature_scales": Truth(1.0, source="Every input is a fair bit."),
            "label_disagreement_floor": Truth(0.0, source="No input occurs twice."),
            "constant_loss": Truth(0.125, tolerance=1e-5, source="The majority of three bits is a fair bit."),
            "missing_biases": Truth(0.0, source="By definition."),
            "leap": Truth(1.0, source="Majority has all three single coordinates.", options={"threshold": 1e-6}),
            "walsh_spectrum": Truth(self._walsh(outputs), source="Means over the cube.", options={"levels": (0, 1)}),
            **_matrices.curvature_truths(hessian, rows.mean(0), layers=[8, 3], source=_SOURCE),
            **_matrices.kernel_truths(jacobian, y[:, None]),
        }
        if rows.any():
            truths |= _matrices.example_truths(rows, hessian, layers=[8, 3], source=_SOURCE)
            direction = np.append(np.zeros(8), np.ones(3))  # the loss is a parabola in the output weights
            truths["loss_slice"] = _matrices.parabola(loss, rows.mean(0), hessian, direction)
        return truths

    def _curvature(self, residual: np.ndarray) -> np.ndarray:
        """Mean of residual x second derivatives of f: only v meets W and b of its own unit."""
        weight, bias, _ = self.weights()
        active = POINTS @ weight.T + bias > 0
        hessian = np.zeros((11, 11))
        for unit in range(2):
            pull = (residual * active[:, unit]) @ np.column_stack([POINTS, np.ones(8)]) / 8
            places = [3 * unit, 3 * unit + 1, 3 * unit + 2, 6 + unit]
            hessian[8 + unit, places] = hessian[places, 8 + unit] = pull
        return hessian

    @staticmethod
    def _walsh(values: np.ndarray) -> np.ndarray:
        """Share of the power at each degree, by the definition; all of it at 0 where f = 0."""
        signs = 2 * POINTS - 1
        power = np.zeros(4)
        for size in range(4):
            for s in itertools.combinations(range(3), size):
                power[size] += float((values * signs[:, list(s)].prod(1)).mean()) ** 2
        return power / power.sum() if power.any() else np.full(4, math.nan)

    def sampled(self, generator: torch.Generator) -> Measurement:
        """Shares of "always 0" and "always 1" among random networks."""
        draws = torch.randint(-1, 2, (self.samples, 11), generator=generator).numpy()
        weight, bias, v, c = draws[:, :6].reshape(-1, 2, 3), draws[:, 6:8], draws[:, 8:10], draws[:, 10]
        hidden = np.maximum(np.einsum("shi,ni->shn", weight, POINTS) + bias[..., None], 0)
        ones = (np.einsum("shn,sh->sn", hidden, v) + c[:, None] > 0).sum(1)
        shares = np.array([(ones == 0).mean(), (ones == 8).mean()])
        return trial_result("shares", shares, np.sqrt(shares * (1 - shares) / self.samples))

    def draw(self, figure: Figure) -> None:
        """How many networks each function owns, in order."""
        counts = np.sort(owners())[::-1]
        axes = figure.add_subplot()
        axes.loglog(np.arange(1, 1 + np.count_nonzero(counts)), counts[counts > 0], "o-", ms=3)
        axes.set(xlabel="rank of the function (220 of 256 occur)", ylabel="networks that compute it")
        axes.annotate("always 0", (1, counts[0]), xytext=(1.6, counts[0]), va="center")
        axes.annotate("always 1", (2, counts[1]), xytext=(3.2, counts[1]), va="center")
        axes.set_title("177,147 networks, 256 functions")


@functools.cache
def owners() -> np.ndarray:
    """Number of networks that compute each function; function number f answers input i with bit i. Shape (256,)."""
    units = np.array(list(itertools.product((-1, 0, 1), repeat=4)))
    hidden = np.maximum(units[:, :3] @ POINTS.T + units[:, 3:], 0)  # 81 tables
    counts = np.zeros(256)
    for v1, v2, c in itertools.product((-1, 0, 1), repeat=3):
        answers = v1 * hidden[:, None] + v2 * hidden[None] + c > 0
        counts += np.bincount((answers @ (1 << np.arange(8))).ravel(), minlength=256)
    return counts


def _realised(generator: torch.Generator) -> Measurement:
    return trial_result("realised", np.count_nonzero(owners()))


def _owned(generator: torch.Generator) -> Measurement:
    return trial_result("owned", owners()[[0, 255, 255 - PARITY, PARITY]])


TOY = BooleanMap

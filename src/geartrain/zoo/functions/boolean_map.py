r"""The map from parameters to functions, counted: half of all networks compute the same thing.

A network is a map from parameters to functions, and the map is lopsided: a few functions own almost all of parameter
space. Here the whole map can be written down. Inputs are the 8 corners of $\{0,1\}^3$, two ReLU units feed one
threshold, $f(x) = 1[v_1h_1 + v_2h_2 + c > 0]$, and each of the 11 weights is -1, 0 or 1: $3^{11} = 177147$ networks.

**What comes out.** They realise 220 of the 256 Boolean functions of three bits. "Always 0" owns 88,378 networks (half
of them), "always 1" 41,204, while the parity of three bits and its complement own none. Simple functions come up
often, complex ones rarely: with the volume as prior, a learner that draws networks until one fits the data is already
an Occam's razor.

**Counting fast.** A hidden unit is a table of 8 numbers, and there are only $3^4 = 81$ settings of one. The output is
a threshold of a combination of two tables. So all networks are 81 x 81 pairs times 27 output weights, and the counts
take a moment. The trials count the slow way, by running networks.

**Larger networks** have no such table, but a symmetry: flip the signs of the output weights of a network
$n \to 40 \to 40 \to 1$ without output bias and every answer flips. So with Gaussian weights each function is as likely
as its complement, and the mean share of ones is exactly ½, however lopsided the distribution (`deep_shares` draws it).

**The instruments** look at one member of the family: the chosen network without its threshold, under the loss
$\tfrac12\,\overline{(f-y)^2}$ with the majority of the three bits as $y$. ReLU has no curvature of its own, so that the
Hessian is $J^\top J/8$ plus the second derivatives in which an output weight meets the weights of its own unit.

**What to vary.** The network that is looked at (`network`, 11 numbers), `bits` and `samples` of the random ones.

Sources: enumeration; setting of Valle-Pérez, Camargo, Louis 2018, arXiv 1805.08522.
Ledger: 2.13.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.zoo import _matrices
from geartrain.zoo._base import Toy, Truth, trial_result
from geartrain.zoo._losses import half_square
from geartrain.zoo.functions._shallow import cube, relu_network

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from geartrain.records import Measurement

POINTS = cube(3, low=0.0)
"""The eight inputs."""
ALWAYS_0, ALWAYS_1, PARITY = 0, 255, 0b10010110
"""Functions as numbers: bit i is the answer to input number i."""
_SOURCE = "The chain rule; ReLU has no curvature of its own: H = JᵀJ/8 + the mixed terms of each unit."
_WIDTH = 40
_DEEP_SAMPLES = 1000


@dataclass(frozen=True)
class BooleanMap(Toy):
    """All networks 3-2-1 with weights -1, 0, 1, and the functions that they compute.

    Attributes:
        network: The one that instruments look at: W (2 x 3, row by row), b (2), v (2), c.
        samples: Random networks of the family that the trial draws.
        bits: Inputs of the larger random networks, 2 to 8.
        seed: Not used: nothing is random in making it.
    """

    title: ClassVar[str] = "From parameters to functions"
    ledger: ClassVar[tuple[str, ...]] = ("2.13",)

    network: tuple[int, ...] = (1, 1, 0, 1, 1, 1, 0, -1, 1, -1, 1)
    samples: int = 50_000
    bits: int = 5

    def __post_init__(self) -> None:
        if len(self.network) != 11 or not set(self.network) <= {-1, 0, 1}:
            raise InputError(f"network is {self.network}; allowed: 11 numbers, each -1, 0 or 1.")
        if self.samples < 100:
            raise InputError(f"samples is {self.samples}; allowed: 100 or more, for an error bar.")
        if not 2 <= self.bits <= 8:
            raise InputError(f"bits is {self.bits}; allowed: 2 to 8 (all 2^bits inputs are used).")

    # ------------------------------------------------------------------ how it is made

    @property
    def weights(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """W (2, 3), b (2,) and v with c behind it (3,)."""
        flat = np.array(self.network, dtype=float)
        return flat[:6].reshape(2, 3), flat[6:8], flat[8:]

    @property
    def labels(self) -> np.ndarray:
        """Majority of the three bits, shape (8,)."""
        return (POINTS.sum(1) > 1.5).astype(float)

    def make_objective(self) -> Objective:
        """½ mean (f - y)² of the network before its threshold, y the majority of the three bits."""
        data = torch.from_numpy(POINTS), torch.from_numpy(self.labels)[:, None]
        return Objective(relu_network(*self.weights), half_square, data)

    def deep_shares(self, generator: torch.Generator) -> np.ndarray:
        """Share of inputs answered one, by networks bits-40-40-1 with Gaussian weights; shape (1000,)."""
        x = torch.from_numpy(cube(self.bits, low=0.0))
        sizes, shares = (self.bits, _WIDTH, _WIDTH, 1), []
        for _ in range(_DEEP_SAMPLES):
            h = x
            for i, (a, b) in enumerate(itertools.pairwise(sizes)):
                weight = torch.randn(a, b, generator=generator, dtype=torch.float64) / math.sqrt(a)
                bias = torch.randn(b, generator=generator, dtype=torch.float64) if i < 2 else 0.0
                h = h @ weight + bias if i == 2 else torch.tanh(h @ weight + bias)
            shares.append(float((h > 0).double().mean()))
        return np.array(shares)

    # ------------------------------------------------------------------ what is known

    def truths(self) -> dict[str, Truth]:
        """Counts, shares by sampling, and the network that is looked at."""
        counts, counted = owners(), "Enumeration: 81 x 81 tables of units x 27 output weights."
        weight, bias, out = self.weights
        outputs, jacobian = _matrices.two_layers(POINTS, weight, bias, out)
        residual = outputs - self.labels
        hessian = jacobian[:, 0].T @ jacobian[:, 0] / 8 + self._curvature(residual)
        rows = residual[:, None] * jacobian[:, 0]
        active = POINTS @ weight.T + bias > 0
        norms = np.array([math.sqrt((weight**2).sum() + bias @ bias), np.linalg.norm(out)])
        truths = {
            "realised": Truth(float(np.count_nonzero(counts)), 0.0, source=counted, trial=_realised),
            "owned": Truth(
                counts[[ALWAYS_0, ALWAYS_1, PARITY, 255 - PARITY]], 0.0, source=counted, trial=_owned
            ),
            "shares": Truth(counts[[ALWAYS_0, ALWAYS_1]] / 3**11, source=counted, trial=self._sampled),
            "mean_of_ones": Truth(
                0.5, source="Output weights v and -v are equally likely.", trial=self._deep_mean
            ),
            "weight_norm": Truth(norms, source="Definition."),
            "dead_units": Truth(float((~active.any(0)).mean()), source="Definition."),
            "dead_units.inactive_share": Truth(
                float((~active).mean()), source="Definition.", reading="inactive_share"
            ),
            "feature_scales": Truth(1.0, source="Every input is a fair bit."),
            "label_disagreement_floor": Truth(0.0, source="No input occurs twice."),
            "constant_loss": Truth(0.125, 1e-5, source="The majority of three bits is a fair bit."),
            "missing_biases": Truth(0.0, source="By definition."),
            "leap": Truth(
                1.0, source="Majority has all three single coordinates.", options={"threshold": 1e-6}
            ),
            "walsh_spectrum": Truth(
                _degree_shares(outputs), source="Means over the cube.", options={"levels": (0, 1)}
            ),
            **_matrices.curvature_truths(hessian, rows.mean(0), layers=[8, 3], source=_SOURCE),
            **_matrices.kernel_truths(jacobian, self.labels[:, None]),
        }
        if rows.any():
            truths |= _matrices.example_truths(rows, hessian, layers=[8, 3], source=_SOURCE)
            direction = np.append(np.zeros(8), np.ones(3))  # the loss is a parabola in the output weights
            loss = 0.5 * float((residual**2).mean())
            truths["loss_slice"] = _matrices.parabola(loss, rows.mean(0), hessian, direction)
        return truths

    def _curvature(self, residual: np.ndarray) -> np.ndarray:
        """Mean of residual x second derivatives of f: an output weight meets W and b of its own unit only."""
        weight, bias, _ = self.weights
        active = POINTS @ weight.T + bias > 0
        hessian = np.zeros((11, 11))
        for unit in range(2):
            pull = (residual * active[:, unit]) @ np.column_stack([POINTS, np.ones(8)]) / 8
            places = [3 * unit, 3 * unit + 1, 3 * unit + 2, 6 + unit]
            hessian[8 + unit, places] = hessian[places, 8 + unit] = pull
        return hessian

    def _sampled(self, generator: torch.Generator) -> Measurement:
        """Shares of "always 0" and "always 1" among random networks of the family."""
        functions = _run(torch.randint(-1, 2, (self.samples, 11), generator=generator).numpy())
        shares = np.array([(functions == ALWAYS_0).mean(), (functions == ALWAYS_1).mean()])
        return trial_result("shares", shares, np.sqrt(shares * (1 - shares) / self.samples))

    def _deep_mean(self, generator: torch.Generator) -> Measurement:
        """Mean share of ones of larger networks with Gaussian weights."""
        shares = self.deep_shares(generator)
        return trial_result("mean_of_ones", shares.mean(), shares.std(ddof=1) / math.sqrt(len(shares)))

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """How many networks each function owns, in order."""
        counts = np.sort(owners())[::-1]
        axes = figure.add_subplot()
        axes.loglog(np.arange(1, 1 + np.count_nonzero(counts)), counts[counts > 0], "o-", ms=3)
        axes.annotate("always 0", (1, counts[0]), xytext=(1.6, counts[0]), va="center")
        axes.annotate("always 1", (2, counts[1]), xytext=(3.2, counts[1]), va="center")
        axes.set(xlabel="rank of the function (220 of 256 occur)", ylabel="networks that compute it")
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


def _run(networks: np.ndarray) -> np.ndarray:
    """Number of the function that each network computes; networks of shape (count, 11)."""
    weight, bias, v, c = (
        networks[:, :6].reshape(-1, 2, 3),
        networks[:, 6:8],
        networks[:, 8:10],
        networks[:, 10],
    )
    hidden = np.maximum(np.einsum("shi,ni->shn", weight, POINTS) + bias[..., None], 0)
    return (np.einsum("shn,sh->sn", hidden, v) + c[:, None] > 0) @ (1 << np.arange(8))


@functools.cache
def _every_network() -> np.ndarray:
    """How many of all networks compute each function, by running every one; shape (256,)."""
    codes = np.arange(3**11)[:, None] // 3 ** np.arange(11) % 3 - 1
    return np.bincount(_run(codes), minlength=256)


def _degree_shares(values: np.ndarray) -> np.ndarray:
    """Share of the power at each Fourier degree, by the definition; NaN where f = 0."""
    signs, power = 2 * POINTS - 1, np.zeros(4)
    for size in range(4):
        for s in itertools.combinations(range(3), size):
            power[size] += float((values * signs[:, list(s)].prod(1)).mean()) ** 2
    return power / power.sum() if power.any() else np.full(4, math.nan)


def _realised(generator: torch.Generator) -> Measurement:
    return trial_result("realised", np.count_nonzero(_every_network()))


def _owned(generator: torch.Generator) -> Measurement:
    return trial_result("owned", _every_network()[[ALWAYS_0, ALWAYS_1, PARITY, 255 - PARITY]])


TOY = BooleanMap

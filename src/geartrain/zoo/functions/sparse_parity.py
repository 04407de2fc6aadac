r"""Sparse parity: easy to state, hard to find by climbing.

The label is the product of $k$ of $n$ signs, $y = \prod_{i\in S}x_i$. Which $k$, nobody says. Every single input, and
every group of fewer than $k$, is uncorrelated with the label, so there is no slope to climb: a learner by correlations
faces about $n^k$ hypotheses. Yet three quite different things are known exactly.

**Elimination.** Over GF(2) a parity is a linear equation: write $x_i = (-1)^{b_i}$, then the label's bit is $\sum_{i\in
S}b_i$. Gaussian elimination finds $S$ as soon as $m$ samples pin down all $n$ unknowns, that is, once the $m\times n$
matrix of random bits has rank $n$. Column by column, a new column avoids the span of the earlier ones, so the
probability is $\prod_{i=m-n+1}^{m}(1 - 2^{-i})$: 0.289 at $m = n$, 0.969 with five samples more, 0.999 with ten.

**A network that knows it.** With $u$ = number of positive inputs in $S$, the parity is a sawtooth in $u$. One ReLU unit
per tooth, $\mathrm{relu}(u - j + \tfrac12)$ for $j = 1..k$, with output weights $\mp4, \pm12, \mp20, \dots$, hits
$\pm1$ at every whole $u$. Its loss is 0, so its Hessian is the mean outer product of its derivatives, a sum over the
cube.

**Hidden progress.** The gradient of a fresh unit $1[\sum_i x_i > 0]$ on this task is $E[y\,x_i\,1[\sum x > 0]]$, which
is the unit's own Fourier coefficient on $S\setminus i$ for members of $S$ and on $S\cup i$ for the others: sets of
$k - 1$ and $k + 1$ inputs. The two numbers differ, as a rule in sign (for odd $n$ and even $k$ they are half the
coefficients of the majority function, and fall as $n^{-(k-1)/2}$). Before the loss moves, the gradient already knows
$S$, in a whisper that gradient descent then amplifies.

**What to vary.** `k` and `bits` (network and instruments), `columns` and `extra` samples (elimination).

Sources: Barak et al. 2022, arXiv 2207.08799; O'Donnell, *Analysis of Boolean Functions* (2014), theorem 5.19.
Ledger: 1.24.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.zoo import _matrices
from geartrain.zoo._base import Toy, Truth, trial_result
from geartrain.zoo._losses import half_square
from geartrain.zoo.functions._shallow import cube, relu_network
from geartrain.zoo.functions._shares import share_result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from geartrain.records import Measurement

_SOURCE = "The loss is 0, so the Hessian is the mean outer product of the derivatives, summed over the cube."


@dataclass(frozen=True)
class SparseParity(Toy):
    """Parity of the first k of some bits, by a network that knows it, and by elimination.

    Attributes:
        bits: Inputs of the network, all 2^bits points; 2 to 10.
        k: Size of S, at least 2.
        columns: Unknowns n of the elimination.
        extra: Samples beyond n.
        trials: Systems that the trial draws.
        seed: Not used: nothing is random in making it.
    """

    title: ClassVar[str] = "Sparse parity"
    ledger: ClassVar[tuple[str, ...]] = ("1.24",)

    bits: int = 6
    k: int = 3
    columns: int = 20
    extra: int = 5
    trials: int = 2000

    def __post_init__(self) -> None:
        if not 2 <= self.k <= self.bits <= 10:
            raise InputError(f"k is {self.k} and bits {self.bits}; allowed: 2 <= k <= bits <= 10.")
        if not 1 <= self.columns <= 60:
            raise InputError(f"columns is {self.columns}; allowed: 1 to 60.")
        if self.extra < 0:
            raise InputError(f"extra is {self.extra}; allowed: 0 or more.")
        if self.trials < 2:
            raise InputError(f"trials is {self.trials}; allowed: 2 or more.")

    # ------------------------------------------------------------------ how it is made

    @cached_property
    def points(self) -> np.ndarray:
        """The whole cube, shape (2^bits, bits)."""
        return cube(self.bits)

    @cached_property
    def labels(self) -> np.ndarray:
        """The parity, shape (2^bits,)."""
        return self.points[:, : self.k].prod(1)

    @cached_property
    def weights(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """W (k, bits), b (k,) and the outer weights with the outer bias (k + 1,) of the sawtooth.

        The output at u = 0 is ±1, and its slope between the kinks at u - ½ and u + ½ must be ∓4u to be there with the
        right sign at every whole u; so the slope changes by 4u + 4(u - 1) at the kink u - ½.
        """
        teeth = np.arange(1, self.k + 1)
        weight = np.zeros((self.k, self.bits))
        weight[:, : self.k] = 0.5  # u = Σ (x_i + 1)/2
        first = (-1.0) ** self.k  # parity of k negative signs
        out = first * (-1.0) ** teeth * (8.0 * teeth - 4.0)
        return weight, self.k / 2 - teeth + 0.5, np.append(out, first)

    def make_objective(self) -> Objective:
        """½ mean (f - y)² of the sawtooth network over the cube: 0."""
        data = torch.from_numpy(self.points), torch.from_numpy(self.labels)[:, None]
        return Objective(relu_network(*self.weights), half_square, data)

    # ------------------------------------------------------------------ what is known

    def truths(self) -> dict[str, Truth]:
        """Chance of elimination, Fourier gap, and everything about the sawtooth network."""
        _, jacobian = _matrices.two_layers(self.points, *self.weights)
        hessian = np.einsum("nap,naq->pq", jacobian, jacobian) / 2**self.bits
        layers = [self.k * self.bits + self.k, self.k + 1]
        return {
            "elimination_rate": Truth(
                self.elimination_chance,
                source="A column avoids the span of earlier ones.",
                trial=self._eliminate,
            ),
            "fourier_gap": Truth(
                self.fresh_gradient,
                1e-12,
                source="Sums of binomials; Barak et al. 2022.",
                trial=self._fresh_unit,
            ),
            "largest_error": Truth(
                0.0, 1e-9, source="The sawtooth passes through every point.", trial=self._residual
            ),
            **self._network_truths(),
            **self._data_truths(),
            **_matrices.curvature_truths(hessian, layers=layers, source=_SOURCE),
            **_matrices.kernel_truths(jacobian, self.labels[:, None], source=_SOURCE),
        }

    def _network_truths(self) -> dict[str, Truth]:
        """What weights and slopes of the sawtooth decide."""
        k, (_, bias, out) = self.k, self.weights
        binomial = np.array([math.comb(k, i) for i in range(k + 1)]) / 2**k
        silent = float(np.mean([binomial[:j].sum() for j in range(1, k + 1)]))
        model = {"of": "model", "max_degree": k, "threshold": 1e-6}
        return {
            "leap.model": Truth(float(k), 0.0, source="The network is exact.", options=model),
            "walsh_spectrum": Truth(np.eye(self.bits + 1)[k], 1e-9, source="All power at degree k."),
            "weight_norm": Truth(
                np.array([math.sqrt(k * k / 4 + bias @ bias), np.linalg.norm(out)]), source="Definition."
            ),
            "weight_rank": Truth(np.ones(2), source="All teeth look in the same direction."),
            "dead_units": Truth(0.0, source="Every tooth is reached at u = k."),
            "dead_units.inactive_share": Truth(silent, source="Binomial tails.", reading="inactive_share"),
            "jacobian_singular_values": Truth(
                np.array([k * math.sqrt(k)]),
                source="|slope| = 4u along u, |∂u/∂x| = √k/2, mean of u is k/2.",
                options={"examples": 2**self.bits},
            ),
            "symmetry_orbit_dimension": Truth(float(k), source="Each ReLU can be rescaled."),
            "parameter_symmetry": Truth(0.0, source="Teeth have different biases."),
            "missing_biases": Truth(0.0, source="By construction."),
            "output_reach": Truth(0.0, source="The output is unbounded."),
        }

    def _data_truths(self) -> dict[str, Truth]:
        """What the cube and the parity alone decide."""
        return {
            "leap": Truth(
                float(self.k), 0.0, source="A single term of k coordinates.", options={"max_degree": self.k}
            ),
            "constant_loss": Truth(0.5, 1e-5, source="Targets ±1, balanced."),
            "target_scale": Truth(1.0, source="Targets ±1, balanced.", strict=True),
            "feature_scales": Truth(1.0, source="Every input is ±1 equally often."),
            "label_disagreement_floor": Truth(0.0, source="No point occurs twice."),
        }

    @property
    def elimination_chance(self) -> float:
        """Π_{i=m-n+1}^{m} (1 - 2^(-i)), the chance of full rank."""
        m = self.columns + self.extra
        return math.prod(1 - 2.0**-i for i in range(m - self.columns + 1, m + 1))

    @property
    def fresh_gradient(self) -> np.ndarray:
        """E[y x_i 1[Σx > 0]] for every input i, shape (bits,): one value on S, another off it."""
        on, off = (threshold_coefficient(self.bits, size) for size in (self.k - 1, self.k + 1))
        return np.where(np.arange(self.bits) < self.k, on, off)

    def _eliminate(self, generator: torch.Generator) -> Measurement:
        """Share of random systems in which elimination has a unique solution."""
        rows, n = self.columns + self.extra, self.columns
        bits = torch.randint(0, 2, (self.trials, rows, n), generator=generator).numpy().astype(bool)
        place, full = np.arange(self.trials), np.ones(self.trials, dtype=bool)
        for column in range(n):
            pivot = column + bits[:, column:, column].argmax(1)
            full &= bits[place, pivot, column]
            bits[place, pivot], bits[:, column] = bits[:, column].copy(), bits[place, pivot].copy()
            below = bits[:, column + 1 :, column].copy()
            bits[:, column + 1 :] ^= below[:, :, None] & bits[:, None, column]
        return share_result("elimination_rate", int(full.sum()), self.trials)

    def _fresh_unit(self, generator: torch.Generator) -> Measurement:
        """Gradient of the mean of y·relu(w·x) at w = (1, ..., 1), by automatic differentiation."""
        w = torch.ones(self.bits, dtype=torch.float64, requires_grad=True)
        gain = (torch.from_numpy(self.labels) * torch.relu(torch.from_numpy(self.points) @ w)).mean()
        return trial_result("fourier_gap", torch.autograd.grad(gain, w)[0].numpy())

    def _residual(self, generator: torch.Generator) -> Measurement:
        """Largest error of the network on the cube."""
        error = self.objective.outputs()[:, 0].numpy() - self.labels
        return trial_result("largest_error", float(np.abs(error).max()))

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """The sawtooth, and the chance of elimination."""
        left, right = figure.subplots(1, 2)
        u = np.linspace(-0.5, self.k + 0.5, 400)
        _, bias, out = self.weights
        teeth = np.maximum(u[:, None] - self.k / 2 + bias, 0) @ out[:-1] + out[-1]
        left.plot(u, teeth, label="network")
        whole = np.arange(self.k + 1)
        left.plot(whole, (-1.0) ** (self.k - whole), "o", label="parity")
        left.set(xlabel="u, positive inputs in S", ylabel="output", title=f"k = {self.k}")
        left.legend()
        extra = np.arange(11)
        chance = [replace(self, extra=int(e)).elimination_chance for e in extra]
        right.plot(extra, chance, "o-")
        right.set(
            xlabel="samples beyond n",
            ylabel="chance of full rank",
            title=f"n = {self.columns}",
            ylim=(0, 1.02),
        )


def threshold_coefficient(n: int, size: int) -> float:
    """Fourier coefficient of 1[Σx > 0] of n signs on a set of that size; 0 for larger sets than there are.

    >>> [threshold_coefficient(3, size) for size in range(4)]
    [0.5, 0.25, 0.0, -0.25]
    """
    if size > n:
        return 0.0
    inside = ((a, (-1) ** a * math.comb(size, a)) for a in range(size + 1))  # a negative signs in the set
    total = sum(
        signed * math.comb(n - size, b)
        for a, signed in inside
        for b in range(n - size + 1)
        if 2 * (a + b) < n
    )
    return total / 2**n


TOY = SparseParity

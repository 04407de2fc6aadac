"""# Sparse parity: easy to state, hard to find

The label is the product of k of n signs, y = Π_{i∈S} x_i. Which k, nobody says. Every single input, and every group of fewer
than k, is uncorrelated with the label, so there is no slope to climb: a learner by correlations faces about n^k hypotheses.
Yet the answer is short, and two quite different things are known about it.

**Elimination.** Over GF(2) a parity is a linear equation. Gaussian elimination finds S as soon as the m samples
pin down all n unknowns, that is, once the m x n matrix of random bits has rank n. That has probability
Π_{i=m-n+1}^{m} (1 - 2^(-i)): 0.289 at m = n, 0.999 with ten samples more.

**A network that knows it.** With u = number of positive inputs in S, the parity is a sawtooth in u. A ReLU network with one
hidden unit per tooth, relu(u - j + ½) for j = 1..k, weighted by slopes that alternate in sign (4, -12, 20, ... times the sign of the first step),
hits ±1 at every whole u exactly. Its loss is 0, so its Hessian is the mean of the outer products of its derivatives, which is a
sum over the cube.

**Hidden progress.** Before the loss moves, the gradient of a fresh unit with weights of equal size already carries a Fourier gap: it
contains the coefficients of the majority function, |M̂aj(k)| = C((n-1)/2, (k-1)/2)/C(n-1, k-1) · 2^(-(n-1)) C(n-1, (n-1)/2) for odd k,
and these fall with k. Barak et al. show that gradient descent amplifies this whisper.

**What to vary.** k and bits (the network and the instruments), columns and extra samples (elimination).

Sources: Barak et al. 2022, arXiv:2207.08799; O'Donnell 2014, theorem 5.19 (majority). Ledger: T35
"""

from __future__ import annotations

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
    """

    title: ClassVar[str] = "Sparse parity"
    ledger: ClassVar[tuple[str, ...]] = ("T35",)

    bits: int = 6
    k: int = 3
    columns: int = 20
    extra: int = 5
    trials: int = 2000

    def __post_init__(self) -> None:
        """Refuse sets that do not fit."""
        if not 2 <= self.k <= self.bits <= 10:
            raise InputError(f"k is {self.k} and bits {self.bits}; allowed: 2 <= k <= bits <= 10.")
        if not 1 <= self.columns <= 60 or self.extra < 0 or self.trials < 2:
            raise InputError(
                f"columns, extra, trials are {self.columns}, {self.extra}, {self.trials}; "
                "allowed: 1 to 60, 0 or more, 2 or more."
            )

    def points(self) -> np.ndarray:
        """The whole cube, shape (2^bits, bits)."""
        return np.array(list(itertools.product((-1.0, 1.0), repeat=self.bits)))

    def weights(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """W (k, bits), b (k,) and the outer weights with the outer bias (k + 1,) of the sawtooth."""
        teeth = np.arange(1, self.k + 1)
        weight = np.zeros((self.k, self.bits))
        weight[:, : self.k] = 0.5  # u = Σ (x_i + 1)/2
        first = (-1.0) ** self.k  # parity of k negative signs
        # Slope between kinks u - ½ and u + ½ is ∓4u, so that the tooth's slope changes by 4u + 4(u - 1).
        out = first * (-1.0) ** teeth * (8.0 * teeth - 4.0)
        return weight, self.k / 2 - teeth + 0.5, np.append(out, first)

    def make_objective(self) -> Objective:
        """½ mean (f - y)² of the sawtooth network over the cube: 0."""
        x = torch.from_numpy(self.points())
        hidden, last = nn.Linear(self.bits, self.k).double(), nn.Linear(self.k, 1).double()
        weight, bias, out = (torch.from_numpy(w) for w in self.weights())
        with torch.no_grad():
            hidden.weight.copy_(weight), hidden.bias.copy_(bias)
            last.weight.copy_(out[None, :-1]), last.bias.copy_(out[-1:])
        targets = x[:, : self.k].prod(1, keepdim=True)
        return Objective(nn.Sequential(hidden, nn.ReLU(), last), half_square, (x, targets))

    def truths(self) -> dict[str, Truth]:
        """Chance of elimination, Fourier gap, and everything about the sawtooth network."""
        k, (weight, bias, out) = self.k, self.weights()
        _, jacobian = _matrices.two_layers(self.points(), weight, bias, out)
        hessian = np.einsum("nap,naq->pq", jacobian, jacobian) / 2**self.bits
        u = np.arange(k + 1)
        binomial = np.array([math.comb(k, i) for i in u]) / 2**k
        silent = float(np.mean([binomial[:j].sum() for j in range(1, k + 1)]))
        rows_norm = math.sqrt(k * k / 4 + bias @ bias)
        targets = self.points()[:, :k].prod(1)[:, None]
        zero = dict(source="The network is exact.", tolerance=1e-9)
        return {
            "elimination_rate": Truth(self.elimination_chance(), source="Rank of random bits.", trial=self.eliminate),
            "majority_coefficients": Truth(
                np.array([majority(7, 1), majority(7, 3), majority(7, 5)]),
                tolerance=1e-12,
                source="O'Donnell 2014, theorem 5.19.",
                trial=majority_by_enumeration,
            ),
            "leap": Truth(float(k), source="A single term of k coordinates.", options={"max_degree": k}),
            "leap.model": Truth(
                float(k), source="The network is exact.", options={"of": "model", "max_degree": k, "threshold": 1e-6}
            ),
            "walsh_spectrum": Truth(np.eye(self.bits + 1)[k], source="All power at degree k.", tolerance=1e-9),
            "frequency_of_teeth": Truth(0.0, trial=self.residual, **zero),
            "weight_norm": Truth(np.array([rows_norm, np.linalg.norm(out)]), source="Definition."),
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
            "constant_loss": Truth(0.5, tolerance=1e-5, source="Targets ±1, balanced."),
            "target_scale": Truth(1.0, tolerance=0.05, assumptions="n or n - 1.", source="Targets ±1, balanced."),
            "feature_scales": Truth(1.0, source="Every input is ±1 equally often."),
            "label_disagreement_floor": Truth(0.0, source="No point occurs twice."),
            "missing_biases": Truth(0.0, source="By construction."),
            "output_reach": Truth(0.0, source="The output is unbounded."),
            **_matrices.curvature_truths(hessian, layers=[k * self.bits + k, k + 1], source=_SOURCE),
            **_matrices.kernel_truths(jacobian, targets, source=_SOURCE),
        }

    def elimination_chance(self) -> float:
        """Π_{i=m-n+1}^{m} (1 - 2^(-i)), the chance of full rank."""
        m = self.columns + self.extra
        return math.prod(1 - 2.0**-i for i in range(m - self.columns + 1, m + 1))

    def eliminate(self, generator: torch.Generator) -> Measurement:
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
        share = float(full.mean())
        return trial_result("elimination_rate", share, math.sqrt(max(share * (1 - share), 1e-12) / self.trials))

    def residual(self, generator: torch.Generator) -> Measurement:
        """Largest error of the network on the cube."""
        objective = self.objective
        error = objective.outputs() - objective.batches[0][1]
        return trial_result("residual", float(error.abs().max()))

    def draw(self, figure: Figure) -> None:
        """The sawtooth, and the chance of elimination."""
        left, right = figure.subplots(1, 2)
        u = np.linspace(-0.5, self.k + 0.5, 400)
        _, bias, out = self.weights()
        teeth = np.maximum(u[:, None] - self.k / 2 + bias, 0) @ out[:-1] + out[-1]
        left.plot(u, teeth, label="network")
        whole = np.arange(self.k + 1)
        left.plot(whole, (-1.0) ** (self.k - whole), "o", label="parity")
        left.set(xlabel="u, positive inputs in S", ylabel="output", title=f"k = {self.k}")
        left.legend()
        extra = np.arange(11)
        chance = [SparseParity(columns=self.columns, extra=int(e)).elimination_chance() for e in extra]
        right.plot(extra, chance, "o-")
        right.set(xlabel="samples beyond n", ylabel="chance of full rank", title=f"n = {self.columns}", ylim=(0, 1.02))


def majority(n: int, size: int) -> float:
    """Fourier coefficient of the majority of n (odd) signs on a set of odd size; 0 on even ones.

    >>> majority(3, 1), majority(3, 3)
    (0.5, -0.5)
    """
    if size % 2 == 0:
        return 0.0
    half, j = (n - 1) // 2, (size - 1) // 2
    return (-1) ** j * math.comb(half, j) / math.comb(n - 1, 2 * j) * math.comb(n - 1, half) / 2 ** (n - 1)


def majority_by_enumeration(generator: torch.Generator) -> Measurement:
    """Coefficients 1, 3, 5 of the majority of seven, as means over the cube."""
    x = np.array(list(itertools.product((-1.0, 1.0), repeat=7)))
    votes = np.sign(x.sum(1))
    return trial_result("majority", [float((votes * x[:, :s].prod(1)).mean()) for s in (1, 3, 5)])


TOY = SparseParity

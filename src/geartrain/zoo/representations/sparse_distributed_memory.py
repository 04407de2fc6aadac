r"""Sparse distributed memory, and why it looks like attention.

Kanerva's memory has random binary addresses of $n$ bits. A pattern is written to every address within Hamming distance
$r$ of it; a query reads every address within $r$ of itself and adds up what it finds. So a stored pattern at distance
$v$ from the query gets as much weight as there are addresses within $r$ of *both*:

$$I(v) = \sum_{a, b} \binom{v}{a}\binom{n-v}{b} \quad\text{over}\quad a + b \le r \ \text{ and }\ (v - a) + b \le r.$$

Here $a$ counts those of the $v$ differing bits in which the address sides against the query, $b$ the other bits in
which it differs from both. At once: $I(0) = \sum_{i\le r}\binom{n}{i}$, the size of a ball; $I(v) = 0$ for $v > 2r$,
where the balls are disjoint; and $I(2j-1) = I(2j)$, because an address cannot be equally far from two points at an odd
distance: when one of them moves a step further away, an address is won for each that is lost (flip the bit that moved).

**Attention.** For near patterns, $v \le r$, $\ln I(v)$ falls nearly on a straight line, $\ln I \approx c - \kappa v$.
Bits as vectors of length 1 with entries $\pm 1/\sqrt n$ have the cosine $1 - 2v/n$, so weights $e^{-\kappa v}$ are
softmax weights with inverse temperature $\beta = \kappa n/2$: the memory of 1988 reads as one step of attention does
(Bricken, Pehlevan 2021). For $n = 64$, $r = 11$ the line explains 99.86 % of the variance of $\ln I$, with
$\beta = 14.6$. Further out it does not hold: $\ln I$ bends down and ends at $v = 2r$, whereas a softmax forgets nothing
altogether.

**The instruments** see this line being fitted: $f(v) = c - \kappa v$ by $\tfrac12\,\mathrm{mean}\,(f - \ln I)^2$ over
$v = 0, 2, \dots, r$, a regression with two parameters, about which everything is known.

**What to vary.** `n` and `r` (a small radius is a cold softmax: few patterns are heard).

Sources: Kanerva 1988 (Sparse Distributed Memory, MIT Press); Bricken, Pehlevan 2021, arXiv 2111.05498.
Ledger: 3.7.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.records import Measurement
from geartrain.zoo import _matrices
from geartrain.zoo._base import Toy, Truth, trial_result
from geartrain.zoo._linear import linear
from geartrain.zoo._losses import half_square

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COUNTED = "Counting addresses by the bits in which they differ; Kanerva 1988."


@dataclass(frozen=True)
class SparseDistributedMemory(Toy):
    """Overlaps of Hamming balls, and their likeness to a softmax.

    Attributes:
        n: Bits of an address.
        r: Radius of reading and writing.
        samples: Random addresses of the trial.
    """

    title: ClassVar[str] = "Sparse distributed memory"
    ledger: ClassVar[tuple[str, ...]] = ("3.7",)

    n: int = 64
    r: int = 11
    samples: int = 50_000

    def __post_init__(self) -> None:
        if not 8 <= self.n <= 256 or not 4 <= self.r <= self.n // 2:
            raise InputError(
                f"n is {self.n}, r {self.r}; allowed: n from 8 to 256, r from 4 (for three points of the line) to n/2."
            )
        if self.samples < 1000:
            raise InputError(f"samples is {self.samples}; allowed: 1000 or more.")

    # ------------------------------------------------------------------ how it is made

    def weights(self, distances: np.ndarray) -> np.ndarray:
        """Read-out weights ln I(v)."""
        return np.array([math.log(overlap(self.n, self.r, int(v))) for v in distances])

    @cached_property
    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """Even distances up to r as rows (1, v/n), and ln I(v)."""
        v = np.arange(0, self.r + 1, 2)
        return np.column_stack([np.ones(len(v)), v / self.n]), self.weights(v)

    @property
    def start(self) -> np.ndarray:
        """A line through the value at v = 0 that falls by 1 per bit: parameters c and -κn."""
        return np.array([self.curve[1][0], -float(self.n)])

    def make_objective(self) -> Objective:
        """½ mean (c - κv - ln I(v))² over v = 0, 2, ..., r; parameters c and -κn."""
        x, y = self.curve
        return Objective(
            linear(self.start[None]), half_square, (torch.from_numpy(x), torch.from_numpy(y)[:, None])
        )

    # ------------------------------------------------------------------ what is known

    @cached_property
    def fit(self) -> np.ndarray:
        """The least-squares line as (c, -κn), by the moments of v and ln I."""
        (_, v), y = self.curve[0].T, self.curve[1]
        slope = float(((v - v.mean()) * (y - y.mean())).sum() / ((v - v.mean()) ** 2).sum())
        return np.array([y.mean() - slope * v.mean(), slope])

    @property
    def beta(self) -> float:
        """Inverse temperature κn/2 of the softmax that comes nearest.

        >>> round(SparseDistributedMemory().beta, 2)
        14.56
        """
        return -float(self.fit[1]) / 2

    @property
    def explained(self) -> float:
        """Share of the variance of ln I that the line explains."""
        x, y = self.curve
        return 1 - float(((x @ self.fit - y) ** 2).mean() / y.var())

    @property
    def near(self) -> int:
        """A distance at which much of the ball is left and much is not."""
        return max(2, self.r // 3)

    def truths(self) -> dict[str, Truth]:
        """Counts of the overlap, and the fit of the line."""
        x, y = self.curve
        n, r, near = self.n, self.r, self.near
        return {
            **_matrices.least_squares_truths(x, y[:, None], self.start[None], silent=_silent),
            "overlap_share": Truth(
                overlap(n, r, near) / overlap(n, r, 0), source=_COUNTED, trial=self._sampled_share
            ),
            "overlaps_of_eight_bits": Truth(
                np.array([overlap(8, 3, v) for v in range(9)], dtype=float),
                0.0,
                source=_COUNTED,
                trial=_enumerated,
            ),
            "label_disagreement_floor": Truth(0.0, source="No distance occurs twice."),
            "target_scale": Truth(float(max(y.std(), abs(y.mean()))), source="Definition."),
            "example_losses": Truth(0.5 * (x @ self.start - y) ** 2, source="Definition.", strict=True),
            "distance_from_init": Truth(
                float(np.linalg.norm(self.start - self.fit)), source="The least-squares line.", other=_fitted
            ),
        }

    def _sampled_share(self, generator: torch.Generator) -> Measurement:
        """Share of the addresses in one ball that lie in another as well; addresses uniform in the first ball."""
        sizes = torch.tensor([float(math.comb(self.n, i)) for i in range(self.r + 1)], dtype=torch.float64)
        flips = torch.multinomial(sizes, self.samples, replacement=True, generator=generator)
        order = torch.rand(self.samples, self.n, generator=generator).argsort(1).argsort(1)
        address = order < flips[:, None]  # as many random bits set as were drawn
        other = torch.arange(self.n) < self.near
        share = float(((address ^ other).sum(1) <= self.r).double().mean())
        return trial_result("overlap_share", share, math.sqrt(share * (1 - share) / self.samples))

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """The logarithm of I(v) and the straight line, as far as there is an overlap."""
        axes, v = figure.add_subplot(), np.arange(0, 2 * self.r + 1)
        axes.plot(v, self.weights(v), "o", ms=4, label="ln I(v)")
        line = self.fit[0] + self.fit[1] * v / self.n
        axes.plot(v, line, label=f"softmax with β = {self.beta:.1f}, fitted up to v = {self.r}")
        axes.axvspan(0, self.r, color="0.92", zorder=0)
        axes.set(xlabel="Hamming distance v (bits)", ylabel="ln of the read-out weight")
        axes.set_title(f"{self.title}: n = {self.n}, r = {self.r}")
        axes.legend()


def overlap(n: int, r: int, v: int) -> int:
    """I(v), the number of addresses within r of two points at distance v.

    >>> [overlap(4, 1, v) for v in range(5)], [overlap(6, 2, v) for v in range(7)]
    ([5, 2, 2, 0, 0], [22, 12, 12, 6, 6, 0, 0])
    """
    return sum(
        math.comb(v, a) * math.comb(n - v, b)
        for a in range(min(v, r) + 1)
        for b in range(min(n - v, r - a, r - v + a) + 1)
    )


def enumerated(n: int, r: int) -> np.ndarray:
    """I(0) .. I(n) by going through all 2^n addresses."""
    bits = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
    others = np.tri(n + 1, n, -1, dtype=int)  # row v has its first v bits set
    near = bits.sum(1) <= r
    return np.array([(near & ((bits ^ other).sum(1) <= r)).sum() for other in others])


def _enumerated(generator: torch.Generator) -> Measurement:
    return trial_result("overlaps", enumerated(8, 3))


def _silent(toy: SparseDistributedMemory) -> Tensor:
    return torch.zeros(2, dtype=torch.float64)


def _fitted(toy: SparseDistributedMemory) -> Tensor:
    return torch.from_numpy(toy.fit)


TOY = SparseDistributedMemory

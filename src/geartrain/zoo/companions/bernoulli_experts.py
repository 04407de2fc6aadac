r"""Two experts, both wrong: a posterior that walks for ever.

A coin shows heads with probability $p$. Two experts watch: one says $a$, the other $1 - a$, at every toss. A Bayesian
starts undecided and keeps the log-odds $\ell_n$ of the second expert. Each head adds $\ln\frac{1-a}{a}$, each tail
takes as much away. If one of the experts were right, $\ell_n$ would run off to him. If the truth is half way, $p =
½$, it is a random walk without drift, and Bayesian updating never makes up its mind: the *grain of truth* is missing.

**The walk.** With $s = \ln\frac{1-a}{a}$ the log-odds after $n$ tosses have mean $n(2p - 1)s$ and variance
$4p(1-p)ns^2$: for $a = 0.3$, $p = ½$ that is $(\ln\tfrac73)^2 = 0.7179$ per toss.

**Changes of mind.** The sign changes at toss $2k + 1$ if the walk was at ∓1 step, came back to 0, and went on. There
are $\binom{2k-1}{k}$ ways for each side, so the probability is $\tfrac12\binom{2k}{k}(p(1-p))^k$. Summed over $k$
this is about $\sqrt{n/2\pi}$ changes in $n$ tosses at $p = ½$: they never end, but become rarer. For $p \ne ½$ the
sum converges.

**The instruments** look at the mixture with log-odds $w$ on a sample of tosses with the share $p$ of heads: one
parameter, with derivatives by hand. Its best constant weight is undecided, $w = 0$, at $p = ½$, although no expert is
right: the mixture itself then is.

**What to vary.** `heads` ($p$), `expert` ($a$), `tosses`.

Sources: textbook (random walks: Feller 1968, chapter III).
Ledger: 3.20.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.records import Measurement
from geartrain.zoo._base import Toy, Truth, trial_result
from geartrain.zoo.companions._mixture import mixture_objective, mixture_truths

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WALKS = 4000
_SAMPLE = 60


@dataclass(frozen=True)
class BernoulliExperts(Toy):
    """A coin between two experts who say a and 1 - a.

    Attributes:
        heads: p, probability of heads, above 0 and below 1.
        expert: a, what the first expert says, above 0 and below ½.
        tosses: n of the walk.
        log_odds: w of the mixture that the instruments see.
        seed: Not used: nothing is random in making it.
    """

    title: ClassVar[str] = "Two experts, both wrong"
    ledger: ClassVar[tuple[str, ...]] = ("3.20",)

    heads: float = 0.5
    expert: float = 0.3
    tosses: int = 200
    log_odds: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= round(self.heads * _SAMPLE) < _SAMPLE:
            raise InputError(f"heads is {self.heads}; allowed: {1 / _SAMPLE:.3f} to {1 - 1 / _SAMPLE:.3f}.")
        if not 0 < self.expert < 0.5:
            raise InputError(
                f"expert is {self.expert}; allowed: above 0 and below ½ (the other says the rest)."
            )
        if not 1 <= self.tosses <= 2000:
            raise InputError(f"tosses is {self.tosses}; allowed: 1 to 2000.")
        if not math.isfinite(self.log_odds) or self.log_odds == 0:
            raise InputError(f"log_odds is {self.log_odds}; allowed: numbers other than 0.")

    # ------------------------------------------------------------------ how it is made

    @property
    def sample(self) -> tuple[np.ndarray, np.ndarray]:
        """What the experts say, shape (60, 2), and tosses with the share p of heads (in whole tosses), shape (60,)."""
        experts = np.tile([self.expert, 1 - self.expert], (_SAMPLE, 1))
        return experts, (np.arange(_SAMPLE) < round(self.heads * _SAMPLE)).astype(float)

    def make_objective(self) -> Objective:
        """Mean log-loss of the mixture on the sample."""
        return mixture_objective(*self.sample, self.log_odds)

    # ------------------------------------------------------------------ what is known

    @property
    def step(self) -> float:
        """s, by which a head moves the log-odds."""
        return math.log((1 - self.expert) / self.expert)

    @property
    def changes(self) -> float:
        """Expected number of tosses at which the favourite changes."""
        term, total, product = 0.5, 0.0, self.heads * (1 - self.heads)
        for k in range(1, (self.tosses - 1) // 2 + 1):
            term *= (2 * k) * (2 * k - 1) / k**2 * product  # ½ C(2k, k) (p(1-p))^k
            total += term
        return total

    def truths(self) -> dict[str, Truth]:
        """The walk of the log-odds, and the mixture at log-odds w."""
        p, s = self.heads, self.step
        steps = "Independent steps of ±ln((1-a)/a)."
        return {
            "drift": Truth((2 * p - 1) * s, source=steps, trial=self._drift),
            "variance_per_toss": Truth(4 * p * (1 - p) * s**2, source=steps, trial=self._variance),
            "changes_of_mind": Truth(
                self.changes, source="Σ_k ½ C(2k, k) (p(1-p))^k; Feller 1968, chapter III.", trial=self._count
            ),
            **mixture_truths(*self.sample, self.log_odds, _no_favourite),
        }

    def walks(self, generator: torch.Generator) -> np.ndarray:
        """Log-odds in units of s after every toss, shape (4000, tosses)."""
        heads = torch.rand(_WALKS, self.tosses, generator=generator, dtype=torch.float64) < self.heads
        return np.cumsum(2 * heads.numpy().astype(int) - 1, axis=1)

    def _drift(self, generator: torch.Generator) -> Measurement:
        ends = self.walks(generator)[:, -1] * self.step / self.tosses
        return trial_result("drift", ends.mean(), ends.std(ddof=1) / math.sqrt(_WALKS))

    def _variance(self, generator: torch.Generator) -> Measurement:
        ends = self.walks(generator)[:, -1] * self.step
        squares = (ends - ends.mean()) ** 2 / self.tosses
        value = squares.sum() / (_WALKS - 1)
        return trial_result("variance_per_toss", value, squares.std() / math.sqrt(_WALKS))

    def _count(self, generator: torch.Generator) -> Measurement:
        """Mean number of times that the walk passes through 0."""
        walk = self.walks(generator)
        crossed = (walk[:, :-2] * walk[:, 2:] < 0) & (walk[:, 1:-1] == 0)
        found = crossed.sum(1).astype(float)
        return trial_result("changes_of_mind", found.mean(), found.std(ddof=1) / math.sqrt(_WALKS))

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """Some walks of the log-odds, and two standard deviations of theory."""
        axes = figure.add_subplot()
        n = np.arange(1, self.tosses + 1)
        for walk in self.walks(self.generator())[:12]:
            axes.plot(n, walk * self.step, lw=0.8, alpha=0.7)
        middle = (2 * self.heads - 1) * self.step * n
        band = 2 * np.sqrt(4 * self.heads * (1 - self.heads) * n) * self.step
        axes.plot(n, middle, "k--", lw=1, label="theory: mean")
        axes.fill_between(
            n, middle - band, middle + band, color="grey", alpha=0.2, label="± 2 standard deviations"
        )
        axes.set(
            xlabel="tosses",
            ylabel="log-odds of the second expert",
            title=f"p = {self.heads}, a = {self.expert}",
        )
        axes.legend()


def _no_favourite(toy: BernoulliExperts) -> Tensor:
    return torch.zeros(1, dtype=torch.float64)


TOY = BernoulliExperts

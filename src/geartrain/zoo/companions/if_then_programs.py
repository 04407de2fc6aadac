r"""Two programs that agree on all the past: the prior decides for ever.

Program A repeats a pattern of bits. Program B says "if the time is before $T$, the same; then the opposite". It is $c$
bits longer, so Solomonoff's prior gives it the weight $2^{-c}$ relative to A. Both allow for noise: they expect their
bit with probability $1 - \varepsilon$.

**Before T** every observation is as likely under A as under B. The likelihood ratio is 1, and the posterior odds stay
$2^{-c}$ after any amount of data. If "the same for ever" and "the same until Tuesday" differ by a few bits only, no
amount of past data makes the second one negligible: induction rests on the prior.

**After T** they disagree on every bit. If B is true, the log-odds for it move by $\pm\Lambda$, $\Lambda =
\ln\frac{1-\varepsilon}{\varepsilon}$, and after $n$ observations they have
$$\text{mean } -c\ln 2 + n(1 - 2\varepsilon)\Lambda, \qquad \text{variance } 4n\varepsilon(1-\varepsilon)\Lambda^2.$$
So a believer in A is converted after about $c\ln 2/((1-2\varepsilon)\Lambda)$ surprises: $c$ bits of prejudice cost $c$
bits of evidence.

**The instruments** look at the Bayesian mixture at its prior, $w = -c\ln 2$, on observations from both sides of $T$ in
which B is right. On the past ones the loss does not depend on $w$ at all: their gradients are zero, and they fill
the null space of the tangent kernel.

**What to vary.** `bits` ($c$), `noise` ($\varepsilon$), `past` and `future` observations.

Sources: textbook (Bayes' rule); Solomonoff 1964 (Information and Control 7:1).
Ledger: 3.21.
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
from geartrain.zoo._base import Toy, Truth, trial_result
from geartrain.zoo.companions._mixture import mixture_objective, mixture_truths

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_REPEATS = 4000


@dataclass(frozen=True)
class IfThenPrograms(Toy):
    """A program and its twin with an exception, c bits longer.

    Attributes:
        bits: c, by which the second program is longer, above 0.
        noise: ε, share of bits that both expect to be wrong, above 0 and below ½.
        past: Observations before T, on which the two agree.
        future: Observations after T, on which they do not.
        seed: Draws pattern and noise of the observations that the instruments see.
    """

    title: ClassVar[str] = "If the past, then the future"
    ledger: ClassVar[tuple[str, ...]] = ("3.21",)

    bits: float = 3.0
    noise: float = 0.2
    past: int = 40
    future: int = 20

    def __post_init__(self) -> None:
        if not 0 < self.bits <= 50:
            raise InputError(f"bits is {self.bits}; allowed: above 0, up to 50.")
        if not 0 < self.noise < 0.5:
            raise InputError(f"noise is {self.noise}; allowed: above 0 and below ½.")
        if self.past < 1 or self.future < 2 or self.past + self.future > 100:
            raise InputError(
                f"past is {self.past} and future {self.future}; allowed: 1 or more and 2 or more, at most 100 together."
            )

    # ------------------------------------------------------------------ how it is made

    @property
    def log_odds(self) -> float:
        """Prior log-odds of the longer program, -c ln 2."""
        return -self.bits * math.log(2)

    @property
    def weight_of_evidence(self) -> float:
        """Λ = ln((1 - ε)/ε), by which an observation after T moves the log-odds."""
        return math.log((1 - self.noise) / self.noise)

    def predictions(self, pattern: np.ndarray, same: np.ndarray) -> np.ndarray:
        """Probabilities of a one by A and by B, shape (..., 2), for bits of the pattern and whether B repeats them."""
        says = np.stack([pattern, np.where(same, pattern, ~pattern)], -1)
        return np.where(says, 1 - self.noise, self.noise)

    @cached_property
    def sample(self) -> tuple[np.ndarray, np.ndarray]:
        """Predictions, shape (past + future, 2), and observations in which B is right but for the noise."""
        count, source = self.past + self.future, self.generator()
        pattern = (torch.rand(count, generator=source) < 0.5).numpy()
        flipped = (torch.rand(count, generator=source, dtype=torch.float64) < self.noise).numpy()
        same = np.arange(count) < self.past
        return self.predictions(pattern, same), (pattern ^ ~same ^ flipped).astype(float)

    def make_objective(self) -> Objective:
        """Mean log-loss of the mixture at its prior."""
        return mixture_objective(*self.sample, self.log_odds)

    # ------------------------------------------------------------------ what is known

    def truths(self) -> dict[str, Truth]:
        """Odds before and after T; derivatives of the mixture."""
        n, evidence = self.future, self.weight_of_evidence
        steps = "Each observation after T moves the log-odds by ±ln((1-ε)/ε)."
        return {
            "odds_after_the_past": Truth(
                2.0**-self.bits, 1e-9, source="The likelihood ratio is 1 before T.", trial=self._past_odds
            ),
            "log_odds_after_the_break": Truth(
                self.log_odds + n * (1 - 2 * self.noise) * evidence, source=steps, trial=self._mean
            ),
            "variance_after_the_break": Truth(
                4 * n * self.noise * (1 - self.noise) * evidence**2, source=steps, trial=self._variance
            ),
            **mixture_truths(*self.sample, self.log_odds, _undecided),
        }

    def updated(self, generator: torch.Generator, same: bool, count: int) -> np.ndarray:
        """Posterior log-odds of B by Bayes' rule, bit by bit, where B is true; shape (4000, count)."""
        pattern = (torch.rand(_REPEATS, count, generator=generator) < 0.5).numpy()
        flipped = (torch.rand(_REPEATS, count, generator=generator, dtype=torch.float64) < self.noise).numpy()
        ones = self.predictions(pattern, np.full(pattern.shape, same))
        seen = (pattern if same else ~pattern) ^ flipped
        likelihood = np.where(seen[..., None], ones, 1 - ones)
        return self.log_odds + np.log(likelihood[..., 1] / likelihood[..., 0]).cumsum(1)

    def _past_odds(self, generator: torch.Generator) -> Measurement:
        """Odds farthest from the prior's in 4000 pasts."""
        odds = np.exp(self.updated(generator, True, self.past))
        return trial_result("odds_after_the_past", odds.flat[np.abs(odds - 2.0**-self.bits).argmax()])

    def _mean(self, generator: torch.Generator) -> Measurement:
        found = self.updated(generator, False, self.future)[:, -1]
        error = found.std(ddof=1) / math.sqrt(_REPEATS)
        return trial_result("log_odds_after_the_break", found.mean(), error)

    def _variance(self, generator: torch.Generator) -> Measurement:
        found = self.updated(generator, False, self.future)[:, -1]
        squares = (found - found.mean()) ** 2
        error = squares.std() / math.sqrt(_REPEATS)
        return trial_result("variance_after_the_break", squares.sum() / (_REPEATS - 1), error)

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """Log-odds of the longer program before and after the two part ways."""
        axes = figure.add_subplot()
        after = self.updated(self.generator(), False, self.future)[:8]
        for walk in after:
            flat = np.full(self.past + 1, self.log_odds)
            axes.plot(np.arange(-self.past, self.future + 1), np.append(flat, walk), lw=0.8, alpha=0.7)
        n = np.arange(self.future + 1)
        mean = self.log_odds + n * (1 - 2 * self.noise) * self.weight_of_evidence
        axes.plot(n, mean, "k--", label="theory: mean")
        axes.axhline(0, color="grey", lw=0.8)
        axes.set(
            xlabel="observations after T",
            ylabel="log-odds of the longer program",
            title=f"c = {self.bits:g} bits",
        )
        axes.legend()


def _undecided(toy: IfThenPrograms) -> Tensor:
    return torch.zeros(1, dtype=torch.float64)


TOY = IfThenPrograms

r"""A redundant prior: many copies against one short program.

Programs that predict a coin. One short program says $q_0$; many longer ones all say $q_1$, each with a small prior of
its own. The copies are redundant, one function written in many ways, and a network is full of such copies. Two ways
to learn:

* the **mixture** predicts with the posterior mean over all programs, so copies count together;
* **MAP** follows the single most probable program, so each copy counts alone.

**Which is better?** If the truth is drawn from the prior, the mixture is the best predictor there is: its expected
log-loss on $n$ tosses is the entropy $H(X^n)$ of the data, and that of any other predictor $Q$ is larger by the
divergence of the data's law $P$ from $Q$. MAP loses most where the copies together outweigh the short program, but
none of them does alone: it starts on the wrong side and needs data to leave it.

**What knowing costs.** Someone who knows the coin has expected loss $n\sum_i\pi_i h(q_i)$. The mixture's excess over
that is the mutual information between coin and data: at most the entropy $H(\pi)$ of the coins, for ever.

**All of it is exact.** Everything depends on the data through the number of tosses and of heads, so that the expected
losses are sums over a triangle of $(t, h)$ with binomial weights.

**What to vary.** `coins` ($q_0, q_1$), `alone` (prior of the short program), `copies`, `tosses`.

Sources: textbook (Bayes risk; Cover, Thomas 2006, chapter 13).
Ledger: 3.35.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from geartrain.errors import InputError
from geartrain.records import Measurement
from geartrain.zoo._base import Toy, Truth, trial_result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_REPEATS = 4000


@dataclass(frozen=True)
class RedundantPrior(Toy):
    """One short program for a coin, and many copies of another.

    Attributes:
        coins: q₀ and q₁, probabilities of heads, different and above 0 and below 1.
        alone: Prior of the short program, above 0 and below 1; the copies share the rest equally.
        copies: Number of copies.
        tosses: n.
        seed: Not used: nothing is random in making it.
    """

    title: ClassVar[str] = "A redundant prior"
    ledger: ClassVar[tuple[str, ...]] = ("3.35",)

    coins: tuple[float, float] = (0.2, 0.6)
    alone: float = 0.2
    copies: int = 16
    tosses: int = 30

    def __post_init__(self) -> None:
        if len(self.coins) != 2 or not all(0 < q < 1 for q in self.coins) or self.coins[0] == self.coins[1]:
            raise InputError(f"coins is {self.coins}; allowed: two different numbers above 0 and below 1.")
        if not 0 < self.alone < 1:
            raise InputError(f"alone is {self.alone}; allowed: above 0 and below 1.")
        if self.copies < 1:
            raise InputError(f"copies is {self.copies}; allowed: 1 or more.")
        if not 1 <= self.tosses <= 500:
            raise InputError(f"tosses is {self.tosses}; allowed: 1 to 500.")

    # ------------------------------------------------------------------ how it is made

    @property
    def prior(self) -> np.ndarray:
        """Of the two coins, copies taken together."""
        return np.array([self.alone, 1 - self.alone])

    def log_posterior(self, tosses: np.ndarray, heads: np.ndarray, single: bool) -> np.ndarray:
        """Ln of prior x likelihood of the short program and of the copies (one of them, or all), shape (..., 2)."""
        q = np.array(self.coins)
        counted = self.prior / np.array([1, self.copies if single else 1])
        return np.log(counted) + heads[..., None] * np.log(q) + (tosses - heads)[..., None] * np.log(1 - q)

    def predict(self, tosses: np.ndarray, heads: np.ndarray, *, mixture: bool) -> np.ndarray:
        """Probability of heads on the next toss, by the mixture or by MAP."""
        scores = self.log_posterior(tosses, heads, single=not mixture)
        if not mixture:
            return np.array(self.coins)[scores.argmax(-1)]
        weight = np.exp(scores - scores.max(-1, keepdims=True))
        return weight @ np.array(self.coins) / weight.sum(-1)

    # ------------------------------------------------------------------ what is known

    @cached_property
    def entropy(self) -> float:
        """H(X^n) of the data, in nats: C(n, h) sequences of each number of heads h."""
        n, total = self.tosses, 0.0
        for h in range(n + 1):
            chance = sum(w * q**h * (1 - q) ** (n - h) for w, q in zip(self.prior, self.coins, strict=True))
            total -= math.comb(n, h) * chance * math.log(chance)
        return total

    @cached_property
    def map_loss(self) -> float:
        """Expected cumulative log-loss of MAP: a sum over tosses, heads so far, and coins."""
        total = 0.0
        for t in range(self.tosses):
            h = np.arange(t + 1)
            said = self.predict(np.full(t + 1, t), h, mixture=False)
            ways = np.array([float(math.comb(t, i)) for i in h])
            for weight, q in zip(self.prior, self.coins, strict=True):
                loss = -(q * np.log(said) + (1 - q) * np.log(1 - said))
                total += weight * float(ways * q**h * (1 - q) ** (t - h) @ loss)
        return total

    @property
    def informed_loss(self) -> float:
        """Expected loss of someone who knows the coin."""
        q = np.array(self.coins)
        return self.tosses * float(self.prior @ -(q * np.log(q) + (1 - q) * np.log(1 - q)))

    def truths(self) -> dict[str, Truth]:
        """Expected losses of the mixture, of MAP, and of someone who knows."""
        bayes = "The mixture's probability of a sequence is the data's own."
        return {
            "mixture_loss": Truth(self.entropy, source=f"H(X^n). {bayes}", trial=self._mixture),
            "map_loss": Truth(self.map_loss, source="Sum over (t, h).", trial=self._map),
            "price_of_map": Truth(
                self.map_loss - self.entropy,
                source=f"A divergence, never negative. {bayes}",
                trial=self._price,
            ),
            "informed_loss": Truth(
                self.informed_loss, source="Entropies of the coins.", trial=self._informed
            ),
        }

    def losses(self, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Cumulative log-loss of mixture, MAP and the informed on the same 4000 random sequences, each (4000,)."""
        second = (torch.rand(_REPEATS, 1, generator=generator, dtype=torch.float64) >= self.alone).numpy()
        q = np.where(second, self.coins[1], self.coins[0])
        x = torch.rand(_REPEATS, self.tosses, generator=generator, dtype=torch.float64).numpy() < q
        heads = np.cumsum(x, axis=1) - x
        t = np.broadcast_to(np.arange(self.tosses), heads.shape)
        said = self.predict(t, heads, mixture=True), self.predict(t, heads, mixture=False), q
        mixture, single, informed = (-np.log(np.where(x, p, 1 - p)).sum(1) for p in said)
        return mixture, single, informed

    def _mixture(self, generator: torch.Generator) -> Measurement:
        return _mean("mixture_loss", self.losses(generator)[0])

    def _map(self, generator: torch.Generator) -> Measurement:
        return _mean("map_loss", self.losses(generator)[1])

    def _price(self, generator: torch.Generator) -> Measurement:
        """On the same sequences, so that what both lose cancels."""
        mixture, single, _ = self.losses(generator)
        return _mean("price_of_map", single - mixture)

    def _informed(self, generator: torch.Generator) -> Measurement:
        return _mean("informed_loss", self.losses(generator)[2])

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """Regret of both against the number of tosses."""
        axes = figure.add_subplot()
        n = np.unique(np.linspace(1, self.tosses, 20).astype(int))
        toys = [
            RedundantPrior(coins=self.coins, alone=self.alone, copies=self.copies, tosses=int(t)) for t in n
        ]
        axes.plot(n, [toy.map_loss - toy.informed_loss for toy in toys], label="MAP")
        axes.plot(n, [toy.entropy - toy.informed_loss for toy in toys], label="mixture")
        bound = -float(self.prior @ np.log(self.prior))
        axes.axhline(bound, color="black", ls="--", lw=1, label="entropy of the coins")
        axes.set(xlabel="tosses", ylabel="expected regret (nats)", title=f"{self.copies} copies")
        axes.legend()


def _mean(quantity: str, found: np.ndarray) -> Measurement:
    return trial_result(quantity, found.mean(), found.std(ddof=1) / math.sqrt(len(found)))


TOY = RedundantPrior

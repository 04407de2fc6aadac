r"""A Gaussian latent: two views that know of one another only through what they share.

$X_1 = \Lambda + \sigma\varepsilon_1,\; X_2 = \Lambda + \sigma\varepsilon_2$ with $\Lambda, \varepsilon_1,
\varepsilon_2$ standard normal and independent, in each of $d$ coordinates. The simplest case of a *natural
latent*: given $\Lambda$ the views are independent, and each view alone tells something of it.

**Numbers.** The views correlate by $\rho = 1/(1+\sigma^2)$, so per coordinate, in nats,

$$I(X_1;X_2) = -\tfrac12\ln(1-\rho^2),\qquad I(X_1;X_2\mid\Lambda) = 0,$$
$$I(\Lambda;X_1) = \tfrac12\ln(1+1/\sigma^2),\qquad I(\Lambda;X_1,X_2) = \tfrac12\ln(1+2/\sigma^2),$$

tied together by the chain rule: $I(X_1;X_2) - I(X_1;X_2\mid\Lambda) = I(\Lambda;X_1) + I(\Lambda;X_2) -
I(\Lambda;X_1,X_2)$.

**Mediation and redundancy.** Mediation is exact here (the conditional information is 0). Redundancy is not: the
second view adds $I(\Lambda;X_2\mid X_1) = I(\Lambda;X_1,X_2) - I(\Lambda;X_1) > 0$ as long as there is noise.
Noisy Gaussian views have no exact natural latent but the trivial one.

**A network's side of it.** The best prediction of $X_2$ from $X_1$ is $\rho X_1$, with error $1-\rho^2$ of the
variance: half the logarithm of variance over error *is* the mutual information. Learning to predict one view
from another is estimating what they share.

**The objective** is that regression on a sample, at half the best weights.

**What to vary.** `noise` (σ), `dimension`, `samples`.

Sources: textbook (Cover, Thomas, chapter 8); Wentworth, Lorell 2024 on natural latents.
Ledger: 2.4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from geartrain.errors import InputError
from geartrain.records import Measurement
from geartrain.zoo._base import Truth, trial_result
from geartrain.zoo._linear import LinearModel
from geartrain.zoo._regression import Regression, normal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BATCHES, SIZE = 20, 4000
"""Samples of the simulation, and their size."""


@dataclass(frozen=True)
class GaussianLatent(Regression):
    """Prediction of one noisy view of a latent from another.

    Attributes:
        dimension: Coordinates d of the latent.
        noise: σ of each view.
        samples: Examples of the objective.
    """

    title: ClassVar[str] = "Gaussian latent"
    ledger: ClassVar[tuple[str, ...]] = ("2.4",)

    dimension: int = 3
    noise: float = 0.7
    samples: int = 200

    def __post_init__(self) -> None:
        if not 1 <= self.dimension <= 8 or not 20 * self.dimension <= self.samples <= 2000:
            raise InputError(
                f"dimension is {self.dimension}, samples {self.samples}; allowed: 1 to 8, and from 20 samples "
                "per dimension to 2000."
            )
        if not 0.05 <= self.noise <= 5:
            raise InputError(f"noise is {self.noise}; allowed: 0.05 to 5.")

    # ------------------------------------------------------------------ how it is made

    def views(self, generator: torch.Generator, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Latent and both views, each of shape (count, d)."""
        latent, first, second = (normal(generator, count, self.dimension) for _ in range(3))
        return latent, latent + self.noise * first, latent + self.noise * second

    @property
    def correlation(self) -> float:
        """ρ of the views."""
        return 1 / (1 + self.noise**2)

    @cached_property
    def reference(self) -> np.ndarray:
        """The best weights, ρ times the identity."""
        return self.correlation * np.eye(self.dimension)

    @cached_property
    def linear(self) -> LinearModel:
        """A sample of both views, with the model at half the best weights and a little of the wrong ones."""
        _, first, second = self.views(self.generator(), self.samples)
        wrong = 0.1 * np.cos(np.arange(self.dimension**2)).reshape(self.dimension, -1)
        return LinearModel(first, second, self.reference / 2 + wrong)

    # ------------------------------------------------------------------ what is known

    @property
    def information(self) -> dict[str, float]:
        """Of the views, of one view and of both about the latent, nats."""
        precision = 1 / self.noise**2
        return {
            "views": -self.dimension / 2 * math.log(1 - self.correlation**2),
            "one": self.dimension / 2 * math.log1p(precision),
            "both": self.dimension / 2 * math.log1p(2 * precision),
        }

    def truths(self) -> dict[str, Truth]:
        """Informations, mediation and redundancy; everything about least squares on the sample."""
        source = "Entropies of Gaussians: textbook."
        plugged = partial(
            Truth,
            tolerance=self.dimension**2 / SIZE / self.information["views"],
            assumptions="The estimate from a sample of n is d²/2n too large.",
            source=source,
        )
        known = partial(Truth, source=source)
        told = self.information
        return self.sample_truths() | {
            "mutual_information": plugged(told["views"], trial=self._inform),
            "redundancy_error": plugged(told["both"] - told["one"], trial=self._what_the_second_adds),
            "mediation": known(np.zeros(self.dimension), trial=self._partial_correlation),
            "best_prediction": known(1 - self.correlation**2, 1e-9, trial=self._predict),
        }

    def _over_batches(
        self, generator: torch.Generator, name: str, pairs: list[tuple[str, str, float]]
    ) -> Measurement:
        """Signed sum of mutual informations of groups of columns (l, 1, 2), by determinants, over samples."""
        found = []
        for _ in range(BATCHES):
            columns = dict(zip("l12", self.views(generator, SIZE), strict=True))
            found.append(sum(sign * _information(columns, left, right) for left, right, sign in pairs))
        return trial_result(name, np.mean(found), np.std(found, ddof=1) / math.sqrt(BATCHES), unit="nat")

    def _inform(self, generator: torch.Generator) -> Measurement:
        return self._over_batches(generator, "mutual_information", [("1", "2", 1.0)])

    def _what_the_second_adds(self, generator: torch.Generator) -> Measurement:
        """Information of both views about the latent, less that of the first."""
        return self._over_batches(generator, "redundancy_error", [("l", "12", 1.0), ("l", "1", -1.0)])

    def _partial_correlation(self, generator: torch.Generator) -> Measurement:
        """Correlation of what the latent leaves of both views, coordinate by coordinate."""
        latent, *views = self.views(generator, BATCHES * SIZE)
        rest = [v - latent * ((latent * v).mean(0) / (latent**2).mean(0)) for v in views]
        products = rest[0] * rest[1] / (rest[0].std(0) * rest[1].std(0))
        return trial_result("mediation", products.mean(0), products.std(0) / math.sqrt(len(products)))

    def _predict(self, generator: torch.Generator) -> Measurement:
        """Error of ρX₁ as a share of the variance of X₂."""
        _, first, second = self.views(generator, BATCHES * SIZE)
        squares = ((second - self.correlation * first) ** 2).mean(1) / (1 + self.noise**2)
        return trial_result("best_prediction", squares.mean(), squares.std() / math.sqrt(len(squares)))

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """The views against one another, before and after the latent is taken off; informations over the noise."""
        left, right = figure.subplots(1, 2)
        latent, first, second = self.views(self.generator(), 800)
        left.plot(first[:, 0], second[:, 0], ".", ms=3, label="views")
        left.plot(
            first[:, 0] - latent[:, 0], second[:, 0] - latent[:, 0], ".", ms=3, label="latent taken off"
        )
        left.set(xlabel="first view", ylabel="second view", title=self.title)
        left.legend()
        noises = np.geomspace(0.05, 5, 80)
        toys = [GaussianLatent(dimension=1, noise=float(s)).information for s in noises]
        labels = {"views": "I(X₁; X₂)", "one": "I(Λ; X₁)", "both": "I(Λ; X₁, X₂)"}
        for name, label in labels.items():
            right.semilogx(noises, [t[name] for t in toys], label=label)
        right.set(xlabel="noise σ", ylabel="information (nats per coordinate)")
        right.legend()


def _information(columns: dict[str, np.ndarray], left: str, right: str) -> float:
    """Mutual information of two groups of columns, were they Gaussian."""

    def log_det(names: str) -> float:
        together = np.concatenate([columns[n] for n in names], axis=1)
        return float(np.linalg.slogdet(together.T @ together / len(together))[1])

    return 0.5 * (log_det(left) + log_det(right) - log_det(left + right))


TOY = GaussianLatent

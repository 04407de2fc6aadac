r"""Ridgeless regression: the simplest double descent.

Fit $y = x^\top\beta + \text{noise}$ with $p$ features on $n$ samples by least squares, and where many fits are
perfect take the one of least norm (gradient descent from zero does). Add features: the test error first rises, is
*infinite* where the data can just be interpolated, and then falls again. Double descent needs no network.

**Below the peak**, $p < n$: the fit is unbiased, $\hat\beta - \beta = (X^\top X)^{-1}X^\top\varepsilon$. The mean of an
inverse Wishart matrix is $E(X^\top X)^{-1} = I/(n-p-1)$, so the excess risk is all variance,

$$E\lVert\hat\beta-\beta\rVert^2 = \frac{\sigma^2\, p}{n-p-1}.$$

**Beyond it**, $p > n$: the fit sees the projection of $\beta$ on a random $n$-dimensional subspace, so that a share
$1-n/p$ of its square is lost (bias²); noise enters through $E\,\mathrm{tr}(XX^\top)^{-1} = n/(p-n-1)$:

$$E\lVert\hat\beta-\beta\rVert^2 = r^2\,(1-n/p) + \frac{\sigma^2\, n}{p-n-1}.$$

More features mean that the noise is spread over more directions and hurts less in each.

**At the peak** the smallest singular value $s$ of the square matrix $X$ decides. It has size $1/\sqrt n$:
$P(\sqrt n\, s > x) \to e^{-x^2/2 - x}$ (Edelman 1988), with median $\sqrt{1+2\ln 2}-1$. Because this law has mass
near 0, $1/s^2$ has no mean: the peak is a fat tail, not a typical value. Look at medians there.

**The objective** is the training loss at $\beta/2$, half-way from nothing to the truth.

**What to vary.** `features` (across `samples`), `noise` (at 0 the peak is gone), `signal`. Sample-wise double
descent is the same formula read in `samples`: more data can hurt.

Sources: Hastie, Montanari, Rosset, Tibshirani 2019, arXiv 1903.08560; Edelman 1988 (SIAM J. Matrix Anal. Appl. 9:543);
inverse Wishart moments: textbook.
Ledger: 3.4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
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

RATIOS = (0.2, 0.5, 0.8, 0.9, 1.1, 1.25, 2.0, 4.0, 8.0)
"""Features over samples in the curve that is simulated."""
DRAWS = 60
"""Data sets per point of it."""
SQUARE = 100
"""Largest side of the square matrices whose smallest singular value is looked at."""
_SOURCE = "Moments of the inverse Wishart law; Hastie et al. 2019, arXiv 1903.08560."


@dataclass(frozen=True)
class RidgelessRegression(Regression):
    """Least squares of least norm on isotropic Gaussian inputs.

    Attributes:
        features: Their number p; at least 10 away from ``samples``, where the mean of the risk can be seen.
        samples: Their number n.
        noise: Variance σ² of the labels' noise.
        signal: r² = ‖β‖².
    """

    title: ClassVar[str] = "Ridgeless regression"
    ledger: ClassVar[tuple[str, ...]] = ("3.4",)

    features: int = 100
    samples: int = 200
    noise: float = 0.25
    signal: float = 1.0

    def __post_init__(self) -> None:
        if not 20 <= self.samples <= 500 or not 2 <= self.features <= 2000:
            raise InputError(
                f"samples is {self.samples}, features {self.features}; allowed: 20 to 500 samples, 2 to 2000 features."
            )
        if abs(self.features - self.samples) < 10:
            raise InputError(
                f"features is {self.features}, samples {self.samples}; allowed: 10 or more apart. Nearer, the risk has "
                "so fat a tail that its mean cannot be measured."
            )
        if self.noise <= 0 or self.signal <= 0:
            raise InputError(f"noise is {self.noise}, signal {self.signal}; allowed: numbers above 0.")

    # ------------------------------------------------------------------ how it is made

    @cached_property
    def reference(self) -> np.ndarray:
        """β, all entries equal (the inputs know no direction), shape (1, p)."""
        return np.full((1, self.features), math.sqrt(self.signal / self.features))

    @cached_property
    def linear(self) -> LinearModel:
        """One data set, with the model at half of β."""
        generator = self.generator()
        x = normal(generator, self.samples, self.features)
        y = x @ self.reference.T + math.sqrt(self.noise) * normal(generator, self.samples, 1)
        return LinearModel(x, y, self.reference / 2)

    # ------------------------------------------------------------------ what is known

    @property
    def bias(self) -> float:
        """Squared bias of the fit."""
        return self.signal * max(0.0, 1 - self.samples / self.features)

    @property
    def variance(self) -> float:
        """Its variance."""
        p, n = self.features, self.samples
        return self.noise * min(p, n) / (abs(n - p) - 1)

    @property
    def risk(self) -> float:
        """Excess risk E‖β̂ - β‖²."""
        return self.bias + self.variance

    def truths(self) -> dict[str, Truth]:
        """Bias, variance, curve, peak; everything about least squares on one data set."""
        known = partial(Truth, assumptions="Gaussian inputs and noise, |p - n| ≥ 10.", source=_SOURCE)
        curve = np.array([self._at(ratio).risk for ratio in self._ratios()])
        side = min(self.samples, SQUARE)
        return self.sample_truths() | {
            "bias_variance": known(np.array([self.bias, self.variance]), 1e-9, trial=self._fit_often),
            "double_descent": known(curve, 1e-9, trial=self._curve),
            "smallest_singular_value": Truth(
                math.sqrt(1 + 2 * math.log(2)) - 1,
                1 / side,
                assumptions=f"Limit of large square matrices; side {side} here, with a correction of order 1/side.",
                source="P(√n s > x) → exp(-x²/2 - x); Edelman 1988.",
                trial=self._smallest,
            ),
        }

    def _ratios(self) -> list[float]:
        return [r for r in RATIOS if abs(round(r * self.samples) - self.samples) >= 10]

    def _at(self, ratio: float) -> RidgelessRegression:
        return replace(self, features=max(2, round(ratio * self.samples)))

    def errors(self, generator: torch.Generator) -> np.ndarray:
        """Bias², variance and excess risk of one fit to a fresh data set."""
        p, n = self.features, self.samples
        x, noise = normal(generator, n, p), normal(generator, n) * math.sqrt(self.noise)
        beta = self.reference[0]
        sides = np.stack([x @ beta, noise], axis=1)
        if p < n:
            fits = np.linalg.solve(x.T @ x, x.T @ sides)
        else:
            fits = x.T @ np.linalg.solve(x @ x.T, sides)
        lost, added = fits[:, 0] - beta, fits[:, 1]
        return np.array([lost @ lost, added @ added, ((lost + added) ** 2).sum()])

    def _repeat(self, generator: torch.Generator, draws: int) -> tuple[np.ndarray, np.ndarray]:
        found = np.array([self.errors(generator) for _ in range(draws)])
        return found.mean(0), found.std(0, ddof=1) / math.sqrt(draws)

    def _fit_often(self, generator: torch.Generator) -> Measurement:
        mean, error = self._repeat(generator, 2 * DRAWS)
        return trial_result("bias_variance", mean[:2], error[:2])

    def _curve(self, generator: torch.Generator) -> Measurement:
        """Excess risk from below the peak to far beyond it."""
        found = [self._at(ratio)._repeat(generator, DRAWS) for ratio in self._ratios()]
        return trial_result("double_descent", [m[2] for m, _ in found], [e[2] for _, e in found])

    def _smallest(self, generator: torch.Generator) -> Measurement:
        """Median of √n times the smallest singular value of square matrices."""
        side, draws = min(self.samples, SQUARE), 600
        found = [np.linalg.svd(normal(generator, side, side), compute_uv=False)[-1] for _ in range(draws)]
        median = float(np.median(found)) * math.sqrt(side)
        density = (median + 1) * math.exp(-(median**2) / 2 - median)
        return trial_result("smallest_singular_value", median, 1 / (2 * density * math.sqrt(draws)))

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """Risk over p/n: theory, bias, and simulated fits."""
        axes = figure.add_subplot()
        below, above = np.geomspace(0.05, 0.94, 60), np.geomspace(1.06, 8, 60)
        for side, ratios in enumerate((below, above)):
            toys = [self._at(r) for r in ratios if abs(round(r * self.samples) - self.samples) >= 10]
            x = [t.features / t.samples for t in toys]
            label = "theory" if side else None
            axes.loglog(x, [t.risk for t in toys], color="C0", label=label)
            if side:
                axes.loglog(x, [t.bias for t in toys], color="C1", ls="--", label="bias²")
        generator = self.generator()
        for ratio in self._ratios():
            toy = self._at(ratio)
            mean, error = toy._repeat(generator, 10)
            axes.errorbar(ratio, mean[2], error[2], fmt="o", color="C3", ms=4)
        axes.axvline(1, color="0.6", ls=":")
        axes.set(xlabel="features per sample p/n", ylabel="excess risk (ℓ)", title=self.title)
        axes.legend()


TOY = RidgelessRegression

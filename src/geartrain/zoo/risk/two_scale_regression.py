r"""Two scales: double descent over training time, in a model that is linear.

Fifty features of variance 1 carry little signal, ten of variance 0.002 carry a lot (their coefficients are
large). Gradient descent meets the strong ones first and fits what they can give. In a finite sample they also
correlate, by chance, with what the weak features carry: for the strong ones that is noise, which they fit next,
so that the test error rises. Much later the weak features come in, take their own signal over, and the error
falls a second time. Two clocks, one for each scale, and nothing more, make the curve that looks so strange in
networks.

**Derivation.** Gradient flow from 0 on half the mean squared error with $C = X^\top X/n$ gives

$$\hat\beta(t) = M_t\,X^\top y/n, \qquad M_t = (I - e^{-Ct})\,C^{-1}.$$

A direction of eigenvalue $\lambda$ is learnt as $1 - e^{-\lambda t}$: its clock runs at rate λ. Put $y = X\beta
+ \varepsilon$: the error splits into what is not learnt yet, $-e^{-Ct}\beta$, and noise that is, $M_t
X^\top\varepsilon/n$. Averaged over $\beta$ (independent entries, covariance $S$) and noise of variance
$\sigma^2$, the excess risk under the population's covariance $H$ is

$$R(t) = \mathrm{tr}(H e^{-Ct} S e^{-Ct}) + \frac{\sigma^2}{n}\,\mathrm{tr}(H M_t C M_t).$$

The second term rises. The first falls for the scale that is being learnt, and *rises* in between: $e^{-Ct}$
mixes the scales through the sample's $C$, so that weak signal not learnt yet sits on strong features for a
while.

**The cure** follows: give both scales the same clock (whiten the inputs, or a step size for each), and the
second descent disappears because there is no second clock. Stopping early helps only within a scale.

**The objective** is the training loss at the solution at `time`, which is known in closed form.

**What to vary.** `weak_variance` (1 is the control: a single U), `weak_signal`, `noise`, `strong`, `time`.

Sources: Heckel, Yilmaz 2020, arXiv 2007.10099; Pezeshki et al. 2021, arXiv 2112.03215; Advani, Saxe 2017,
arXiv 1710.03667.
Ledger: 3.4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from scipy.linalg import expm

from geartrain.errors import InputError
from geartrain.records import Measurement
from geartrain.zoo._base import Truth, trial_result
from geartrain.zoo._linear import LinearModel
from geartrain.zoo._regression import Regression, normal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TIMES = (1.0, 30.0, 5000.0)
"""When the risk is simulated."""
DRAWS = 2000
"""Draws of coefficients and noise."""


@dataclass(frozen=True)
class TwoScaleRegression(Regression):
    """Least squares with strong and weak features, trained by gradient flow from zero.

    Attributes:
        samples: Number n of examples.
        strong: Number of features of variance 1.
        weak: Number of weak features.
        weak_variance: Their variance.
        strong_signal: Σβ² over the strong ones.
        weak_signal: Σβ² over the weak ones.
        noise: Variance of the labels' noise.
        time: Of gradient flow, at which the objective is looked at.
    """

    title: ClassVar[str] = "Two-scale regression"
    ledger: ClassVar[tuple[str, ...]] = ("3.4",)

    samples: int = 100
    strong: int = 50
    weak: int = 10
    weak_variance: float = 0.002
    strong_signal: float = 0.5
    weak_signal: float = 500.0
    noise: float = 0.1
    time: float = 30.0

    def __post_init__(self) -> None:
        if self.strong < 1 or self.weak < 0 or not self.strong + self.weak < self.samples <= 400:
            raise InputError(
                f"strong is {self.strong}, weak {self.weak}, samples {self.samples}; allowed: at least one strong "
                "feature, fewer features than samples, at most 400 samples."
            )
        if not 1e-6 <= self.weak_variance <= 1:
            raise InputError(f"weak_variance is {self.weak_variance}; allowed: 1e-6 to 1.")
        if min(self.strong_signal, self.weak_signal, self.noise) < 0 or self.time <= 0:
            raise InputError(
                f"strong_signal is {self.strong_signal}, weak_signal {self.weak_signal}, noise {self.noise}, time "
                f"{self.time}; allowed: numbers of 0 or more, and a time above 0."
            )

    # ------------------------------------------------------------------ how it is made

    @cached_property
    def population(self) -> np.ndarray:
        """Diagonal of H: variances of the features."""
        return np.concatenate([np.ones(self.strong), np.full(self.weak, self.weak_variance)])

    @cached_property
    def prior(self) -> np.ndarray:
        """Diagonal of S: mean square of each coefficient."""
        weak = np.full(self.weak, self.weak_signal / max(self.weak, 1))
        return np.concatenate([np.full(self.strong, self.strong_signal / self.strong), weak])

    @cached_property
    def inputs(self) -> np.ndarray:
        """X, shape (n, features)."""
        shape = self.samples, self.strong + self.weak
        return normal(self.generator(), *shape) * np.sqrt(self.population)

    @cached_property
    def modes(self) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues and eigenvectors of C."""
        values, vectors = np.linalg.eigh(self.inputs.T @ self.inputs / self.samples)
        return values, vectors

    def draw_problem(self, generator: torch.Generator, draws: int) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients (features, draws) and labels (n, draws)."""
        beta = normal(generator, self.strong + self.weak, draws) * np.sqrt(self.prior)[:, None]
        noise = math.sqrt(self.noise) * normal(generator, self.samples, draws)
        return beta, self.inputs @ beta + noise

    def solution(self, targets: np.ndarray, time: float) -> np.ndarray:
        """Where gradient flow is at that time, mode by mode, shape (features, draws)."""
        values, vectors = self.modes
        learnt = -np.expm1(-values * time) / values
        return vectors @ (learnt[:, None] * (vectors.T @ (self.inputs.T @ targets / self.samples)))

    @cached_property
    def linear(self) -> LinearModel:
        """One draw of coefficients and noise, with the model where gradient flow is at `time`."""
        generator = torch.Generator().manual_seed(self.seed + 1)
        _, targets = self.draw_problem(generator, 1)
        return LinearModel(self.inputs, targets, self.solution(targets, self.time).T)

    @cached_property
    def reference(self) -> np.ndarray:
        """The start of training."""
        return np.zeros((1, self.strong + self.weak))

    # ------------------------------------------------------------------ what is known

    def parts(self, time: float) -> tuple[float, float]:
        """Excess risk from what is not learnt yet, and from noise that is."""
        c = self.inputs.T @ self.inputs / self.samples
        left = expm(-c * time)
        learnt = np.linalg.solve(c, np.eye(len(c)) - left)
        missing = float(np.einsum("i,ij,j,ji->", self.population, left, self.prior, left))
        fitted = float((self.population * np.diag(learnt @ c @ learnt)).sum())
        return missing, self.noise / self.samples * fitted

    def risk(self, time: float) -> float:
        """Excess risk, averaged over coefficients and noise, for these inputs."""
        return sum(self.parts(time))

    def valleys(self, times: np.ndarray) -> int:
        """Number of local minima of the risk over a grid of times, the end included."""
        curve = np.array([self.risk(t) for t in times])
        falls = np.diff(curve) < 0
        return int((falls[:-1] & ~falls[1:]).sum()) + int(falls[-1])

    def truths(self) -> dict[str, Truth]:
        """Risk over time and its parts; everything about least squares on one draw."""
        known = partial(
            Truth,
            tolerance=1e-7,
            assumptions="These inputs; coefficients and noise independent.",
            source="Gradient flow mode by mode; Advani, Saxe 2017, arXiv 1710.03667.",
        )
        truths = self.sample_truths()
        return truths | {
            "risk": known(np.array([self.risk(t) for t in TIMES]), trial=partial(self._train_often, TIMES)),
            "risk.parts": known(np.array(self.parts(self.time)), trial=self._signal_and_noise),
        }

    def _excess(self, error: np.ndarray) -> np.ndarray:
        return (self.population[:, None] * error**2).sum(0)

    def _train_often(self, times: Sequence[float], generator: torch.Generator) -> Measurement:
        """Excess risk of gradient flow over draws of coefficients and noise."""
        beta, targets = self.draw_problem(generator, DRAWS)
        found = np.array([self._excess(self.solution(targets, t) - beta) for t in times])
        return trial_result("risk", found.mean(1), found.std(1, ddof=1) / math.sqrt(DRAWS))

    def _signal_and_noise(self, generator: torch.Generator) -> Measurement:
        """Training on labels without noise, and on noise alone."""
        beta, targets = self.draw_problem(generator, DRAWS)
        clean = self.inputs @ beta
        missing = self._excess(self.solution(clean, self.time) - beta)
        fitted = self._excess(self.solution(targets - clean, self.time))
        found = np.stack([missing, fitted])
        return trial_result("risk.parts", found.mean(1), found.std(1, ddof=1) / math.sqrt(DRAWS))

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """Risk over time, and its two parts."""
        axes = figure.add_subplot()
        times = np.geomspace(0.1, 100 / self.population.min(), 80)
        parts = np.array([self.parts(t) for t in times])
        axes.loglog(times, parts.sum(1), label="excess risk")
        axes.loglog(times, parts[:, 0], ls="--", label="not learnt yet")
        axes.loglog(times, np.maximum(parts[:, 1], 1e-12), ls=":", label="fitted noise")
        for variance in np.unique(self.population):
            axes.axvline(1 / variance, color="0.7", lw=0.8)
        axes.set(
            xlabel="training time (1/variance)",
            ylabel="excess risk (ℓ)",
            title=self.title,
            ylim=(parts.sum(1).min() / 30, parts.sum(1).max() * 2),
        )
        axes.legend()


TOY = TwoScaleRegression

r"""Logistic regression in high dimension: maximum likelihood is overconfident, by a number that theory gives.

Labels $y \sim \mathrm{Bernoulli}(\sigma(x^\top\beta))$: a logistic model is *right*, and yet with $p = \kappa
n$ coefficients the maximum-likelihood fit on $n$ examples is not calibrated. Its coefficients are too large by
a factor $\alpha^* > 1$, plus noise, however large $n$ is. Overconfidence needs neither depth nor a wrong model,
only $p/n$ that does not vanish.

**The predictor that knows β** has scores $z \sim N(0, \gamma^2)$ and calibration error 0: among the examples
with score $z$ a share $\sigma(z)$ is positive, by definition. Its temperature is 1. Margins $m = \pm z$ (sign:
the label) have the density $2\varphi_\gamma(m)\,\sigma(m)$, and an answer of confidence $\sigma(|z|)$ is wrong
with probability $\sigma(-|z|)$.

**The fit.** In the limit of large $n$ and $p$, $\hat\beta_j \approx \alpha^*\beta_j + \sigma^*\cdot$ noise of
unit variance (Sur, Candès 2018), where, with $\rho(t) = \ln(1+e^t)$, $Q_1, Q_2$ Gaussian with covariance
$\begin{pmatrix}\gamma^2 & -\alpha\gamma^2\\ -\alpha\gamma^2 & \alpha^2\gamma^2+\kappa\sigma^2\end{pmatrix}$ and
$P = \mathrm{prox}_{\lambda\rho}(Q_2)$,

$$\sigma^2 = \kappa^{-2}\,E[2\rho'(Q_1)\,(\lambda\rho'(P))^2],\quad 0 = E[\rho'(Q_1)\,Q_1\,\lambda\rho'(P)],\quad
1-\kappa = E\Big[\frac{2\rho'(Q_1)}{1+\lambda\rho''(P)}\Big].$$

Its score $z' = x^\top\hat\beta$ and the true one are jointly Gaussian, $z \mid z' \sim N(c z', v)$ with $c =
\alpha\gamma^2/s^2$, $s^2 = \alpha^2\gamma^2+\kappa\sigma^2$. So what really happens at score $z'$ is $q(z') =
E\,\sigma(cz' + \sqrt v\,\xi)$ instead of $\sigma(z')$: the reliability curve, the gap, and the temperature that
mends most of it follow by one-dimensional integrals.

**Existence.** Beyond $\kappa = \min_t E(Z - tV)_+^2$ ($Z$ normal, $V$ with density $2\varphi(v)\sigma(\gamma
v)$) the examples can be separated and the fit runs off to infinity (Candès, Sur 2018).

**The objective** is the cross-entropy of the true β on fresh examples in few dimensions; the calibration of the
fit is looked at on the same examples, with a coefficient vector made to have exactly its limiting α and σ.

**What to vary.** `ratio` (κ → 0: no overconfidence), `strength` (γ²).

Sources: Sur, Candès 2018, arXiv 1803.06964; Candès, Sur 2018, arXiv 1804.09753; Bai et al. 2021, arXiv
2102.07856.
Ledger: 3.30.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from scipy.optimize import brentq, minimize_scalar, root
from scipy.special import expit
from scipy.stats import norm
from torch import nn

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.records import Measurement
from geartrain.zoo._base import Toy, Truth, trial_result
from geartrain.zoo._linear import linear
from geartrain.zoo._matrices import (
    curvature_truths,
    example_truths,
    kernel_truths,
    linear_layer,
    linear_pair_truths,
)
from geartrain.zoo._regression import FEW, normal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BINS = 15
"""Of the calibration error."""
FITS, COEFFICIENTS = 16, 160
"""Of the simulated fits: how many, and their dimension."""
_SOURCE = "Sur, Candès 2018, arXiv 1803.06964; integrals over a Gaussian."


@dataclass(frozen=True)
class LogisticCalibration(Toy):
    """Logistic regression: the predictor that knows the truth, and the maximum-likelihood fit.

    Attributes:
        ratio: κ = p/n of the fit.
        strength: γ², variance of the true scores.
        dimension: Of the inputs of the objective.
        examples: Fresh examples on which calibration is looked at.
    """

    title: ClassVar[str] = "Calibration of logistic regression"
    ledger: ClassVar[tuple[str, ...]] = ("3.30",)

    ratio: float = 0.2
    strength: float = 5.0
    dimension: int = 6
    examples: int = 4000

    def __post_init__(self) -> None:
        if not 0.01 <= self.strength <= 30 or not 0.01 <= self.ratio < 0.5:
            raise InputError(
                f"strength is {self.strength}, ratio {self.ratio}; allowed: 0.01 to 30, and 0.01 to below 0.5."
            )
        if self.ratio > 0.9 * self.boundary:
            raise InputError(
                f"ratio is {self.ratio}; allowed: up to {0.9 * self.boundary:.4g} at this strength. Beyond "
                f"{self.boundary:.4g} the examples are separable and there is no fit."
            )
        if not 2 <= self.dimension <= 50 or not 500 <= self.examples <= 100_000:
            raise InputError(
                f"dimension is {self.dimension}, examples {self.examples}; allowed: 2 to 50, and 500 to 100,000."
            )

    # ------------------------------------------------------------------ how it is made

    @cached_property
    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Inputs N(0, I/d) and labels 0 and 1, shapes (examples, d) and (examples, 1)."""
        generator = self.generator()
        x = normal(generator, self.examples, self.dimension) / math.sqrt(self.dimension)
        toss = torch.rand(self.examples, 1, generator=generator, dtype=torch.float64).numpy()
        return x, (toss < expit(x @ self.truth_weights.T)).astype(float)

    @cached_property
    def truth_weights(self) -> np.ndarray:
        """β, with Var(xᵀβ) = γ², shape (1, d)."""
        return np.full((1, self.dimension), math.sqrt(self.strength))

    @cached_property
    def fitted_weights(self) -> np.ndarray:
        """α*β and, at right angles to it, noise of the size that a fit has: Var(xᵀβ̂) = α²γ² + κσ²."""
        alpha, sigma, _ = self.limit
        across = np.zeros((1, self.dimension))
        across[0, :2] = 1, -1
        size = math.sqrt(self.ratio * self.dimension / 2) * sigma
        return alpha * self.truth_weights + size * across

    def at(self, weights: np.ndarray) -> Objective:
        """Cross-entropy of these weights on the data."""
        x, y = (torch.from_numpy(part) for part in self.data)
        return Objective(linear(weights), nn.functional.binary_cross_entropy_with_logits, (x, y))

    def make_objective(self) -> Objective:
        """The predictor that knows β."""
        return self.at(self.truth_weights)

    # ------------------------------------------------------------------ what is known

    @property
    def boundary(self) -> float:
        """Largest κ at which the fit exists."""
        return _boundary(math.sqrt(self.strength))

    @cached_property
    def limit(self) -> tuple[float, float, float]:
        """α*, σ*, λ*."""
        return _solve(self.ratio, self.strength)

    @property
    def score_variance(self) -> float:
        """Variance s² of the fit's scores."""
        alpha, sigma, _ = self.limit
        return alpha**2 * self.strength + self.ratio * sigma**2

    def happens(self, score: np.ndarray) -> np.ndarray:
        """q: how often the label is 1 where the fit's score is this."""
        slope = self.limit[0] * self.strength / self.score_variance
        spread = math.sqrt(max(self.strength - slope**2 * self.score_variance, 0.0))
        nodes, weights = _hermite(60)
        return expit(slope * score[:, None] + spread * nodes) @ weights

    def truths(self) -> dict[str, Truth]:
        """Calibration of the truth and of the fit; curvature and noise of the logistic loss on the data."""
        alpha, sigma, _ = self.limit
        fit = partial(Truth, source=_SOURCE, assumptions="Limit of large n and p.")
        return {
            **self._on_the_data(),
            **self._of_the_true_predictor(),
            **self._of_the_fit(),
            "inflation": fit(np.array([alpha, sigma]), 0.02, trial=self._fit_often),
            "phase_boundary": fit(
                np.array([1.0, 0.0]),
                0.02,
                trial=self._separate,
                assumptions="40 % below and 60 % above the boundary.",
            ),
        }

    def _on_the_data(self) -> dict[str, Truth]:
        """Exact on these examples: Hessian XᵀDX/n with D = σ(1 - σ), gradients (σ - y)x."""
        x, y = self.data
        score = x @ self.truth_weights.T
        says = expit(score)
        hessian = (x * says * (1 - says)).T @ x / len(x)
        rows, share = (says - y) * x, float(y.mean())
        loss = float((np.logaddexp(0, score) - y * score).mean())
        how: dict[str, Any] = {"layers": (self.dimension,), "source": "Logistic loss: textbook."}
        truths = curvature_truths(hessian, rows.mean(0), loss=loss, **how) | example_truths(
            rows, hessian, **how
        )
        kernel = kernel_truths(linear_layer(x[:FEW], 1), y[:FEW])
        truths |= {name: replace(truth, subject=_first_few) for name, truth in kernel.items()}
        other = self.fitted_weights
        truths |= linear_pair_truths(self.truth_weights.ravel(), other.ravel(), _at_fit)
        del truths["linear_connectivity"]  # of a convex loss it is what the line says, not 0 on a sample
        entropy = -(share * math.log(share) + (1 - share) * math.log(1 - share))
        exact = partial(Truth, source="Definition, on these examples.")
        return truths | {
            "constant_loss": exact(entropy, 1e-5),
            "label_balance": exact(max(share, 1 - share), strict=True),
            "weight_norm": exact(np.array([np.linalg.norm(self.truth_weights)])),
            "output_probability": exact(0.0),
            "loss_match": exact(1.0),
            "output_target_match": exact(1.0),
            "input_affinity": exact(0.0, 1e-6),
        }

    def _of_the_true_predictor(self) -> dict[str, Truth]:
        """Properties of scores N(0, γ²) that are right."""
        gamma = math.sqrt(self.strength)
        known = partial(
            Truth, source="Scores are N(0, γ²); a label agrees with its score's sign with σ(|z|)."
        )
        levels = np.array([0.05, 0.25, 0.5, 0.75, 0.95])
        z, weights = _grid(gamma)
        order = 2 * norm.sf(z / gamma)  # share of examples that are surer
        risk = float(-2 * weights @ (expit(-z) * np.log(order)))
        surely = float(2 * weights @ expit(z))
        return {
            "calibration_error": known(0.0),
            "calibration_error.overconfidence": known(0.0, reading="overconfidence"),
            "temperature": known(1.0),
            "margin_distribution": known(np.array([_margin_quantile(gamma, u) for u in levels]), 1e-6),
            "selective_risk": known(risk, 2 * math.log(self.examples) / self.examples / risk),
            "accuracy": known(surely, 1e-9, trial=self._count_hits),
        }

    def _of_the_fit(self) -> dict[str, Truth]:
        """Its reliability: says σ(z'), happens q(z')."""
        z, weights = _grid(math.sqrt(self.score_variance))
        says, happens = expit(z), self.happens(z)
        known = partial(Truth, source=_SOURCE, assumptions="Limit of large n and p.", subject=_at_fit)
        gaps = (happens - says) * weights * 2
        place = np.minimum((np.cumsum(2 * weights) * BINS).astype(int), BINS - 1)
        squared = float((np.bincount(place, gaps, BINS) ** 2).sum() * BINS)
        scale = brentq(lambda b: float(weights @ (z * (expit(b * z) - happens))), 1e-3, 10)
        before = partial(known, instrument="calibration_error")
        return {
            "fit.squared_calibration_error": before(squared, 2e-3, reading="squared"),
            "fit.overconfidence": before(float(-gaps.sum()), 1e-4, reading="overconfidence"),
            "fit.temperature": known(1 / float(scale), 1e-4, instrument="temperature"),  # type: ignore[arg-type]
        }

    def _count_hits(self, generator: torch.Generator) -> Measurement:
        """Right answers of the true predictor on fresh scores."""
        z = math.sqrt(self.strength) * normal(generator, 50_000)
        y = torch.rand(50_000, generator=generator, dtype=torch.float64).numpy() < expit(z)
        right = (z > 0) == y
        return trial_result("accuracy", right.mean(), right.std() / math.sqrt(len(z)))

    def fit(self, generator: torch.Generator, size: int) -> tuple[float, float]:
        """Slope on β and remaining spread of one maximum-likelihood fit with so many coefficients."""
        n = round(size / self.ratio)
        x = normal(generator, n, size) / math.sqrt(n)
        beta = np.full(size, math.sqrt(self.strength * n / size))
        y = torch.rand(n, generator=generator, dtype=torch.float64).numpy() < expit(x @ beta)
        w = maximum_likelihood(x, y, self.limit[0] * beta)
        slope = float(w @ beta / (beta @ beta))
        return slope, float((w - slope * beta).std(ddof=1))

    def _fit_often(self, generator: torch.Generator) -> Measurement:
        found = np.array([self.fit(generator, COEFFICIENTS) for _ in range(FITS)])
        return trial_result("inflation", found.mean(0), found.std(0, ddof=1) / math.sqrt(FITS))

    def _separate(self, generator: torch.Generator) -> Measurement:
        """Share of samples at which a fit exists, 40 % below and 60 % above the boundary."""
        found = []
        for factor in (0.6, 1.6):
            size = 100
            n = round(size / (factor * self.boundary))
            beta = np.full(size, math.sqrt(self.strength / size))
            there = []
            for _ in range(4):
                x = normal(generator, n, size)
                y = torch.rand(n, generator=generator, dtype=torch.float64).numpy() < expit(x @ beta)
                there.append(not separable(x, y))
            found.append(np.mean(there))
        return trial_result("phase_boundary", found)

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """What the fit says against what happens; inflation against p/n."""
        left, right = figure.subplots(1, 2)
        z = np.linspace(-3, 3, 100) * math.sqrt(self.score_variance)
        left.plot(expit(z), self.happens(z), label="maximum likelihood")
        left.plot([0, 1], [0, 1], "k:", label="the truth known")
        left.set(xlabel="probability said", ylabel="probability that happens", title=self.title)
        left.legend()
        ratios = np.linspace(0.02, 0.85 * self.boundary, 12)
        right.plot(ratios, [replace(self, ratio=float(r)).limit[0] for r in ratios])
        right.plot(self.ratio, self.limit[0], "o", color="C3")
        right.axvline(self.boundary, color="0.6", ls=":")
        right.set(xlabel="coefficients per example p/n", ylabel="inflation α*")


def maximum_likelihood(x: np.ndarray, y: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Coefficients of the logistic fit by Newton's method with halved steps."""
    w, loss = start, math.inf
    for _ in range(100):
        score = x @ w
        now = float((np.logaddexp(0, score) - y * score).sum())
        says = expit(score)
        slope = x.T @ (says - y)
        if now >= loss - 1e-10 * abs(now) and float(np.abs(slope).max()) < 1e-7:
            break
        step = np.linalg.solve((x * (says * (1 - says))[:, None]).T @ x, slope)
        size, loss = 1.0, now
        while size > 1e-6:
            after = x @ (w - size * step)
            if float((np.logaddexp(0, after) - y * after).sum()) <= now:
                break
            size /= 2
        w = w - size * step
    return w


def separable(x: np.ndarray, y: np.ndarray) -> bool:
    """Whether some hyperplane through 0 has all examples on their sides, by a linear programme."""
    from scipy.optimize import linprog

    signed = x * (2 * y[:, None] - 1.0)
    found = linprog(-signed.sum(0), A_ub=-signed, b_ub=np.zeros(len(x)), bounds=(-1, 1))
    return bool(-found.fun > 1e-6)


@lru_cache(maxsize=4)
def _hermite(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of a mean over a standard normal variable."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    return nodes, weights / weights.sum()


def _grid(spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Positive scores and their weights under N(0, spread²): midpoints, half the mass."""
    z = (np.arange(20_000) + 0.5) / 20_000 * 9 * spread
    weights = norm.pdf(z / spread)
    return z, weights / weights.sum() / 2


def _margin_quantile(gamma: float, level: float) -> float:
    """Of the density 2φ_γ(m) σ(m)."""
    z, weights = _grid(gamma)
    grid = np.concatenate([-z[::-1], z])
    mass = np.cumsum(2 * np.concatenate([weights[::-1], weights]) * expit(grid))
    half_step = z[0]  # the sums reach to the right edge of each cell
    return float(np.interp(level, mass, grid + half_step))


@lru_cache(maxsize=256)
def _boundary(gamma: float) -> float:
    z, weights = _grid(1.0)
    v = np.concatenate([-z, z])
    mass = 2 * np.concatenate([weights, weights]) * expit(gamma * v)

    def excess(t: float) -> float:
        a = t * v
        return float(mass @ ((1 + a**2) * norm.sf(a) - a * norm.pdf(a)))

    return float(minimize_scalar(excess, bounds=(0, 50), method="bounded").fun)  # type: ignore[attr-defined]


@lru_cache(maxsize=256)
def _solve(ratio: float, strength: float) -> tuple[float, float, float]:
    """The three equations, from a small ratio upwards: each solution is the start of the next."""
    guess = np.array([1.0, 1.0, 0.1])
    for share in np.linspace(min(0.02, ratio) / ratio, 1.0, 6):
        kappa = ratio * float(share)
        guess[1:] = np.log(np.maximum(guess[1:], 1e-3))
        found = root(lambda u, k=kappa: _equations(u[0], math.exp(u[1]), math.exp(u[2]), k, strength), guess)
        guess = np.array([found.x[0], math.exp(found.x[1]), math.exp(found.x[2])])
    return float(guess[0]), float(guess[1]), float(guess[2])


def _equations(alpha: float, sigma: float, lam: float, kappa: float, strength: float) -> np.ndarray:
    nodes, weights = _hermite(60)
    q1 = math.sqrt(strength) * nodes[:, None]
    q2 = -alpha * q1 + math.sqrt(kappa) * sigma * nodes[None, :]
    prox = _prox(q2, lam)
    says, mean = expit(prox), weights[:, None] * weights[None, :]
    first = (mean * 2 * expit(q1) * (lam * says) ** 2).sum() / kappa**2 / sigma**2 - 1
    second = (mean * expit(q1) * q1 * lam * says).sum() / lam
    third = (mean * 2 * expit(q1) / (1 + lam * says * (1 - says))).sum() - 1 + kappa
    return np.array([first, second, third])


def _prox(x: np.ndarray, lam: float) -> np.ndarray:
    """The t with t + λσ(t) = x: it lies in [x - λ, x], where bisection makes Newton's method safe."""
    low, high = x - lam, x.copy()
    t = x - lam * expit(x)
    for _ in range(60):
        gap = t + lam * expit(t) - x
        low, high = np.where(gap < 0, t, low), np.where(gap > 0, t, high)
        newton = t - gap / (1 + lam * expit(t) * expit(-t))
        t = np.where((newton < low) | (newton > high), (low + high) / 2, newton)
        if np.abs(gap).max() < 1e-13 * (1 + np.abs(x).max()):
            break
    return t


def _first_few(toy: LogisticCalibration) -> Objective:
    x, y = (torch.from_numpy(part[:FEW]) for part in toy.data)
    return toy.objective.on([(x, y)])


def _at_fit(toy: LogisticCalibration) -> Objective:
    return toy.at(toy.fitted_weights)


TOY = LogisticCalibration

r"""Is SGD Bayesian? Linear regression, where both sides are Gaussians that can be written down.

Data $y = x^\top w + $ noise of variance $\sigma^2$, prior $w\sim N(0, p I)$. The posterior is $N(m, A^{-1})$
with $A = X^\top X/\sigma^2 + I/p$. SGD with a *constant* step on the same loss never settles; it ends in a
cloud around the same $m$. Are the clouds the same?

**One loss for both.** The negative log-posterior is, up to a constant, $\sum_i \tfrac12 (x_i^\top w - y_i)^2$
over $N = n + d$ examples: the data divided by $\sigma$, and $d$ examples $x = e_j/\sqrt p,\ y = 0$ that stand
for the prior. The loss is their mean, its Hessian $H = A/N$, its minimum $m$.

**The cloud, noise of fixed covariance.** $\delta' = (I-\eta H)\delta - \eta\,\zeta$ with $\mathrm{Cov}\,\zeta =
\Sigma/B$ has the stationary covariance $C$ that solves

$$HC + CH - \eta\,HCH = \eta\,\Sigma/B .$$

**The cloud, true minibatches** ($B$ examples, drawn with replacement): far from $m$ the noise grows, which adds
a term that is still linear in $C$,

$$HC + CH - \eta\,(1-\tfrac1B)\,HCH - \tfrac{\eta}{B}\,E_i[x_i x_i^\top C\, x_i x_i^\top] = \eta\,\Sigma/B,$$

with $\Sigma$ the covariance of the examples' gradients at $m$. Beyond a certain step there is no solution: the
cloud has no variance although $\eta\lambda_{max} < 2$.

**When are they equal?** For small steps, $C \approx A^{-1}$ needs $\Sigma \propto H$: noise shaped like the
curvature. A linear model that is *true* has just that ($\Sigma\approx H$), so that SGD samples the posterior at
a temperature set by $\eta/B$. The step that brings the two closest in KL is $\eta^* =
2Bd/(N\,\mathrm{tr}\,\Sigma)$.

**One observation.** The Kalman filter moves by $p\,x/(p\lVert x\rVert^2+\sigma^2)$ times the surprise; for $p =
1$ an SGD step of $\eta = 1/\sigma^2$ moves by $\eta x$. The difference is $-\eta^2\lVert x\rVert^2
x/(1+\eta\lVert x\rVert^2)$: second order in $\eta$.

**Posterior by optimisation.** Perturb the labels by the noise and the prior's centre by the prior, then
minimise: the minima are *exact* posterior draws.

**What to vary.** `rate` (step as a share of 1/λmax: fixed noise and minibatches part company), `batch`,
`noise`, `prior`.

Sources: Mandt, Hoffman, Blei 2017, arXiv 1704.04289 (section 4); the rest is textbook.
Ledger: 3.31.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from scipy.linalg import solve_continuous_lyapunov
from scipy.optimize import minimize_scalar

from geartrain.errors import InputError
from geartrain.records import Measurement
from geartrain.zoo._base import Truth, trial_result
from geartrain.zoo._linear import LinearModel
from geartrain.zoo._regression import Regression, normal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CHAINS = 4000
"""Walkers in a simulated cloud."""


@dataclass(frozen=True)
class LinearSgdPosterior(Regression):
    """Bayesian linear regression, and constant-step SGD on its log-posterior.

    Attributes:
        dimension: Number of weights d.
        samples: Number n of observations.
        noise: Variance σ² of the labels' noise.
        prior: Variance p of each weight beforehand.
        rate: Step size times the largest eigenvalue of H.
        batch: Batch size B.
    """

    title: ClassVar[str] = "SGD and the posterior of linear regression"
    ledger: ClassVar[tuple[str, ...]] = ("3.31",)

    dimension: int = 4
    samples: int = 60
    noise: float = 0.5
    prior: float = 1.0
    rate: float = 0.2
    batch: int = 4

    def __post_init__(self) -> None:
        if not 1 <= self.dimension <= 12 or not 5 * self.dimension <= self.samples <= 1000:
            raise InputError(
                f"dimension is {self.dimension}, samples {self.samples}; allowed: 1 to 12, and from five samples per "
                "dimension to 1000."
            )
        if min(self.noise, self.prior, self.rate) <= 0 or self.batch < 1:
            raise InputError(
                f"noise is {self.noise}, prior {self.prior}, rate {self.rate}, batch {self.batch}; allowed: positive "
                "numbers."
            )
        if self.rate >= 2 or self._minibatch_growth() >= 1:
            raise InputError(
                f"rate is {self.rate} at batch {self.batch}; allowed: steps at which the cloud of SGD has a finite "
                "variance. Take a smaller rate or a larger batch."
            )

    # ------------------------------------------------------------------ how it is made

    @cached_property
    def linear(self) -> LinearModel:
        """Data and prior as examples, with the model at a draw from the prior."""
        generator, d = self.generator(), self.dimension
        true, start = math.sqrt(self.prior) * normal(generator, 2, 1, d)
        x = normal(generator, self.samples, d)
        y = x @ true.T + math.sqrt(self.noise) * normal(generator, self.samples, 1)
        inputs = np.concatenate([x / math.sqrt(self.noise), np.eye(d) / math.sqrt(self.prior)])
        targets = np.concatenate([y / math.sqrt(self.noise), np.zeros((d, 1))])
        return LinearModel(inputs, targets, start)

    @cached_property
    def reference(self) -> np.ndarray:
        """The prior's mean."""
        return np.zeros((1, self.dimension))

    @property
    def step(self) -> float:
        """η."""
        return self.rate / float(np.linalg.eigvalsh(self.linear.moments)[-1])

    # ------------------------------------------------------------------ what is known

    @property
    def posterior(self) -> np.ndarray:
        """A⁻¹, shape (d, d)."""
        return np.linalg.inv(self.linear.moments * len(self.linear.inputs))

    @cached_property
    def gradients(self) -> np.ndarray:
        """Of the examples at the minimum m, shape (N, d)."""
        model = self.linear
        return (model.inputs @ model.minimum.T - model.targets) * model.inputs

    @cached_property
    def covariance(self) -> np.ndarray:
        """Σ, of the examples' gradients at m (their mean is 0)."""
        return self.gradients.T @ self.gradients / len(self.gradients)

    def cloud(self, *, minibatch: bool) -> np.ndarray:
        """Stationary covariance C of SGD, as the solution of a linear system in its d² entries."""
        d, pull = self.dimension, self._pull(minibatch=minibatch)
        noise = self.step**2 / self.batch * self.covariance
        return np.linalg.solve(np.eye(d * d) - pull, noise.ravel()).reshape(d, d)

    def _pull(self, *, minibatch: bool) -> np.ndarray:
        """The linear map C → covariance after a step, without the fresh noise, as a (d², d²) matrix."""
        h, eta, one = self.linear.moments, self.step, np.eye(self.dimension)
        shrink = one - eta * h
        pull = np.kron(shrink, shrink)
        if minibatch:
            x, d = self.linear.inputs, self.dimension
            outer = (x[:, :, None] * x[:, None, :]).reshape(len(x), d * d)
            fourth = (outer.T @ outer / len(x)).reshape(d, d, d, d)  # E x_i x_k x_j x_l
            spread = fourth.transpose(0, 2, 1, 3).reshape(d * d, d * d) - np.kron(h, h)
            pull = pull + eta**2 / self.batch * spread
        return pull

    def _minibatch_growth(self) -> float:
        return float(np.abs(np.linalg.eigvals(self._pull(minibatch=True))).max())

    @property
    def best_step(self) -> float:
        """The step of SGD that brings its cloud closest to the posterior, for small steps."""
        total = len(self.linear.inputs)
        return 2 * self.batch * self.dimension / (total * float(np.trace(self.covariance)))

    def truths(self) -> dict[str, Truth]:
        """The two clouds, the posterior, the gain of one observation; everything about least squares on the data."""
        x, eta = self.linear.inputs[0] * math.sqrt(self.noise), 1 / self.noise
        size = float(x @ x)
        lyapunov = partial(
            Truth, source="Second moments of one step, stationary; Mandt et al. 2017, arXiv 1704.04289."
        )
        gauss = partial(Truth, source="Textbook: conjugate Gaussians.")
        return self.sample_truths() | {
            "sgd_cloud": lyapunov(self.cloud(minibatch=False), trial=self._walk_with_fixed_noise),
            "minibatch_cloud": lyapunov(self.cloud(minibatch=True), trial=self._walk_with_minibatches),
            "posterior_covariance": gauss(self.posterior, trial=self._perturb_and_minimise),
            "best_step": lyapunov(self.best_step, 1e-5, assumptions="Small steps.", trial=self._closest_step),
            "kalman_minus_sgd": gauss(
                -(eta**2) * size * x / (1 + eta * size),
                1e-9,
                assumptions="p = 1, η = 1/σ².",
                trial=self._gain,
            ),
        }

    @property
    def burn_in(self) -> int:
        """Steps after which a start is forgotten to one part in 1e5."""
        slow = float(np.abs(np.linalg.eigvals(self._pull(minibatch=True))).max())
        return math.ceil(math.log(1e-5) / math.log(slow))

    def _walk_with_fixed_noise(self, generator: torch.Generator) -> Measurement:
        root = np.linalg.cholesky(self.covariance / self.batch)
        delta = np.zeros((CHAINS, self.dimension))
        for _ in range(self.burn_in):
            noise = normal(generator, *delta.shape) @ root.T
            delta = delta - self.step * (delta @ self.linear.moments + noise)
        return trial_result("sgd_cloud", *_moments(delta))

    def _walk_with_minibatches(self, generator: torch.Generator) -> Measurement:
        x, total = self.linear.inputs, len(self.linear.inputs)
        rest = (x @ self.linear.minimum.T - self.linear.targets)[:, 0]
        delta = np.zeros((CHAINS, self.dimension))
        for _ in range(self.burn_in):
            drawn = torch.randint(total, (CHAINS, self.batch), generator=generator).numpy()
            chosen = x[drawn]
            errors = np.einsum("cbd,cd->cb", chosen, delta) + rest[drawn]
            delta = delta - self.step * np.einsum("cb,cbd->cd", errors, chosen) / self.batch
        return trial_result("minibatch_cloud", *_moments(delta))

    def _perturb_and_minimise(self, generator: torch.Generator) -> Measurement:
        """Minima of the loss with noise of unit variance on every target: the prior's included."""
        noise = normal(generator, len(self.linear.inputs), CHAINS)
        fits = np.linalg.lstsq(self.linear.inputs, noise, rcond=None)[0].T
        return trial_result("posterior_covariance", *_moments(fits))

    def divergence(self, step: float) -> float:
        """KL of SGD's cloud from the posterior, the cloud taken for small steps, nats."""
        h, total = self.linear.moments, len(self.linear.inputs)
        cloud = solve_continuous_lyapunov(h, step / self.batch * self.covariance)
        product = total * h @ cloud
        return 0.5 * float(np.trace(product) - np.linalg.slogdet(product)[1] - self.dimension)

    def _closest_step(self, generator: torch.Generator) -> Measurement:
        """Search over steps for the least divergence."""
        found = minimize_scalar(
            lambda log: self.divergence(math.exp(log)),
            bounds=(math.log(1e-8 / self.step), math.log(1e8)),
            method="bounded",
            options={"xatol": 1e-9},
        )
        return trial_result("best_step", math.exp(float(found.x)))  # type: ignore[attr-defined]

    def _gain(self, generator: torch.Generator) -> Measurement:
        """Posterior mean per unit of surprise after one observation, less the step of SGD."""
        x, eta = self.linear.inputs[0] * math.sqrt(self.noise), 1 / self.noise
        gain = np.linalg.solve(np.outer(x, x) * eta + np.eye(self.dimension), eta * x)
        return trial_result("kalman_minus_sgd", gain - eta * x)

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """One standard deviation of posterior and of SGD, along the first two weights."""
        axes = figure.add_subplot()
        turn = np.linspace(0, 2 * np.pi, 200)
        circle = np.stack([np.cos(turn), np.sin(turn)])
        clouds = {
            "posterior": self.posterior,
            "SGD, minibatches": self.cloud(minibatch=True),
            "SGD, fixed noise": self.cloud(minibatch=False),
        }
        centre, few = self.linear.minimum[0], min(2, self.dimension)
        for (label, matrix), style in zip(clouds.items(), ("-", "--", ":"), strict=True):
            root = np.linalg.cholesky(matrix[:few, :few])
            ring = root @ circle[:few]
            second = ring[1] + centre[1] if few == 2 else np.zeros_like(turn)
            axes.plot(ring[0] + centre[0], second, style, label=label)
        axes.plot(centre[0], centre[1] if few == 2 else 0.0, "k+")
        axes.set(xlabel="first weight (θ)", ylabel="second weight (θ)", title=self.title)
        axes.legend()


def _moments(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Covariance of draws of mean 0, shape (draws, d), and the standard errors of its entries."""
    products = draws[:, :, None] * draws[:, None, :]
    return products.mean(0), products.std(0, ddof=1) / math.sqrt(len(draws))


TOY = LinearSgdPosterior

r"""Linear regression with label noise: gradient noise that can be written down to the last term.

Inputs $x \sim N(0, H)$, targets $y = x^\top w^* + \sqrt{\sigma^2}\,\xi$, loss $\tfrac12 (x^\top w - y)^2$,
looked at a distance $\delta = w - w^*$ from the truth. It is the simplest model in which the *batch size*
matters, and the only one in which all the quantities that papers derive from gradient noise are plain formulas.

**Derivation.** An example's gradient is $g = x(x^\top\delta - \sigma\xi)$. Its mean is $G = H\delta$. For
Gaussian $x$, Isserlis' theorem gives $E[x x^\top (x^\top\delta)^2] = (\delta^\top H\delta) H + 2
H\delta\delta^\top H$, hence

$$\Sigma = \mathrm{Cov}(g) = (\delta^\top H \delta + \sigma^2)\, H + H\delta\delta^\top H .$$

From it follow the simple noise scale $B_{simple} = \mathrm{tr}\,\Sigma / \lVert G\rVert^2$, the
Hessian-weighted one $B_{noise} = \mathrm{tr}(H\Sigma) / G^\top H G$, and the best step at batch size $B$:
$\eta_{max} / (1 + B_{noise}/B)$ with $\eta_{max} = \lVert G\rVert^2 / G^\top H G$.

**Do noise and curvature share their eigenvectors?** Almost: $[\Sigma, H] = [H\delta\delta^\top H, H]$ is a
rank-two remainder. Far from the minimum ($\delta$ large) it matters; near it $\Sigma \to \sigma^2 H$ and the
two commute. A commutator norm near zero is therefore what *any* noisy quadratic shows near its minimum.

**Two batches suffice.** From the gradients of a small batch $b$ and a big one $B$: $\lVert G\rVert^2 \approx
(B\lVert g_B\rVert^2 - b\lVert g_b\rVert^2)/(B-b)$ and $\mathrm{tr}\,\Sigma \approx (\lVert g_b\rVert^2 - \lVert
g_B\rVert^2)/(1/b - 1/B)$, both without bias (their *ratio* is not, which is why the noise scale needs an
interval).

**What to vary.** `distance` (the size of δ: far away the signal wins, near the minimum the noise), `noise`,
`decay` (how fast the eigenvalues of H fall) and `examples` (how well any of it can be known from data).

Sources: McCandlish et al. 2018, arXiv 1812.06162, appendices A and B; Isserlis 1918 (fourth moments).
Ledger: 0.5, 4.4, 4.5, 4.10.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.records import Measurement
from geartrain.run import Run
from geartrain.zoo._base import Toy, Truth, trial_result
from geartrain.zoo._descent import motion_truths
from geartrain.zoo._linear import (
    LinearModel,
    data_truths,
    function_truths,
    local_truths,
    minimum_truths,
    pair_truths,
)
from geartrain.zoo._matrices import kernel_truths, linear_layer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SOURCE = "Isserlis' theorem for E[xxᵀ(xᵀδ)²]; McCandlish et al. 2018, arXiv 1812.06162."
_GAUSSIAN = "Gaussian inputs and noise; the truth is that of the population, the data are a sample of it."


@dataclass(frozen=True)
class NoisyLinearRegression(Toy):
    """Least squares on Gaussian inputs with noisy labels, at a given distance from the truth.

    Attributes:
        dimension: Number of features d.
        noise: Variance σ² of the labels' noise.
        decay: Eigenvalues of H are i^(-decay).
        distance: Every entry of δ = w - w*.
        examples: Size n of the sample that instruments see.
    """

    title: ClassVar[str] = "Noisy linear regression"
    ledger: ClassVar[tuple[str, ...]] = ("0.5", "4.4", "4.5", "4.10")

    dimension: int = 20
    noise: float = 1.0
    decay: float = 1.0
    distance: float = 1.0
    examples: int = 600

    def __post_init__(self) -> None:
        if not 2 <= self.dimension <= 200:
            raise InputError(f"dimension is {self.dimension}; allowed: 2 to 200. Choose one of these.")
        if self.noise < 0 or self.distance <= 0 or self.decay < 0:
            raise InputError(
                f"noise is {self.noise}, distance {self.distance}, decay {self.decay}; allowed: a distance above 0, "
                "the others 0 or more. At distance 0 there is no gradient to measure noise against."
            )
        if self.examples < 10 * self.dimension:
            raise InputError(
                f"examples is {self.examples}; allowed: at least ten per feature, here {10 * self.dimension}."
            )

    # ------------------------------------------------------------------ how it is made

    @cached_property
    def eigenvalues(self) -> np.ndarray:
        """Of the inputs' covariance H, which is diagonal."""
        return np.arange(1, self.dimension + 1) ** -self.decay

    @cached_property
    def delta(self) -> np.ndarray:
        """δ = w - w*."""
        return np.full(self.dimension, self.distance)

    @cached_property
    def linear(self) -> LinearModel:
        """The sample, and a linear model at w* + δ (w* = 1)."""
        generator, truth = self.generator(), np.ones(self.dimension)
        x = torch.randn(self.examples, self.dimension, generator=generator, dtype=torch.float64).numpy()
        x = x * np.sqrt(self.eigenvalues)
        noise = torch.randn(self.examples, generator=generator, dtype=torch.float64).numpy()
        y = x @ truth + np.sqrt(self.noise) * noise
        return LinearModel(x, y[:, None], (truth + self.delta)[None])

    def make_objective(self) -> Objective:
        """Half the mean squared error on the sample."""
        return self.linear.objective()

    def make_run(self) -> Run:
        """Full-batch gradient descent from w* + δ with half the largest stable step."""
        return self.linear.run(self.step)

    @property
    def step(self) -> float:
        """Step size of the run: 1/λmax of the sample."""
        return 1 / float(np.linalg.eigvalsh(self.linear.moments)[-1])

    # ------------------------------------------------------------------ what is known

    @cached_property
    def gradient(self) -> np.ndarray:
        """G = Hδ, of the population."""
        return self.eigenvalues * self.delta

    @cached_property
    def covariance(self) -> np.ndarray:
        """Σ = (δᵀHδ + σ²) H + Hδδᵀ H, of the population."""
        signal = float(self.delta @ self.gradient)
        return (signal + self.noise) * np.diag(self.eigenvalues) + np.outer(self.gradient, self.gradient)

    @property
    def simple_scale(self) -> float:
        """B_simple = tr Σ / ‖G‖²."""
        return float(np.trace(self.covariance) / (self.gradient @ self.gradient))

    @property
    def weighted_scale(self) -> float:
        """B_noise = tr(HΣ) / GᵀHG."""
        curved = self.gradient @ (self.eigenvalues * self.gradient)
        return float((self.eigenvalues * np.diag(self.covariance)).sum() / curved)

    @property
    def largest_step(self) -> float:
        """η_max = ‖G‖² / GᵀHG, the best step without noise."""
        return float(self.gradient @ self.gradient / (self.gradient @ (self.eigenvalues * self.gradient)))

    @property
    def commutator(self) -> float:
        """‖[Σ, H]‖ / (‖Σ‖‖H‖), Frobenius norms."""
        h, s = np.diag(self.eigenvalues), self.covariance
        return float(np.linalg.norm(s @ h - h @ s) / (np.linalg.norm(s) * np.linalg.norm(h)))

    def truths(self) -> dict[str, Truth]:
        """The noise of the population; curvature, motion and functions of the sample."""
        model = self.linear
        truths = local_truths(model) | motion_truths(model.descent(self.step), self.examples)
        kernel = kernel_truths(linear_layer(model.inputs[:40], 1), model.targets[:40])
        truths |= {name: replace(truth, subject=_first_forty) for name, truth in kernel.items()}
        truths |= function_truths(model) | data_truths(model)
        truths |= pair_truths(model, np.ones((1, self.dimension)), _at_truth)
        truths |= minimum_truths(model, _at_minimum)
        del truths["gradient_noise_scale.covariance_trace"], truths["gradient_noise_scale.grad_sq_norm"]
        return truths | self._noise_of_the_population()

    def _noise_of_the_population(self) -> dict[str, Truth]:
        def known(value: float, **how: object) -> Truth:
            return Truth(value, assumptions=_GAUSSIAN, source=_SOURCE, **how)  # type: ignore[arg-type]

        return {
            "gradient_noise_scale": known(self.simple_scale),
            "signal_to_noise": known(1 / self.simple_scale, extract=np.squeeze),
            "hessian_noise_scale": known(self.weighted_scale),
            "critical_batch_size": known(self.weighted_scale),
            "two_batch_estimator": known(float(np.trace(self.covariance)), trial=self._two_batches),
        }

    def _two_batches(self, generator: torch.Generator) -> Measurement:
        """Estimate tr Σ from pairs of batches of 4 and of 16, each pair by itself."""
        small, big, pairs = 4, 16, 4000
        shape = (pairs, big, self.dimension)
        x = torch.randn(shape, generator=generator, dtype=torch.float64).numpy() * np.sqrt(self.eigenvalues)
        xi = torch.randn(shape[:2], generator=generator, dtype=torch.float64).numpy()
        g = x * (x @ self.delta - np.sqrt(self.noise) * xi)[:, :, None]
        norms = [(g[:, :b].mean(1) ** 2).sum(1) for b in (small, big)]
        found = (norms[0] - norms[1]) / (1 / small - 1 / big)
        return trial_result("two_batch_estimator", found.mean(), found.std(ddof=1) / np.sqrt(pairs))

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """Gain per step and per example over the batch size: the elbow is the noise scale."""
        axes = figure.add_subplot()
        batch = np.geomspace(self.weighted_scale / 100, self.weighted_scale * 100, 200)
        axes.loglog(batch, 1 / (1 + self.weighted_scale / batch), label="gain per step / best")
        axes.loglog(batch, 1 / (1 + batch / self.weighted_scale), label="gain per example / best")
        axes.axvline(self.weighted_scale, color="0.4", ls="--", label="$B_{noise}$, Hessian-weighted")
        axes.axvline(self.simple_scale, color="0.7", ls=":", label="$B_{simple}$")
        axes.set(xlabel="batch size (examples)", ylabel="share of the largest gain", title=self.title)
        axes.legend()


def _first_forty(toy: NoisyLinearRegression) -> Objective:
    inputs, targets = toy.linear.data()
    return toy.objective.on([(inputs[:40], targets[:40])])


def _at_truth(toy: NoisyLinearRegression) -> Objective:
    return toy.linear.objective(np.ones((1, toy.dimension)))


def _at_minimum(toy: NoisyLinearRegression) -> Objective:
    return toy.linear.objective(toy.linear.minimum)


TOY = NoisyLinearRegression

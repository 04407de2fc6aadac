r"""The spiked Wishart matrix: when does structure stand out from noise?

$n$ samples of $N(0, I + c\,e_1e_1^\top)$ in dimension $p$; $S = X^\top X/n$ is their covariance, $\gamma = p/n$. One
direction is special, by the factor $1 + c$. Everything else is noise, and yet the eigenvalues of $S$ are far from
equal: they fill the bulk of Marchenko and Pastur, from $(1-\sqrt\gamma)^2$ to $(1+\sqrt\gamma)^2$, although all true
ones are 1. Any Hessian, gradient covariance or weight matrix with noisy entries has such a bulk. What is beyond it
means something; what is within means nothing.

**The transition.** Let $z$ be the column of the special direction (scaled to variance 1), $K_0$ the matrix of inner
products of the samples in all the others, over $n$. By Schur's complement an eigenvalue of $S$ that is none of the
others' solves $1 = (1+c)\,\tfrac1n z^\top(\lambda - K_0)^{-1}z$. The right side is close to its mean, a trace that
the law of the bulk gives, and the solution is $\lambda = (1+c)(1+\gamma/c)$. It lies beyond the edge only for $c$
large enough:

$$c > \sqrt\gamma:\qquad \lambda = (1+c)(1+\gamma/c),\qquad
\langle v, e_1\rangle^2 = \frac{1-\gamma/c^2}{1+\gamma/c} .$$

Below that nothing is to be seen: the largest eigenvalue sticks to the edge, and its eigenvector has nothing to do
with $e_1$. There is no test, however clever, that would see it in the spectrum.

**How exact is it?** The outlier fluctuates with standard deviation $(1+c)\sqrt{2(1-\gamma/c^2)/n}$. The edge is
Tracy and Widom's: mean $\mu - 1.2065\,\sigma$, standard deviation $1.268\,\sigma$, with
$\mu = (\sqrt{n-1}+\sqrt p)^2/n$ and $\sigma = (\sqrt{n-1}+\sqrt p)(1/\sqrt{n-1}+1/\sqrt p)^{1/3}/n$. Traces are much
calmer: $E\,\mathrm{tr}S = \mathrm{tr}\Sigma$ and
$E\,\mathrm{tr}S^2 = \mathrm{tr}\Sigma^2 + ((\mathrm{tr}\Sigma)^2 + \mathrm{tr}\Sigma^2)/n$. The second term is why
the participation ratio of a sample covariance is too small, by a factor of about $1/(1+\gamma)$ for pure noise.

**In the zoo** $X$ appears three times: as the inputs of a regression, whose Hessian is $S$; as the weights of a
layer, in which training would have planted a direction; and as the activations of a layer.

**What to vary.** `strength` ($c$, against $\sqrt\gamma$), `dimension` and `samples`.

Sources: Marchenko, Pastur 1967; Baik, Ben Arous, Péché 2005, arXiv math/0403022; Paul 2007 (Statistica Sinica
17:1617); Johnstone 2001 (Ann. Statist. 29:295).
Ledger: 0.15.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.records import Measurement
from geartrain.run import Run
from geartrain.zoo._base import Toy, Truth, trial_result
from geartrain.zoo._descent import motion_truths
from geartrain.zoo._linear import LinearModel, data_truths, function_truths, linear, local_truths, pair_truths
from geartrain.zoo._losses import half_square
from geartrain.zoo._matrices import kernel_truths, linear_layer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BBP = "Baik, Ben Arous, Péché 2005, arXiv math/0403022; Paul 2007, theorems 1, 3 and 4."
_TRACES = "Moments of Gaussian sample covariances: E tr S = tr Σ, E tr S² = tr Σ² + ((tr Σ)² + tr Σ²)/n."
_TRACY_WIDOM = -1.2065336, 1.2679814
"""Mean and standard deviation of the Tracy-Widom law of real matrices."""


@dataclass(frozen=True)
class SpikedWishart(Toy):
    """Gaussian samples whose covariance is the identity but for one direction.

    Attributes:
        strength: c; the first direction has variance 1 + c.
        dimension: p.
        samples: n, at least as many.
    """

    title: ClassVar[str] = "Spiked Wishart matrix"
    ledger: ClassVar[tuple[str, ...]] = ("0.15",)

    strength: float = 2.0
    dimension: int = 120
    samples: int = 480

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 100:
            raise InputError(f"strength is {self.strength}; allowed: 0 (pure noise) to 100.")
        if not 20 <= self.dimension <= 400 or not self.dimension <= self.samples <= 4000:
            raise InputError(
                f"dimension is {self.dimension} and samples {self.samples}; allowed: 20 to 400 dimensions, and as many "
                "samples at least, up to 4000."
            )

    # ------------------------------------------------------------------ how it is made

    @property
    def ratio(self) -> float:
        """γ = p/n."""
        return self.dimension / self.samples

    @cached_property
    def population(self) -> np.ndarray:
        """Eigenvalues of Σ, shape (dimension,)."""
        return np.r_[1 + self.strength, np.ones(self.dimension - 1)]

    def sample(self, generator: torch.Generator) -> np.ndarray:
        """X, shape (samples, dimension)."""
        z = torch.randn(self.samples, self.dimension, generator=generator, dtype=torch.float64).numpy()
        return z * np.sqrt(self.population)

    @cached_property
    def linear(self) -> LinearModel:
        """A regression on one sample, whose Hessian is S."""
        source = self.generator()
        x = self.sample(source)
        w = torch.randn(2, self.dimension, generator=source, dtype=torch.float64).numpy()
        return LinearModel(x, (x @ w[0])[:, None], w[1:])

    def make_objective(self) -> Objective:
        """Half the mean squared error of the regression."""
        return self.linear.objective()

    def make_run(self) -> Run:
        """Full-batch gradient descent with half the largest stable step."""
        return self.linear.run(self.step)

    @property
    def step(self) -> float:
        """Step size of the run: 1/λmax of the sample."""
        return 1 / float(np.linalg.eigvalsh(self.linear.moments)[-1])

    def as_weights(self) -> Objective:
        """A layer of which X is the weight matrix."""
        x = self.linear.inputs
        one = torch.ones(1, self.dimension, dtype=torch.float64)
        return Objective(linear(x), half_square, (one, torch.zeros(1, self.samples, dtype=torch.float64)))

    def as_activations(self) -> Objective:
        """A layer that passes X on as it is."""
        inputs = torch.from_numpy(self.linear.inputs)
        return Objective(linear(np.eye(self.dimension)), half_square, (inputs, inputs))

    # ------------------------------------------------------------------ what is known

    @property
    def visible(self) -> bool:
        """Whether an eigenvalue leaves the bulk as n grows."""
        return self.strength > math.sqrt(self.ratio)

    @property
    def outlier(self) -> float:
        """Where the largest eigenvalue tends to."""
        c, gamma = self.strength, self.ratio
        return (1 + c) * (1 + gamma / c) if self.visible else (1 + math.sqrt(gamma)) ** 2

    @property
    def outlier_spread(self) -> float:
        """Standard deviation of the outlier."""
        c, gamma = self.strength, self.ratio
        return (1 + c) * math.sqrt(2 * (1 - gamma / c**2) / self.samples)

    @property
    def overlap(self) -> float:
        """⟨v, e₁⟩² of the largest eigenvector."""
        c, gamma = self.strength, self.ratio
        return (1 - gamma / c**2) / (1 + gamma / c) if self.visible else 0.0

    @property
    def edge(self) -> tuple[float, float]:
        """Mean and standard deviation of the largest eigenvalue of pure noise."""
        a, b = math.sqrt(self.samples - 1), math.sqrt(self.dimension)
        scale = (a + b) * (1 / a + 1 / b) ** (1 / 3) / self.samples
        return (a + b) ** 2 / self.samples + _TRACY_WIDOM[0] * scale, _TRACY_WIDOM[1] * scale

    @property
    def clear(self) -> bool | None:
        """Whether a single sample shows the outlier; ``None`` if that is a matter of luck."""
        if not self.visible:
            return False if self.strength < 0.6 * math.sqrt(self.ratio) else None
        mean, spread = self.edge
        return True if self.outlier - 4 * self.outlier_spread > mean + 5 * spread else None

    def truths(self) -> dict[str, Truth]:
        """The sample's own matrices; what random-matrix theory says of them; averages over samples."""
        model = self.linear
        truths = local_truths(model) | motion_truths(model.descent(self.step), self.samples)
        kernel = kernel_truths(linear_layer(model.inputs[:40], 1), model.targets[:40])
        truths |= {name: replace(truth, subject=_first_forty) for name, truth in kernel.items()}
        truths |= function_truths(model) | data_truths(model)
        truths |= pair_truths(model, np.zeros((1, self.dimension)), _at_zero)
        whole = {"num_products": self.dimension}  # fewer would be a sample of the diagonal
        truths["hessian_diagonal"] = replace(truths["hessian_diagonal"], options=whole)
        return truths | self._ranks() | self._edge_truths() | self._averages()

    @property
    def _moments(self) -> tuple[float, float, float]:
        """E tr S, E tr S², and by what share a ratio of them scatters."""
        first, second = float(self.population.sum()), float((self.population**2).sum())
        scatter = math.sqrt(2 * second / self.samples) / first
        if self.visible:
            scatter += self.outlier * self.outlier_spread / (second + first**2 / self.samples)
        return first, second + (first**2 + second) / self.samples, 4 * (2 * scatter)

    def _ranks(self) -> dict[str, Truth]:
        first, second, scatter = self._moments
        given = partial(
            Truth, tolerance=scatter, source=_TRACES, assumptions="Up to four deviations of a sample."
        )
        true = float(self.population.sum() ** 2 / (self.population**2).sum())
        return {
            "hessian_trace.population": given(first, instrument="hessian_trace"),
            "weight_rank.participation_ratio": given(
                np.array([first**2 / second]), reading="participation_ratio", subject=_as_weights
            ),
            "activation_rank": Truth(
                np.array([true]), 0.01, source="(tr Σ)²/tr Σ² of the population.", subject=_as_activations
            ),
            "activation_rank.plug_in": given(
                np.array([first**2 / second]), reading="plug_in", subject=_as_activations
            ),
        }

    def _edge_truths(self) -> dict[str, Truth]:
        """The outlier and its absence, in one sample."""
        if self.clear is None:
            return {}
        planted = partial(Truth, instrument="marchenko_pastur_outliers", subject=_as_weights, source=_BBP)
        (mean, spread), share = self.edge, 4 * self.outlier_spread / self.outlier if self.clear else 0.0
        every = {"k": 2, "tol": 1e-8, "eigenvectors": True}
        found = {
            "marchenko_pastur_outliers": planted(np.array([float(self.clear)]), 0.0),
            "marchenko_pastur_outliers.noise_std": planted(np.array([1.0]), 0.03, reading="noise_std"),
            "hessian_spectrum.edge": Truth(
                mean,
                5 * spread / mean,
                instrument="hessian_spectrum",
                options=every,
                extract=lambda values: values[int(bool(self.clear))],
                assumptions="Up to five deviations of a sample.",
                source="Johnstone 2001, theorem 1.1, with the mean of the Tracy-Widom law.",
            ),
        }
        if self.clear:
            # What is estimated from the outlier moves with it: by the slope of the formula times its deviation.
            c, gamma = self.strength, self.ratio
            loose = share * self.outlier / (c * (1 - gamma / c**2)) + 0.03
            found |= {
                "hessian_spectrum.outlier": Truth(
                    self.outlier,
                    share + 0.01,
                    options=every,
                    extract=lambda values: values[0],
                    assumptions="Up to four deviations of a sample.",
                    source=_BBP,
                ),
                "marchenko_pastur_outliers.strength": planted(np.array([[c]]), loose, reading="strength"),
                "weight_rank.stable_rank": Truth(
                    np.array([self._moments[0] / self.outlier]),
                    share + self._moments[2],
                    reading="stable_rank",
                    subject=_as_weights,
                    source=_BBP,
                ),
            }
        return found

    def _averages(self) -> dict[str, Truth]:
        """Means over samples, whose error falls with their number."""
        if self.clear is None:
            return {}
        given = partial(Truth, source=_BBP, assumptions="Means over 24 samples; corrections of order 1/n.")
        order = 4 / self.samples
        found = {"mean_edge": given(self.edge[0], 0.01, trial=lambda g: self._mean("edge", g))}
        if self.clear:
            found |= {
                "mean_outlier": given(self.outlier, order, trial=lambda g: self._mean("outlier", g)),
                "mean_overlap": given(self.overlap, 2 * order, trial=lambda g: self._mean("overlap", g)),
            }
        return found

    def _mean(self, what: str, generator: torch.Generator, draws: int = 24) -> Measurement:
        return trial_result(
            f"mean_{what}", *mean_and_error([self.look(generator)[what] for _ in range(draws)])
        )

    def look(self, generator: torch.Generator) -> dict[str, float]:
        """Largest eigenvalue of a fresh sample, its eigenvector's overlap, and the largest of the bulk."""
        x = self.sample(generator)
        values, vectors = np.linalg.eigh(x.T @ x / self.samples)
        return {
            "outlier": float(values[-1]),
            "overlap": float(vectors[0, -1] ** 2),
            "edge": float(values[-2 if self.visible else -1]),
        }

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """Spectrum of the sample against the law of its bulk; outlier and overlap over the strength."""
        left, right = figure.subplots(1, 2)
        gamma, values = self.ratio, np.linalg.eigvalsh(self.linear.moments)
        low, high = (1 - math.sqrt(gamma)) ** 2, (1 + math.sqrt(gamma)) ** 2
        left.hist(values, bins=40, density=True, color="0.8", label="sample")
        at = np.linspace(low, high, 300)
        left.plot(at, np.sqrt((at - low) * (high - at)) / (2 * np.pi * gamma * at), label="Marchenko, Pastur")
        left.axvline(self.outlier, color="C3", ls="--", label="(1+c)(1+γ/c)" if self.visible else "edge")
        left.set(xlabel="eigenvalue of S", ylabel="density", title=f"c = {self.strength:g}, γ = {gamma:.3g}")
        left.legend(fontsize=8)
        strengths = np.linspace(0.01, 4 * math.sqrt(gamma), 200)
        toys = [replace(self, strength=float(c)) for c in strengths]
        right.plot(strengths, [t.outlier for t in toys], label="largest eigenvalue")
        right.plot(strengths, [t.overlap for t in toys], label="overlap² with the spike")
        right.axvline(math.sqrt(gamma), color="0.6", ls=":", label="√γ")
        right.set(xlabel="strength c", ylabel="eigenvalue, overlap", title=self.title)
        right.legend(fontsize=8)


def mean_and_error(values: list[float]) -> tuple[float, float]:
    """Mean and its standard error."""
    return float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(len(values)))


def _first_forty(toy: SpikedWishart) -> Objective:
    inputs, targets = toy.linear.data()
    return toy.objective.on([(inputs[:40], targets[:40])])


def _as_weights(toy: SpikedWishart) -> Objective:
    return toy.as_weights()


def _as_activations(toy: SpikedWishart) -> Objective:
    return toy.as_activations()


def _at_zero(toy: SpikedWishart) -> Objective:
    return toy.linear.objective(np.zeros((1, toy.dimension)))


TOY = SpikedWishart

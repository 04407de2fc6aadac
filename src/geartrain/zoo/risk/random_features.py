r"""Random features: a two-layer network with a frozen first layer, between least squares and its kernel.

$f(x) = a^\top \mathrm{relu}(Wx)/\sqrt N$ with $W$ drawn once, rows $N(0, I/d)$, and only $a$ fitted on $n$
examples. The number of features $N$ is the size of the model. The training error reaches 0 at $N = n$, where
the test error peaks; beyond it falls again, towards that of a *kernel*: the widest model is the simplest one.

**Threshold.** The $n\times N$ matrix of features has rank $\min(n, N)$ almost surely (relu of generic inputs),
so the training error is 0 from $N = n$ on and not before.

**Kernel limit.** $f_N$ depends on the features through $K_N(x,x') = \frac1N\sum_j \mathrm{relu}(w_j
x)\,\mathrm{relu}(w_j x')$, a mean over draws. For Gaussian $w$ it tends to the arc-cosine kernel (Cho, Saul
2009)

$$K(x,x') = \frac{\lVert x\rVert\lVert x'\rVert}{2\pi d}\,\big(\sin\theta + (\pi-\theta)\cos\theta\big),$$

θ the angle between $x$ and $x'$, and predictions of ridge regression differ from the kernel's by $O(N^{-1/2})$.

**The whole curve.** For $d, n, N\to\infty$ in proportion, inputs on the sphere and a linear teacher, Mei and
Montanari give the risk: with $\psi_1 = N/d,\ \psi_2 = n/d$, $\mu_1 = E[g\,\phi(g)] = \tfrac12$, $\mu_\star^2 =
E\phi^2 - (E\phi)^2 - \mu_1^2 = \tfrac14 - \tfrac1{2\pi}$, $\zeta = \mu_1/\mu_\star$, it is $\lVert\beta\rVert^2
B + \tau^2 V$ with rational functions $B, V$ of $\zeta,\psi_1,\psi_2$ and of a number χ < 0 that solves a pair
of equations in two unknowns. Only the linear part of relu is of use to a linear teacher; the rest acts as
noise, and as a ridge.

**The objective** is least squares on the features of the sample, at half the ridge solution's size.

**What to vary.** `features` (across `samples`), `noise`, `ridge` (a good one removes the peak).

Sources: Mei, Montanari 2019, arXiv 1908.05355 (theorem 2, definition 1); Cho, Saul 2009 (NIPS); Rahimi, Recht
2007.
Ledger: 3.3, 3.5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from scipy.linalg import solve

from geartrain.errors import InputError
from geartrain.records import Measurement
from geartrain.zoo._base import Truth, trial_result
from geartrain.zoo._linear import LinearModel
from geartrain.zoo._regression import Regression, normal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MU = 0.5
"""μ₁ of relu."""
MU_STAR = math.sqrt(0.25 - 0.5 / math.pi)
"""μ⋆ of relu."""
_LIMIT = "Mei, Montanari 2019, arXiv 1908.05355, theorem 2."


@dataclass(frozen=True)
class RandomFeatures(Regression):
    """Least squares on random relu features, linear teacher.

    Attributes:
        features: Their number N.
        samples: Number n of examples.
        dimension: d of the inputs.
        noise: Standard deviation of the labels' noise.
        ridge: λ of ridge regression, ½ mean residual² + ½ λ‖a‖².
    """

    title: ClassVar[str] = "Random features"
    ledger: ClassVar[tuple[str, ...]] = ("3.3", "3.5")

    features: int = 60
    samples: int = 200
    dimension: int = 30
    noise: float = 0.3
    ridge: float = 0.01

    def __post_init__(self) -> None:
        if not 10 <= self.dimension <= 100 or not 20 <= self.samples <= 500 or not 2 <= self.features <= 4000:
            raise InputError(
                f"dimension is {self.dimension}, samples {self.samples}, features {self.features}; allowed: 10 to "
                "100, 20 to 500 and 2 to 4000."
            )
        if self.noise < 0 or not 1e-6 <= self.ridge <= 100:
            raise InputError(
                f"noise is {self.noise}, ridge {self.ridge}; allowed: 0 or more, and 1e-6 to 100."
            )

    # ------------------------------------------------------------------ how it is made

    def inputs(self, generator: torch.Generator, count: int) -> np.ndarray:
        """Inputs on the sphere of radius √d, shape (count, d)."""
        x = normal(generator, count, self.dimension)
        return x / np.linalg.norm(x, axis=1, keepdims=True) * math.sqrt(self.dimension)

    @property
    def teacher(self) -> np.ndarray:
        """β of norm 1, shape (d,)."""
        return np.full(self.dimension, 1 / math.sqrt(self.dimension))

    def problem(self, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and noisy labels of a sample, shapes (n, d) and (n,)."""
        x = self.inputs(generator, self.samples)
        return x, x @ self.teacher + self.noise * normal(generator, self.samples)

    def weights(self, generator: torch.Generator, count: int) -> np.ndarray:
        """W, shape (count, d)."""
        return normal(generator, count, self.dimension) / math.sqrt(self.dimension)

    @staticmethod
    def lift(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """relu(Wx)/√N, shape (examples, N)."""
        return np.maximum(x @ weights.T, 0.0) / math.sqrt(len(weights))

    @cached_property
    def linear(self) -> LinearModel:
        """The second layer on the features of the sample."""
        generator = self.generator()
        x, y = self.problem(generator)
        phi = self.lift(x, self.weights(generator, self.features))
        return LinearModel(phi, y[:, None], 0.5 * ridge_fit(phi, y, self.ridge)[None])

    @cached_property
    def reference(self) -> np.ndarray:
        """The ridge solution."""
        return 2 * self.linear.weights

    # ------------------------------------------------------------------ what is known

    def kernel(self, x: np.ndarray, other: np.ndarray) -> np.ndarray:
        """The arc-cosine kernel, shape (len(x), len(other))."""
        sizes = np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(other, axis=1)
        cosine = np.clip(x @ other.T / sizes, -1, 1)
        angle = np.arccos(cosine)
        return sizes * (np.sin(angle) + (math.pi - angle) * cosine) / (2 * math.pi * self.dimension)

    def risk(self, features: int) -> float:
        """Excess risk of ridge regression in the proportional limit.

        The theory penalises (N/d) λ ‖a/√N‖² where this toy has ridge ‖a‖²: λ = d·ridge, and λ̄ = λ/μ⋆².
        """
        first, second = features / self.dimension, self.samples / self.dimension
        return sum(
            part * size
            for part, size in zip(
                bias_and_variance(first, second, self.dimension * self.ridge / MU_STAR**2),
                (1.0, self.noise**2),
                strict=True,
            )
        )

    def truths(self) -> dict[str, Truth]:
        """Threshold, kernel, limit; everything about least squares on the features."""
        known = partial(Truth, source="Gaussian mean of relu·relu; Cho, Saul 2009.")
        counts = self._counts()
        return self.sample_truths() | {
            "feature_scales": Truth(self._spreads(), source="Definition, on these features.", strict=True),
            "kernel": known(self._some_kernel(), 1e-9, trial=self._average_features),
            "distance_to_kernel": known(
                -0.5,
                0.2,
                assumptions="Slope over N from 5n to 40n; its estimate is 0.1 wide.",
                trial=self._slope,
            ),
            "interpolation": Truth(
                np.array([0.0, 1.0, 1.0]), source="Rank of generic features.", trial=self._interpolate
            ),
            "risk_curve": Truth(
                np.array([self.risk(c) for c in counts]),
                3 / self.dimension,
                assumptions="Limit of large d, n and N; corrections of order 1/d.",
                source=_LIMIT,
                trial=self._fit_often,
            ),
        }

    def _counts(self) -> list[int]:
        return [max(2, round(r * self.samples)) for r in (0.2, 0.6, 1.0, 1.5, 4.0)]

    def _spreads(self) -> float:
        """Largest over smallest spread; of features that are mostly 0, the size where they are not."""
        phi = self.linear.inputs
        quiet, size = (phi == 0).mean(0), np.sqrt((phi**2).sum(0))
        kept = (quiet < 0.99) & ((phi > 0).sum(0) >= 3)
        awake = size / np.sqrt(np.maximum((phi > 0).sum(0), 1))
        spread = np.where(quiet > 0.5, awake, phi.std(0))[kept]
        return float(spread.max() / spread.min())

    def _some_inputs(self) -> np.ndarray:
        return self.inputs(torch.Generator().manual_seed(self.seed + 7), 4)

    def _some_kernel(self) -> np.ndarray:
        return self.kernel(self._some_inputs(), self._some_inputs())

    def _average_features(self, generator: torch.Generator) -> Measurement:
        """Mean products of many features at four points."""
        hidden = np.maximum(self._some_inputs() @ self.weights(generator, 40_000).T, 0.0)
        products = hidden[:, None] * hidden[None]
        return trial_result("kernel", products.mean(2), products.std(2) / math.sqrt(products.shape[2]))

    def _interpolate(self, generator: torch.Generator) -> Measurement:
        """Whether the training error is 0 with n - 1, n, n + 20 features."""
        x, y = self.problem(generator)
        found = []
        for count in (self.samples - 1, self.samples, self.samples + 20):
            phi = self.lift(x, self.weights(generator, count))
            fit = np.linalg.lstsq(phi, y, rcond=1e-14)[0]
            found.append(float(((phi @ fit - y) ** 2).mean() < 1e-12))
        return trial_result("interpolation", found)

    def _slope(self, generator: torch.Generator) -> Measurement:
        """Log-log slope of the root-mean-square distance of predictions from those of the kernel."""
        toy = replace(self, samples=min(self.samples, 60))
        x, y = toy.problem(generator)
        fresh = toy.inputs(generator, 100)
        inner = toy.kernel(x, x) + toy.samples * self.ridge * np.eye(toy.samples)
        limit = toy.kernel(fresh, x) @ solve(inner, y, assume_a="pos")
        sizes = np.array([5, 10, 20, 40]) * toy.samples
        repeats = 6
        gaps = np.zeros((repeats, len(sizes)))
        for r in range(repeats):
            for place, count in enumerate(sizes):
                w = toy.weights(generator, int(count))
                phi, asked = toy.lift(x, w), toy.lift(fresh, w)
                gram = phi @ phi.T + toy.samples * self.ridge * np.eye(toy.samples)
                said = asked @ (phi.T @ solve(gram, y, assume_a="pos"))
                gaps[r, place] = ((said - limit) ** 2).mean()
        slope = np.polyfit(np.log(sizes), np.log(gaps).T / 2, 1)[0]
        return trial_result("distance_to_kernel", slope.mean(), slope.std(ddof=1) / math.sqrt(repeats))

    def _fit_often(self, generator: torch.Generator) -> Measurement:
        """Excess risk of ridge regression with few and with many features, on fresh inputs."""
        found = np.array([[self.excess(generator, c) for c in self._counts()] for _ in range(12)])
        return trial_result("risk_curve", found.mean(0), found.std(0, ddof=1) / math.sqrt(len(found)))

    def excess(self, generator: torch.Generator, count: int) -> float:
        """Excess risk of one fit; rows of W have norm 1, and the mean feature is taken off, as the theory has it."""
        x, y = self.problem(generator)
        w = self.weights(generator, count)
        w = w / np.linalg.norm(w, axis=1, keepdims=True)
        fresh, shift = self.inputs(generator, 1000), 1 / math.sqrt(2 * math.pi * count)
        phi, asked = self.lift(x, w) - shift, self.lift(fresh, w) - shift
        gap = asked @ ridge_fit(phi, y, self.ridge) - fresh @ self.teacher
        return float((gap**2).mean())

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """Excess risk over N/n: theory for two ridges, and single fits."""
        axes = figure.add_subplot()
        counts = np.unique(np.geomspace(0.1, 8, 60) * self.samples).round().astype(int)
        for ridge, style in ((1e-5, "-"), (self.ridge, "--")):
            toy = replace(self, ridge=ridge)
            label = f"theory, ridge {ridge:g}"
            axes.loglog(counts / self.samples, [toy.risk(int(c)) for c in counts], style, label=label)
        generator = self.generator()
        few = counts[::8]
        axes.loglog(
            few / self.samples, [self.excess(generator, int(c)) for c in few], "o", ms=4, label="one fit each"
        )
        axes.axvline(1, color="0.6", ls=":")
        axes.set(xlabel="features per example N/n", ylabel="excess risk (ℓ)", title=self.title)
        axes.legend()


def ridge_fit(phi: np.ndarray, y: np.ndarray, ridge: float) -> np.ndarray:
    """Minimiser of ½ mean (φa - y)² + ½ ridge ‖a‖², in the smaller of the two forms."""
    n, count = phi.shape
    if count < n:
        return solve(phi.T @ phi + n * ridge * np.eye(count), phi.T @ y, assume_a="pos")
    return phi.T @ solve(phi @ phi.T + n * ridge * np.eye(n), y, assume_a="pos")


def bias_and_variance(psi1: float, psi2: float, ridge: float) -> tuple[float, float]:
    """B and V of Mei and Montanari's theorem 2 for relu; the excess risk is ‖β‖² B + τ² V.

    Args:
        psi1: N/d.
        psi2: n/d.
        ridge: λ̄ = λ/μ⋆².
    """
    z2 = MU**2 / MU_STAR**2
    chi = _chi(psi1, psi2, ridge, z2)
    c, p = chi, psi1 * psi2
    common = c**5 * z2**3 - 3 * c**4 * z2**2
    e0 = -common + (p - psi2 - psi1 + 1) * c**3 * z2**3 - 2 * c**3 * z2**2 - 3 * c**3 * z2
    e0 += (psi1 + psi2 - 3 * p + 1) * c**2 * z2**2 + 2 * c**2 * z2 + c**2 + 3 * p * c * z2 - p
    e1 = psi2 * c**3 * z2**2 - psi2 * c**2 * z2 + p * c * z2 - p
    e2 = common + (psi1 - 1) * c**3 * z2**3 + 2 * c**3 * z2**2 + 3 * c**3 * z2
    e2 += (-psi1 - 1) * c**2 * z2**2 - 2 * c**2 * z2 - c**2
    return e1 / e0, e2 / e0


def _chi(psi1: float, psi2: float, ridge: float, z2: float) -> float:
    """χ = ν₁ν₂ at ξ = i√(ψ₁ψ₂λ̄): ν = i·b with b > 0 real; the real equations, iterated with damping."""
    height = math.sqrt(psi1 * psi2 * ridge)
    b1, b2 = psi1 / (height + 1), psi2 / (height + 1)
    for _ in range(100_000):
        shared = 1 + z2 * b1 * b2
        new1 = psi1 / (height + b2 + z2 * b2 / shared)
        new2 = psi2 / (height + b1 + z2 * b1 / shared)
        change = abs(new1 - b1) / b1 + abs(new2 - b2) / b2
        b1, b2 = math.sqrt(b1 * new1), math.sqrt(b2 * new2)
        if change < 1e-13:
            break
    return -b1 * b2


TOY = RandomFeatures

r"""A posterior with a symmetry: the weights never mix, the functions always do.

$y = a\,b\,x + $ noise of deviation σ, prior $N(0, I)$ on $(a, b)$. The function depends on $z = ab$ only.
Changing both signs, or swapping $a$ and $b$, changes nothing: four copies of everything, in two islands. The
smallest network with the symmetries that make "have my chains converged?" a wrong question about weights and a
right one about functions.

**One dimension is enough.** The product of two standard normal numbers has density $K_0(|z|)/\pi$, so

$$p(z\mid\text{data}) \propto K_0(|z|)\,\exp\!\Big(-\frac{S_{xx}z^2 - 2S_{xy}z}{2\sigma^2}\Big).$$

Given $z$, the size of $a$ follows $p(|a|) \propto \frac1{|a|} e^{-(a^2+z^2/a^2)/2}$, a generalised inverse
Gaussian in $a^2$, with moments $E|a|^\nu = |z|^{\nu/2} K_{\nu/2}(|z|)/K_0(|z|)$. All posterior means are
integrals over $z$ alone, and draws are exact: $z$ from a table, $a^2$ from that law, a sign by a coin.

**R-hat, three ways.** Let $C$ chains stay on their islands, half on each. In $a$ the islands have means ±m and
variance v, so R-hat tends to $\sqrt{1 + \frac{C}{C-1}m^2/v}$: 2.81 for four chains, and no length cures it. In
$z$ it is 1. In the *quotient*, sorted $(|a|,|b|)$, it is 1 too. A large R-hat of weights proves nothing about
the posterior over functions.

**The learning coefficient** of the likelihood is that of one identified parameter, ½, although there are two:
the mean of $\frac{S_{xx}}{2\sigma^2}(z-\hat z)^2$ is near ½, and how near is again an integral.

**What to vary.** `curvature` ($S_{xx}$: fewer data let the islands touch), `moment` ($S_{xy}$), `noise`,
`place`.

Sources: by design; R-hat: Vehtari et al. 2021, arXiv 1903.08008; Jørgensen 1982 (generalised inverse Gaussian).
Ledger: 2.10.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from scipy.special import kve
from torch import Tensor

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.records import Measurement
from geartrain.run import Run
from geartrain.zoo._base import Toy, Truth, trial_result
from geartrain.zoo.noise._potential import Potential
from geartrain.zoo.noise.two_basins import r_hat

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CHAINS, LENGTH = 4, 2000
_SOURCE = "Density K₀(|z|)/π of a product of normals, by quadrature."


@dataclass(frozen=True)
class SymmetricPosterior(Toy):
    """Negative log-posterior of y = abx.

    Attributes:
        curvature: S_xx = Σx².
        moment: S_xy = Σxy.
        noise: σ.
        place: (a, b) at which the objective stands.
        step: Of gradient descent, as a share of σ²/S_xx.
    """

    title: ClassVar[str] = "Posterior with a symmetry"
    ledger: ClassVar[tuple[str, ...]] = ("2.10",)

    curvature: float = 20.0
    moment: float = 20.0
    noise: float = 0.3
    place: tuple[float, float] = (1.5, 0.4)
    step: float = 0.1

    def __post_init__(self) -> None:
        if not 1 <= self.curvature <= 1e4 or not 0.05 <= self.noise <= 2:
            raise InputError(
                f"curvature is {self.curvature}, noise {self.noise}; allowed: 1 to 1e4, and 0.05 to 2."
            )
        if not 0.1 <= abs(self.moment) / self.curvature <= 5:
            raise InputError(
                f"moment is {self.moment}; allowed: a size of 0.1 to 5 times the curvature {self.curvature}, so "
                "that the product is not 0."
            )
        if len(self.place) != 2 or max(map(abs, self.place)) > 5 or not any(self.place):
            raise InputError(f"place is {self.place}; allowed: two numbers of size up to 5, not both 0.")
        if not 0 < self.step <= 0.2:
            raise InputError(f"step is {self.step}; allowed: above 0 and up to 0.2.")

    # ------------------------------------------------------------------ how it is made

    @property
    def precision(self) -> float:
        """S_xx/σ², of the product."""
        return self.curvature / self.noise**2

    @property
    def best(self) -> float:
        """The product that fits best, S_xy/S_xx."""
        return self.moment / self.curvature

    def loss(self, w: np.ndarray) -> float:
        """Negative log-posterior, up to a constant: ½ precision (ab - best)² + ½(a² + b²)."""
        return 0.5 * self.precision * (float(w[0] * w[1]) - self.best) ** 2 + 0.5 * float(w @ w)

    def gradient(self, w: np.ndarray) -> np.ndarray:
        """Of it."""
        return self.precision * (w[0] * w[1] - self.best) * w[::-1] + w

    def hessian(self, w: np.ndarray) -> np.ndarray:
        """Of it."""
        swapped = w[::-1]
        cross = (w[0] * w[1] - self.best) * np.array([[0.0, 1.0], [1.0, 0.0]])
        return self.precision * (np.outer(swapped, swapped) + cross) + np.eye(2)

    @cached_property
    def potential(self) -> Potential:
        """The loss and its derivatives."""
        formula = partial(_torch_loss, self.precision, self.best)
        return Potential(formula, self.loss, self.gradient, self.hessian)

    @property
    def rate(self) -> float:
        """Step size of the run."""
        return self.step / self.precision

    def make_objective(self) -> Objective:
        """The negative log-posterior at `place`."""
        return self.potential.objective(np.array(self.place))

    def make_run(self) -> Run:
        """Gradient descent from there."""
        return self.potential.run(np.array(self.place), self.rate)

    # ------------------------------------------------------------------ what is known

    @cached_property
    def density(self) -> tuple[np.ndarray, np.ndarray]:
        """Grid of z and its probabilities; cells shrink towards 0, where K₀ has a logarithm."""
        spread = 14 / math.sqrt(self.precision)
        top = abs(self.best) + spread
        line = np.linspace(0.02, 1, 60_001)[:-1] + 0.98 / 120_000  # cells of the outer part, by midpoints
        near = np.exp(np.linspace(math.log(1e-9), math.log(0.02), 8001))
        sizes = np.concatenate([np.sqrt(near[1:] * near[:-1]), line]) * top
        cells = np.concatenate([np.diff(near), np.full(len(line), 0.98 / 60_000)]) * top
        z, width = np.concatenate([-sizes[::-1], sizes]), np.concatenate([cells[::-1], cells])
        size = np.abs(z)
        logs = np.log(kve(0, size)) - size - 0.5 * self.precision * (z - self.best) ** 2
        weight = width * np.exp(logs - logs.max())
        return z, weight / weight.sum()

    def _mean(self, values: np.ndarray) -> float:
        return float(self.density[1] @ values)

    @cached_property
    def island(self) -> tuple[float, float]:
        """Mean and variance of a on the island a > 0."""
        size = np.abs(self.density[0])
        first = self._mean(np.sqrt(size) * kve(0.5, size) / kve(0, size))
        second = self._mean(size * kve(1, size) / kve(0, size))
        return first, second - first**2

    @property
    def product(self) -> tuple[float, float]:
        """Posterior mean and standard deviation of z = ab."""
        z = self.density[0]
        mean = self._mean(z)
        return mean, math.sqrt(self._mean((z - mean) ** 2))

    def stuck_r_hat(self, chains: int = CHAINS) -> float:
        """R-hat of a, of chains half of which stay on each island."""
        mean, variance = self.island
        return math.sqrt(1 + chains / (chains - 1) * mean**2 / variance)

    @property
    def bottom(self) -> np.ndarray:
        """A minimum, a = b = √z up to sign: precision (z - best) + sign = 0."""
        size = abs(self.best) - 1 / self.precision
        return np.sqrt(max(size, 0.0)) * np.array([1.0, math.copysign(1.0, self.best)])

    def truths(self) -> dict[str, Truth]:
        """Posterior of product and weights, R-hat in three coordinates; curvature and motion."""
        known = partial(Truth, source=_SOURCE)
        truths = self.potential.truths(np.array(self.place), self.rate, self.bottom, _at_bottom)
        energy = 0.5 * self.precision * self._mean((self.density[0] - self.best) ** 2)
        stuck = partial(known, assumptions="No chain crosses.", trial=self._stay)
        how = "e^{-(S_xx z² - 2 S_xy z)/2σ²} K₀(|z|) and the moments of a given z."
        return truths | {
            "product": known(np.array(self.product), 1e-5, trial=self._integrate_over_the_plane),
            "product.by_sampling": known(np.array(self.product), 1e-5, trial=self._draw_products),
            "island": Truth(np.array(self.island), 1e-4, source=how, trial=self._integrate_over_the_island),
            "learning_coefficient": known(energy, 1e-5, trial=self._heat),
            "r_hat": stuck(np.array([self.stuck_r_hat(), 1.0, 1.0]), 2e-3),
        }

    def sample(self, generator: torch.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Exact draws of (a, b) with a > 0, each of shape (count,): |a| = √|z| eˢ with p(s) ∝ e^(-|z| cosh 2s)."""
        seed = int(torch.randint(2**31, (), generator=generator))
        source = np.random.default_rng(seed)
        z, weight = self.density
        product = source.choice(z, count, p=weight)
        size, shift, open_ = np.abs(product), np.zeros(count), np.arange(count)
        while len(open_):  # cosh 2s ≥ 1 + 2s²: offers from a Gaussian, accepted with the rest
            s = source.normal(size=len(open_)) / (2 * np.sqrt(size[open_]))
            rest = size[open_] * (np.cosh(np.minimum(2 * np.abs(s), 700)) - 1 - 2 * s**2)
            taken = source.exponential(size=len(open_)) > rest
            shift[open_[taken]] = s[taken]
            open_ = open_[~taken]
        a = np.sqrt(size) * np.exp(shift)
        return a, product / a

    def _plane(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Cells of the half-plane a > 0: a, b and the posterior's share, by midpoints."""
        reach = 5 + math.sqrt(abs(self.best))
        a = (np.arange(1200) + 0.5) / 1200 * reach
        b = np.concatenate([-a[::-1], a])
        energy = 0.5 * self.precision * (a[:, None] * b - self.best) ** 2 + 0.5 * (a[:, None] ** 2 + b**2)
        weight = np.exp(energy.min() - energy)
        return a[:, None], b, weight / weight.sum()

    def _integrate_over_the_plane(self, generator: torch.Generator) -> Measurement:
        """Moments of ab from the joint density of the two weights."""
        a, b, weight = self._plane()
        mean = float((weight * a * b).sum())
        spread = math.sqrt(float((weight * (a * b - mean) ** 2).sum()))
        return trial_result("product", [mean, spread])

    def _integrate_over_the_island(self, generator: torch.Generator) -> Measurement:
        a, _, weight = self._plane()
        mean = float((weight * a).sum())
        return trial_result("island", [mean, float((weight * (a - mean) ** 2).sum())])

    def _draw_products(self, generator: torch.Generator) -> Measurement:
        a, b = self.sample(generator, 20_000)
        z = a * b
        spread, count = float(z.std()), len(z)
        fourth = float(((z - z.mean()) ** 4).mean()) / spread**4
        errors = [spread / math.sqrt(count), spread * math.sqrt((fourth - 1) / (4 * count))]
        return trial_result("product.by_sampling", [z.mean(), spread], errors)

    def _heat(self, generator: torch.Generator) -> Measurement:
        """Mean likelihood energy over exact draws."""
        a, b = self.sample(generator, 20_000)
        energy = 0.5 * self.precision * (a * b - self.best) ** 2
        return trial_result("learning_coefficient", energy.mean(), energy.std() / math.sqrt(len(energy)))

    def _stay(self, generator: torch.Generator) -> Measurement:
        """R-hat of a, of ab, and of max(|a|, |b|), for chains that draw exactly but keep the sign of a."""
        found = []
        for _ in range(6):
            a, b = (part.reshape(CHAINS, LENGTH) for part in self.sample(generator, CHAINS * LENGTH))
            signs = np.where(np.arange(CHAINS) % 2, -1.0, 1.0)[:, None]
            views = (signs * a, a * b, np.maximum(a, np.abs(b)))
            found.append([r_hat(view) for view in views])
        values = np.array(found)
        return trial_result("r_hat", values.mean(0), values.std(0, ddof=1) / math.sqrt(len(values)))

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """The islands in the plane of weights, and the one bump in the product."""
        plane, line = figure.subplots(1, 2)
        axis = np.linspace(-3.5, 3.5, 300)
        energy = 0.5 * self.precision * (axis[:, None] * axis - self.best) ** 2 + 0.5 * (
            axis[:, None] ** 2 + axis**2
        )
        plane.contourf(axis, axis, np.exp(energy.min() - energy).T, levels=12)
        plane.set(xlabel="a (θ)", ylabel="b (θ)", title=self.title)
        mean, spread = self.product
        a, b = self.sample(self.generator(), 5000)
        line.hist(a * b, bins=60, density=True, alpha=0.5, label="exact draws")
        z = np.linspace(mean - 4 * spread, mean + 4 * spread, 300)
        z = z[np.abs(z) > 1e-6]
        size = np.abs(z)
        logs = np.log(kve(0, size)) - size - 0.5 * self.precision * (z - self.best) ** 2
        shape = np.exp(logs - logs.max())
        line.plot(z, shape / (((shape[1:] + shape[:-1]) / 2 * np.diff(z)).sum()), "k", label="quadrature")
        line.set(xlabel="z = ab", ylabel="density")
        line.legend()


def _torch_loss(precision: float, best: float, w: Tensor) -> Tensor:
    return 0.5 * precision * (w[0] * w[1] - best) ** 2 + 0.5 * (w**2).sum()


def _at_bottom(toy: SymmetricPosterior) -> Objective:
    return toy.potential.objective(toy.bottom)


TOY = SymmetricPosterior

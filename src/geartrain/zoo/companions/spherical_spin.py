r"""A random landscape on a sphere: where the saddles are, and how many ways down they have.

The energy of a direction $x$ under a random symmetric matrix, $L(x) = \tfrac12\,x^\top Jx/\lVert x\rVert^2$, is the
simplest random landscape of statistical physics (the spherical model with pairs of spins). It is not convex, it has
$2n$ critical points, and everything about them is linear algebra.

**Critical points.** The gradient $(Jx - qx)/\lVert x\rVert^2$, $q = x^\top Jx/\lVert x\rVert^2$, vanishes at the
eigenvectors of $J$ and nowhere else. The Hessian at any $x$ is, with $g$ the gradient,

$$H = \frac{J - qI - 2(xg^\top + gx^\top)}{\lVert x\rVert^2},$$

so that at the $k$-th lowest eigenvector, of length 1, its eigenvalues are $\lambda_j - \lambda_k$, and 0 along $x$
(the length does not matter). Exactly $k - 1$ of them are negative: **the index grows with the energy**, every saddle
has a way down to the lowest pair of points $\pm v_1$, and no other minimum exists.

**Energies.** With entries of variance $1/n$ the eigenvalues fill Wigner's semicircle from $-2$ to 2. The lowest lies
at $-2 + 1.2065\,n^{-2/3}$ on average, with a standard deviation of $1.268\,n^{-2/3}$ (Tracy and Widom); the share of
negative directions at energy $\lambda/2$ is the part of the semicircle below $\lambda$.

**What to vary.** `level` ($k$), `dimension`, and `tilt`: how far from the critical point the objective is taken.

Sources: Kosterlitz, Thouless, Jones 1976 (Phys. Rev. Lett. 36:1217); Fyodorov 2004, arXiv cond-mat/0401287; Tracy,
Widom 1996 (Commun. Math. Phys. 177:727).
Ledger: 4.17.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.records import Measurement
from geartrain.run import Run
from geartrain.zoo._base import Toy, Truth, trial_result
from geartrain.zoo._descent import STEPS, Path, motion_truths
from geartrain.zoo._matrices import curvature_truths
from geartrain.zoo.curvature.quadratic import Halves

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SOURCE = "H = (J - q - 2(xgᵀ + gxᵀ))/|x|²: at an eigenvector its eigenvalues are λⱼ - λₖ (textbook)."
_EDGE = "Tracy, Widom 1996: mean -1.2065 and deviation 1.268 of the law for real symmetric matrices."
_TRACY_WIDOM = -1.2065336


@dataclass(frozen=True)
class SphericalSpin(Toy):
    """½ xᵀJx/|x|² for a random symmetric J, at or near one of its critical points.

    Attributes:
        dimension: n.
        level: Which critical point: 1 is the lowest.
        tilt: Length of a random step away from it.
        step: Step size of the run.
    """

    title: ClassVar[str] = "Spherical spins"
    ledger: ClassVar[tuple[str, ...]] = ("4.17",)

    dimension: int = 20
    level: int = 4
    tilt: float = 0.3
    step: float = 0.4

    def __post_init__(self) -> None:
        if not 4 <= self.dimension <= 200:
            raise InputError(f"dimension is {self.dimension}; allowed: 4 to 200.")
        if not 1 <= self.level <= self.dimension:
            raise InputError(f"level is {self.level}; allowed: 1 (the lowest) to {self.dimension}.")
        if not 0 < self.tilt <= 0.8 or not 0 < self.step <= 2:
            raise InputError(
                f"tilt is {self.tilt} and step {self.step}; allowed: above 0 to 0.8, and above 0 to 2."
            )

    # ------------------------------------------------------------------ how it is made

    @staticmethod
    def couplings(dimension: int, generator: torch.Generator) -> np.ndarray:
        """J: symmetric, Gaussian, variance 1/n off the diagonal and 2/n on it."""
        drawn = torch.randn(dimension, dimension, generator=generator, dtype=torch.float64).numpy()
        return (drawn + drawn.T) / math.sqrt(2 * dimension)

    @cached_property
    def matrix(self) -> np.ndarray:
        """J."""
        return self.couplings(self.dimension, self.generator())

    @cached_property
    def modes(self) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues, the lowest first, and eigenvectors in columns."""
        return np.linalg.eigh(self.matrix)

    @property
    def critical(self) -> np.ndarray:
        """The critical point, of length 1."""
        return self.modes[1][:, self.level - 1]

    @cached_property
    def point(self) -> np.ndarray:
        """Where the objective is taken."""
        source = self.generator().manual_seed(self.seed + 1)
        away = torch.randn(self.dimension, generator=source, dtype=torch.float64).numpy()
        return self.critical + self.tilt * away / np.linalg.norm(away)

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        """½ xᵀJx/|x|²; the data say nothing."""
        x = model()
        return 0.5 * (x @ torch.from_numpy(self.matrix) @ x) / (x @ x)

    def objective_at(self, x: np.ndarray) -> Objective:
        """The energy at this point."""
        return Objective(Halves(torch.from_numpy(x.copy())), data=[_NOTHING], batch_loss=self.loss)

    def make_objective(self) -> Objective:
        """The energy beside the critical point."""
        return self.objective_at(self.point)

    def make_run(self) -> Run:
        """Gradient descent from there."""
        model = Halves(torch.from_numpy(self.point.copy()))
        optimizer = torch.optim.SGD(model.parameters(), lr=self.step)
        return Run(model, optimizer=optimizer, train=[_NOTHING], batch_loss=self.loss, epochs=400)

    # ------------------------------------------------------------------ what is known

    @property
    def index(self) -> int:
        """Number of ways down from the critical point."""
        return self.level - 1

    def energy(self, x: np.ndarray) -> float:
        """L."""
        return float(0.5 * (x @ self.matrix @ x) / (x @ x))

    def gradient(self, x: np.ndarray) -> np.ndarray:
        """(Jx - qx)/|x|²."""
        return (self.matrix @ x - 2 * self.energy(x) * x) / (x @ x)

    def hessian(self, x: np.ndarray) -> np.ndarray:
        """(J - q - 2(xgᵀ + gxᵀ))/|x|², g the gradient."""
        mixed = np.outer(x, self.gradient(x))
        return (self.matrix - 2 * self.energy(x) * np.eye(len(x))) / (x @ x) - 2 * (mixed + mixed.T) / (x @ x)

    def path(self) -> Path:
        """The next steps of the run."""
        points = [self.point]
        for _ in range(STEPS):
            points.append(points[-1] - self.step * self.gradient(points[-1]))
        gradients, losses = [self.gradient(x) for x in points], [self.energy(x) for x in points]
        half = (self.dimension + 1) // 2
        layers = (half, self.dimension - half)
        return Path(
            np.array(points),
            np.array(gradients),
            np.array(losses),
            self.hessian(self.point),
            self.step,
            layers,
        )

    def truths(self) -> dict[str, Truth]:
        """Curvature and motion beside the critical point, the spectrum at it, the energies of many landscapes."""
        half = (self.dimension + 1) // 2
        layers = (half, self.dimension - half)
        hessian, gradient = self.hessian(self.point), self.gradient(self.point)
        truths = curvature_truths(hessian, gradient, layers=layers, source=_SOURCE)
        truths |= motion_truths(self.path(), 1)
        whole = {"num_products": self.dimension}
        for name in ("hessian_diagonal", "hessian_trace"):
            truths[name] = replace(truths[name], options=whole)
        return truths | self._at_critical_point() | self._along_lines() | self._landscapes()

    def _at_critical_point(self) -> dict[str, Truth]:
        """λⱼ - λₖ, and 0 along the point itself."""
        values = np.sort(self.modes[0] - self.modes[0][self.level - 1])
        given = partial(Truth, source=_SOURCE, subject=_at_critical)
        every = {"k": self.dimension, "tol": 1e-9, "confirm": True}
        return {
            "hessian_spectrum.critical": given(values[::-1], instrument="hessian_spectrum", options=every),
            "hessian_spectrum.index": given(
                float(self.index),
                0.0,
                instrument="hessian_spectrum",
                options=every,
                extract=lambda found: (found < -1e-7).sum(),
            ),
            "hessian_density.critical": given(
                float((values < -1e-4 * np.abs(values).max()).mean()), reading="negative_mass"
            ),
            "hessian_trace.critical": given(float(values.sum()), options={"num_products": self.dimension}),
            "negative_curvature.critical": given(values[:3], options={"tol": 1e-8}),
        }

    def _along_lines(self) -> dict[str, Truth]:
        """The energy on lines through the critical point, and over to the ground state."""
        values, vectors = self.modes
        at, low, lowest = self.critical, values[0], vectors[:, 0]
        mine, t = values[self.level - 1], np.linspace(-1, 1, 11)
        other = vectors[:, -1] if self.level < self.dimension else lowest
        above = float(other @ self.matrix @ other)
        given = partial(Truth, source="½((1-t)²λ + t²μ)/((1-t)² + t²) between eigenvectors.")
        s = np.linspace(0, 1, 11)
        line = 0.5 * ((1 - s) ** 2 * mine + s**2 * low) / ((1 - s) ** 2 + s**2)
        half = (self.dimension + 1) // 2
        parts = self.point[:half], self.point[half:]
        found = {
            "loss_slice": given(
                0.5 * (mine + t**2 * above) / (1 + t**2),
                subject=_at_critical,
                options={"direction": torch.from_numpy(other.copy()), "points": 11},
            ),
            "weight_norm": given(np.array([np.linalg.norm(p) for p in parts]), source="Definition."),
            "distance_from_init": given(
                float(np.linalg.norm(self.point - at)), other=_at_critical, source="The tilt."
            ),
        }
        if self.level > 1:
            found["linear_connectivity"] = given(
                line - (1 - s) * 0.5 * mine - s * 0.5 * low,
                reading="excess",
                error="none",
                subject=_at_critical,
                other=_at_ground,
            )
        return found

    def _landscapes(self) -> dict[str, Truth]:
        n = 150
        return {
            "lowest_energy": Truth(
                0.5 * (-2 - _TRACY_WIDOM * n ** (-2 / 3)),
                0.005,
                assumptions=f"{n} dimensions, 24 landscapes; corrections of order 1/n.",
                source=_EDGE,
                trial=lambda g: self._lowest(n, g),
            ),
            "loss": Truth(
                0.5 * float(self.modes[0][self.level - 1]),
                1e-12,
                source="½λₖ.",
                trial=lambda g: self._loss_there(),
            ),
        }

    def _lowest(self, dimension: int, generator: torch.Generator, draws: int = 24) -> Measurement:
        found = [0.5 * np.linalg.eigvalsh(self.couplings(dimension, generator))[0] for _ in range(draws)]
        return trial_result(
            "lowest_energy", np.mean(found), np.std(found, ddof=1) / math.sqrt(draws), unit="ℓ"
        )

    def _loss_there(self) -> Measurement:
        return trial_result("loss", float(self.objective_at(self.critical).value()), unit="ℓ")

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """Share of negative directions over the energy of all critical points."""
        axes = figure.add_subplot()
        values = self.modes[0]
        axes.plot(values / 2, np.arange(self.dimension) / self.dimension, "o", label="critical points")
        at = np.linspace(-2, 2, 200)
        share = 0.5 + at * np.sqrt(4 - at**2) / (4 * np.pi) + np.arcsin(at / 2) / np.pi
        axes.plot(at / 2, share, "k:", label="semicircle")
        axes.plot(
            values[self.level - 1] / 2, self.index / self.dimension, "o", color="C3", label="measured here"
        )
        axes.set(xlabel="energy (ℓ)", ylabel="share of negative directions", title=self.title)
        axes.legend()


_NOTHING = torch.zeros(1, 1, dtype=torch.float64)


def _at_critical(toy: SphericalSpin) -> Objective:
    return toy.objective_at(toy.critical)


def _at_ground(toy: SphericalSpin) -> Objective:
    return toy.objective_at(toy.modes[1][:, 0])


TOY = SphericalSpin

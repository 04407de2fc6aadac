r"""Nearest neighbours on a sheet: interpolation in the true dimension.

Data with many coordinates often lie on a sheet of few dimensions. A nearest-neighbour average, the plainest kind of
interpolation, knows nothing of that, and yet its error depends on the sheet only. This is the null model for the
claim that networks *do nothing but interpolate*: what a network does better than this needs another explanation.

**On a flat sheet** with $\rho$ points per unit area and a label that is linear with slope $g$, the average of the
$k$ nearest labels errs by $g\cdot$(mean offset of the neighbours). Given the distance $r$ to neighbour $k+1$, the
$k$ others lie uniformly in the disc of radius $r$, where the mean square offset along any direction is $r^2/4$.
Hence $E[\text{error}^2] = \lVert g\rVert^2 E[r^2]/(4k)$, and random points have $E[r^2] = (k+1)/(\pi\rho)$:

$$E[\text{error}^2] = \lVert g\rVert^2\,\frac{k+1}{4\pi\rho k}.$$

It falls as $1/\rho$, in general as $n^{-2/\text{dimension}}$. And averaging hardly helps: infinitely many
neighbours are only twice as good as one, because more of them lie further away.

**How many dimensions?** Around a point in a sheet of dimension $D$ the number of neighbours grows as $r^D$, so the
logarithm of the ratio of the distances to the second and to the first neighbour is exponential with mean $1/D$,
whatever the density and the number of coordinates.

**A sheet without edges** sits in four dimensions: $(\cos\alpha, \sin\alpha, \cos\beta, \sin\beta)$ is flat, with
area $4\pi^2$. A label $y = a\cdot x$ is a sum of waves of length $2\pi$ on it, whose mean square slope equals its
variance $\sigma^2$. With $R$ the radius of the disc that holds $k$ neighbours, their mean has the error

$$\frac{E[\text{error}^2]}{\sigma^2} = E\Bigl[\frac{2 - 2\gamma(R)}{k}
+ \Bigl(1 - \frac1k\Bigr)(1-\gamma(R))^2\Bigr],
\qquad \gamma(R) = \frac{2J_1(R)}{R} \approx 1 - \frac{R^2}{8} + \frac{R^4}{192},$$

and $\pi\rho R^2$ follows a gamma distribution of shape $k+1$. To first order this is the formula above: the
instrument's score $1 - \text{MSE}/(\sigma^2(1 + 1/k))$ is then $1 - \pi/n$, without $k$ or $a$. The second order is
taken here as well.

**The instruments** also see the linear model $w\cdot x$ on these data, with $w = a/2$.

**What to vary.** `points`, `direction`, `slope` and `density`; the picture shows the law for several k.

Sources: textbook (Poisson process); Evans, Jones, Schmidt 2002 (Proc. R. Soc. A 458:2839) for the moments of
neighbour distances; Facco et al. 2017, arXiv 1803.06992, for the dimension from two neighbours.
Ledger: 3.1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from scipy.spatial import KDTree

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.records import Measurement
from geartrain.run import Run
from geartrain.zoo._base import Toy, Truth, trial_result
from geartrain.zoo._linear import LinearModel
from geartrain.zoo.representations._readout import readout_truths, stable_step

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NEIGHBOURS = (1, 3, 10)
"""k of the trial."""
_VOTERS = 5
"""k of the instruments."""
_ROWS = 512
"""Points at most that `feature_neighbours` is asked to take."""
_SECOND_ORDER = "The neighbours' mean of a wave on a flat sheet, to second order in k/n."


@dataclass(frozen=True)
class ManifoldKnn(Toy):
    """Nearest-neighbour averages on a flat sheet.

    Attributes:
        points: n, on the sheet in four dimensions that the instruments see.
        direction: a, the label there is a·x.
        slope: g, of the linear label on the flat square of the trial.
        density: ρ, points on that square, whose area is 1.
    """

    title: ClassVar[str] = "Nearest neighbours on a sheet"
    ledger: ClassVar[tuple[str, ...]] = ("3.1",)

    points: int = 800
    direction: tuple[float, float, float, float] = (1.0, 0.5, -0.5, 1.0)
    slope: tuple[float, float] = (1.0, 2.0)
    density: int = 20_000

    def __post_init__(self) -> None:
        if not 200 <= self.points <= 1000 or self.density < 1000:
            raise InputError(
                f"points is {self.points}, density {self.density}; allowed: 200 to 1000 points, a density of 1000 or "
                "more. On emptier sheets neighbours are not near."
            )
        if len(self.direction) != 4 or not all(self.direction) or len(self.slope) != 2 or not any(self.slope):
            raise InputError(
                f"direction is {self.direction}, slope {self.slope}; allowed: four numbers other than 0, and two that "
                "are not both 0."
            )

    # ------------------------------------------------------------------ how it is made

    @cached_property
    def linear(self) -> LinearModel:
        """Points (n, 4) on the sheet, their labels, and the model w = a/2."""
        turns = torch.rand(self.points, 2, generator=self.generator(), dtype=torch.float64).numpy()
        angles, a = 2 * math.pi * turns, np.array([self.direction])
        x = np.stack([np.cos(angles), np.sin(angles)], axis=2).reshape(-1, 4)
        return LinearModel(x, x @ a.T, a / 2)

    def make_objective(self) -> Objective:
        """½ mean (w·x - y)²."""
        return self.linear.objective()

    def make_run(self) -> Run:
        """Full-batch gradient descent; an epoch is a step."""
        return self.linear.run(stable_step(self.linear))

    # ------------------------------------------------------------------ what is known

    def error(self, k: int) -> float:
        """Mean squared error of the average of k neighbours on the square.

        >>> [round(ManifoldKnn().error(k) * 1e5, 3) for k in (1, 3, 10)]
        [3.979, 2.653, 2.188]
        """
        return (self.slope[0] ** 2 + self.slope[1] ** 2) * (k + 1) / (4 * math.pi * self.density * k)

    @staticmethod
    def unexplained(points: int, k: int = _VOTERS) -> float:
        """1 - score of the neighbours' mean on the sheet in four dimensions, to second order.

        >>> round(ManifoldKnn.unexplained(10**6) * 10**6 / math.pi, 3)
        1.0
        """
        crowd = (points - 1) / (4 * math.pi)  # πρ, the point itself left out
        second, fourth = (k + 1) / crowd, (k + 1) * (k + 2) / crowd**2
        left = (second / 4 - fourth / 96) / k + (1 - 1 / k) * fourth / 64
        return left / (1 + 1 / k)

    def truths(self) -> dict[str, Truth]:
        """Errors of neighbours on the sheet; the linear model on it."""
        half = min(_ROWS, self.points)
        agreement = Truth(
            self.unexplained(self.points),
            0.02,
            "Neighbours are near: third order in k/n is left out.",
            _SECOND_ORDER,
            extract=_missing,
        )
        return {
            **readout_truths(self.linear, _silent, _fitted),
            "knn_error": Truth(
                np.array([self.error(k) for k in NEIGHBOURS]),
                assumptions="No edge (a flat torus), random points.",
                source="‖g‖²(k + 1)/(4πρk), from the moments of a Poisson process.",
                trial=self._average,
            ),
            "dimension": Truth(
                2.0, 0.01, source="Facco et al. 2017, arXiv 1803.06992.", trial=self._dimension
            ),
            "neighbour_agreement": agreement,
            "feature_neighbours": replace(
                agreement,
                value=self.unexplained(half),
                extract=_missing_of_inputs,
                options={"rows": _ROWS},
            ),
            "linear_separability": Truth(
                1.0, 1e-3, source="The label is linear in the coordinates.", extract=_first
            ),
        }

    def _average(self, generator: torch.Generator) -> Measurement:
        """Mean squared error for k = 1, 3, 10 on a torus; the label is taken relative to the point itself."""
        x = torch.rand(self.density, 2, generator=generator, dtype=torch.float64).numpy()
        near = np.asarray(KDTree(x, boxsize=1.0).query(x, k=max(NEIGHBOURS) + 1)[1])[:, 1:]
        offsets = (x[near] - x[:, None] + 0.5) % 1.0 - 0.5
        labels = offsets @ np.array(self.slope)
        squares = np.stack([labels[:, :k].mean(1) ** 2 for k in NEIGHBOURS])
        # Points share neighbours: take the spread over 100 squares of the sheet instead of over points.
        cells = (x * 10).astype(int) @ np.array([10, 1])
        sums, sizes = (
            np.stack([np.bincount(cells, s, 100) for s in squares]),
            np.bincount(cells, minlength=100),
        )
        mean = squares.mean(1)
        errors = np.sqrt(((sums - mean[:, None] * sizes) ** 2).sum(1)) / len(x)
        return trial_result("knn_error", mean, errors)

    def _dimension(self, generator: torch.Generator) -> Measurement:
        """Dimension of fresh points on the sheet in four dimensions, from the ratio of two neighbours' distances."""
        angles = 2 * math.pi * torch.rand(self.density, 2, generator=generator, dtype=torch.float64).numpy()
        x = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
        distances = KDTree(x).query(x, k=3)[0][:, 1:]
        logs = np.log(distances[:, 1] / distances[:, 0])
        found = 1 / logs.mean()
        # Neighbours share distances: mutual nearest neighbours are 62 % of the plane, so at most two logs go together.
        error = found**2 * logs.std(ddof=1) * math.sqrt(2 / len(logs))
        return trial_result("dimension", found, error)

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """Error against the number of points, for several k."""
        axes, sizes = figure.add_subplot(), (1000, 4000, 16_000)
        toys = [replace(self, density=size) for size in sizes]
        found = np.array([t._average(self.generator()).value for t in toys])
        for place, k in enumerate(NEIGHBOURS):
            (line,) = axes.loglog(sizes, [t.error(k) for t in toys], label=f"theory, k = {k}")
            axes.loglog(sizes, found[:, place], "o", color=line.get_color())
        axes.set(
            xlabel="points per unit area", ylabel="mean squared error", title=f"{self.title}: dots are random"
        )
        axes.legend()


def _missing(value: np.ndarray) -> np.ndarray:
    return 1 - value


def _missing_of_inputs(value: np.ndarray) -> float:
    return float(1 - value[0])


def _first(value: np.ndarray) -> float:
    return float(value[0])


def _silent(toy: ManifoldKnn) -> Objective:
    return toy.linear.objective(np.zeros((1, 4)))


def _fitted(toy: ManifoldKnn) -> Objective:
    return toy.linear.objective(toy.linear.minimum)


TOY = ManifoldKnn

r"""Fourier analysis on the cube: a function as a sum of parities, and how far apart they lie.

Every function of $d$ signs $x_i = \pm1$ is a sum of parities: $f = \sum_S \hat f(S)\chi_S$ with $\chi_S(x) =
\prod_{i\in S} x_i$. This is the Fourier transform of yes-or-no inputs. The $2^d$ parities are orthonormal (the mean of
$\chi_S\chi_T$ over the cube is 1 if $S = T$, else 0), so $\hat f(S)$ is the mean of $f\chi_S$, and $\sum\hat f(S)^2$ is
the mean of $f^2$ (Parseval).

**Leap.** A network can climb from a term that it has to one with few new coordinates. The leap of $f$ is the largest
number of *new* coordinates that any term brings, in the best order:
$$\min_{\text{orders}} \max_i |S_i \setminus (S_1\cup\dots\cup S_{i-1})|.$$
$x_1 + x_1x_2 + x_1x_2x_3$ is a staircase of leap 1; $x_1x_2x_3$ alone has leap 3. Stochastic gradient descent is
believed to need about $d^{\,\text{leap}-1}$ steps.

**The model here** has one parameter for each parity up to a degree, $f_\theta = \sum_S \theta_S\chi_S$, with the loss
$\tfrac12\overline{(f_\theta - f)^2}$ over the whole cube. Because parities are orthonormal, all is simple: the loss
is $\tfrac12\|\theta - \hat f\|^2$, its Hessian the identity, the tangent kernel of the cube $2^d$ times a projection.
The gradient of a single example is its residual times the signs $\chi_S(x)$. So every instrument that looks at
gradients, curvature or kernels has an answer in closed form.

**What to vary.** `sets` (leap, degree), `d`, and how far from the solution the parameters `start`.

Sources: Abbe, Boix-Adserà, Misiakiewicz 2023, arXiv 2302.11055 (leap); O'Donnell, *Analysis of Boolean Functions*
(2014).
Ledger: 1.8.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.zoo import _matrices
from geartrain.zoo._base import Toy, Truth, trial_result
from geartrain.zoo._losses import half_square
from geartrain.zoo.functions._shallow import cube

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from geartrain.records import Measurement

Sets = tuple[tuple[int, ...], ...]
_SOURCE = "Parities are orthonormal over the cube."


class Parities(nn.Module):
    """Σ_S θ_S Π_{i∈S} x_i over given sets, each a row of ``belongs``, shape (sets, d)."""

    belongs: Tensor

    def __init__(self, theta: np.ndarray, belongs: np.ndarray) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.from_numpy(theta))
        self.register_buffer("belongs", torch.from_numpy(belongs))

    def forward(self, x: Tensor) -> Tensor:
        """Values at points of shape (examples, d)."""
        return torch.where(self.belongs, x[:, None], 1.0).prod(-1) @ self.theta[:, None]


@dataclass(frozen=True)
class HypercubeFourier(Toy):
    """A function on the cube, learnt coefficient by coefficient.

    Attributes:
        d: Number of inputs, 2 to 10.
        sets: The sets S of its terms.
        coefficients: Their f̂(S); 1 each by default.
        degree: The model has the parities of sets of at most this size; from the largest set to d.
        start: Spread of the parameters, which are f̂ plus that much noise.
        seed: Draws the noise.
    """

    title: ClassVar[str] = "Fourier analysis on the cube"
    ledger: ClassVar[tuple[str, ...]] = ("1.8",)

    d: int = 5
    sets: Sets = ((0,), (0, 1), (0, 1, 2))
    coefficients: tuple[float, ...] | None = None
    degree: int = 3
    start: float = 0.3

    def __post_init__(self) -> None:
        if not 2 <= self.d <= 10:
            raise InputError(f"d is {self.d}; allowed: 2 to 10 (all 2^d points are used).")
        flat = [tuple(sorted(s)) for s in self.sets]
        if not flat or len(set(flat)) < len(flat) or not all(flat):
            raise InputError(f"sets is {self.sets}; allowed: one or more different sets that are not empty.")
        if any(len(set(s)) < len(s) or not set(s) <= set(range(self.d)) for s in flat):
            raise InputError(
                f"sets is {self.sets}; allowed: different coordinates from 0 to d - 1 = {self.d - 1}."
            )
        if self.coefficients is not None and (
            len(self.coefficients) != len(flat) or 0.0 in self.coefficients
        ):
            raise InputError(
                f"coefficients is {self.coefficients}; allowed: one number other than 0 for each set."
            )
        largest = max(map(len, flat))
        if not largest <= self.degree <= self.d:
            raise InputError(
                f"degree is {self.degree}; allowed: from the largest set, {largest}, to d = {self.d}."
            )
        if not self.start > 0:
            raise InputError(
                f"start is {self.start}; allowed: above 0 (at the solution there is no gradient)."
            )

    # ------------------------------------------------------------------ how it is made

    @cached_property
    def points(self) -> np.ndarray:
        """The whole cube, shape (2^d, d)."""
        return cube(self.d)

    @cached_property
    def belongs(self) -> np.ndarray:
        """The model's sets, shape (params, d)."""
        every = members(self.d)
        return every[every.sum(1) <= self.degree]

    @cached_property
    def solution(self) -> np.ndarray:
        """f̂ of the model's sets, shape (params,)."""
        numbers = self.belongs @ (1 << np.arange(self.d))
        wanted = dict(zip(map(_number, self.sets), self.coefficients or [1.0] * len(self.sets), strict=True))
        return np.array([wanted.get(int(i), 0.0) for i in numbers])

    @cached_property
    def theta(self) -> np.ndarray:
        """The parameters, shape (params,)."""
        noise = torch.randn(len(self.solution), generator=self.generator(), dtype=torch.float64).numpy()
        return self.solution + self.start * noise

    @cached_property
    def values(self) -> np.ndarray:
        """F on the whole cube, shape (2^d,)."""
        return parities(self.points, self.belongs) @ self.solution

    def make_objective(self) -> Objective:
        """½ mean (f_θ - f)² over the cube."""
        data = torch.from_numpy(self.points), torch.from_numpy(self.values)[:, None]
        return Objective(Parities(self.theta, self.belongs), half_square, data)

    # ------------------------------------------------------------------ what is known

    def truths(self) -> dict[str, Truth]:
        """Everything follows from orthonormality."""
        gradient = self.theta - self.solution
        size, loss = len(gradient), 0.5 * float(gradient @ gradient)
        features, identity = parities(self.points, self.belongs), np.eye(size)
        rows = (features @ gradient)[:, None] * features
        curvature = _matrices.curvature_truths(identity, gradient, loss=loss, layers=[size], source=_SOURCE)
        # With a product for each parameter the diagonal is exact.
        curvature["hessian_diagonal"] = Truth(
            np.ones(size), source=_SOURCE, options={"num_products": max(size, 2)}
        )
        return {
            "coefficients": Truth(self.solution, 1e-12, source=_SOURCE, trial=self._transformed),
            "weight_norm": Truth(np.array([np.linalg.norm(self.theta)]), source="Definition."),
            "loss_slice": _matrices.parabola(loss, gradient, identity, np.ones(size) / math.sqrt(size)),
            "symmetry_orbit_dimension": Truth(0.0, source="Parities are linearly independent."),
            **self._function_truths(),
            **self._data_truths(),
            **_matrices.linear_pair_truths(self.theta, self.solution / 2, _half),
            **curvature,
            **_matrices.example_truths(rows, identity, layers=[size], source=_SOURCE),
            **_matrices.kernel_truths(features[:, None], self.values[:, None], source=_SOURCE),
        }

    def _function_truths(self) -> dict[str, Truth]:
        """Degrees and leap; distances from the second state, the model with half of the solution."""
        theta, goal, degrees = self.theta, self.solution, self.belongs.sum(1)
        shares = np.bincount(degrees, theta**2, minlength=self.d + 1) / (theta @ theta)
        apart = theta - goal / 2
        mean_square = 0.5 * (theta @ theta + goal @ goal / 4)
        return {
            "walsh_spectrum": Truth(shares, source=_SOURCE),
            "walsh_spectrum.mean_degree": Truth(
                float(shares @ np.arange(self.d + 1)), source=_SOURCE, reading="mean_degree"
            ),
            "leap": Truth(
                float(leap(self.sets)),
                0.0,
                source="Best order, by trying all.",
                options={"max_degree": self.d},
            ),
            "function_distance": Truth(
                float(np.sqrt(apart @ apart / mean_square)), source="Parseval.", other=_half
            ),
            "prediction_disagreement": Truth(
                float(apart @ apart / (goal @ goal)), source="Parseval.", other=_half, strict=True
            ),
        }

    def _data_truths(self) -> dict[str, Truth]:
        """What the cube and the targets alone decide; the targets have mean 0 and variance |f̂|²."""
        variance = float(self.solution @ self.solution)
        truths = {
            "constant_loss": Truth(0.5 * variance, 1e-5, source="Parseval."),
            "target_scale": Truth(math.sqrt(variance), source="Parseval.", strict=True),
            "feature_scales": Truth(1.0, source="Every input is ±1 equally often."),
            "label_disagreement_floor": Truth(0.0, source="No point occurs twice."),
        }
        if self.d >= 4:  # the instrument asks for ten examples
            truths["input_conditioning.raw_condition"] = Truth(
                1.0, source="Inputs are orthonormal.", reading="raw_condition"
            )
        return truths

    def _transformed(self, generator: torch.Generator) -> Measurement:
        """Coefficients of the targets by the fast transform of the table of values."""
        table = self.values.reshape([2] * self.d)  # axis i: x_i = -1, then +1
        for axis in range(self.d):
            low, high = np.take(table, 0, axis), np.take(table, 1, axis)
            table = np.stack([(high + low) / 2, (high - low) / 2], axis)
        return trial_result("coefficients", [table[tuple(row)] for row in self.belongs.astype(int)])

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """Coefficients of target and model, by the size of their sets."""
        axes = figure.add_subplot()
        order = np.argsort(self.belongs.sum(1), kind="stable")
        degrees = self.belongs.sum(1)[order]
        axes.stem(
            np.arange(len(order)), self.solution[order], markerfmt="o", basefmt=" ", label="target f̂(S)"
        )
        axes.plot(np.arange(len(order)), self.theta[order], ".", color="tab:orange", label="model θ(S)")
        for edge in np.flatnonzero(np.diff(degrees)):
            axes.axvline(edge + 0.5, color="lightgrey", lw=1)
        axes.set(xlabel="sets S, by size (lines: one element more)", ylabel="coefficient")
        axes.set_title(f"leap {leap(self.sets)}")
        axes.legend()


def members(d: int) -> np.ndarray:
    """Whether i lies in set number s (bit i of s), shape (2^d, d)."""
    return (np.arange(2**d)[:, None] >> np.arange(d) & 1).astype(bool)


def parities(points: np.ndarray, belongs: np.ndarray) -> np.ndarray:
    """χ_S(x) of sets, rows of ``belongs``, at points of shape (n, d); shape (n, sets)."""
    return np.where(belongs, points[:, None], 1.0).prod(-1)


def leap(sets: Sets) -> int:
    """The leap, by trying every next term after every union of earlier ones (their order does not matter).

    >>> leap(((0,), (0, 1, 2))), leap(((0, 1), (2, 3), (0, 1, 2, 3))), leap(())
    (2, 2, 0)
    """
    terms = [frozenset(s) for s in sets]

    @functools.cache
    def from_here(seen: frozenset[int]) -> int:
        left = [s for s in terms if not s <= seen]
        return min((max(len(s - seen), from_here(seen | s)) for s in left), default=0)

    return from_here(frozenset())


def _half(toy: HypercubeFourier) -> Tensor:
    return torch.from_numpy(toy.solution / 2)


def _number(s: tuple[int, ...]) -> int:
    return sum(1 << i for i in s)


TOY = HypercubeFourier

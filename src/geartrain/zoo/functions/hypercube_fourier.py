"""# Fourier analysis on the cube: a function as a sum of parities

Every function of d signs x_i = ±1 is a sum of parities, f = Σ_S f̂(S) χ_S with χ_S(x) = Π_{i∈S} x_i: the Fourier transform of
yes-or-no inputs. The 2^d parities are orthonormal (the mean of χ_S χ_T over the cube is 1 if S = T, else 0), so that
f̂(S) is the mean of f χ_S, and Σ f̂(S)² = mean f² (Parseval).

**Leap.** A network can climb from a known term to one with few new coordinates. The leap of f is the largest number of *new*
coordinates that any term brings, in the best order: min over orders of max_i |S_i minus (S_1 ∪ ... ∪ S_(i-1))|. x₁ + x₁x₂ + x₁x₂x₃ is a
staircase of leap 1; x₁x₂x₃ alone has leap 3. Stochastic gradient descent needs about d^(leap - 1) steps.

**The model here** has one parameter θ_S for each parity up to a degree: f_θ = Σ_S θ_S χ_S, with the loss ½ mean (f_θ - f)² over the whole cube. Because
parities are orthonormal, everything is simple: the loss is ½|θ - f̂|², its Hessian the identity, the tangent kernel on
the cube 2^d times a projection. The gradient of a single example is its residual times the signs χ_S(x): every instrument that
looks at gradients, curvature or kernels has an answer in closed form here.

**What to vary.** The terms (leap, degree), the number d of inputs, and how far from the solution the parameters start.

Sources: Abbe, Boix-Adserà, Misiakiewicz 2023, arXiv:2302.11055 (leap); O'Donnell, *Analysis of Boolean Functions* (2014).
Ledger: T34
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.zoo import _matrices
from geartrain.zoo._base import Toy, Truth, trial_result
from geartrain.zoo._losses import half_square

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from geartrain.records import Measurement

Sets = tuple[tuple[int, ...], ...]
_SOURCE = "Parities are orthonormal over the cube."


class Parities(nn.Module):
    """Σ_S θ_S Π_{i∈S} x_i over given sets, each a row of ``belongs``, shape (sets, d)."""

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
        degree: The model has the parities of sets of at most this size; 1 to d.
        start: Spread of the parameters, which are f̂ plus that much noise.
        seed: Draws the noise.
    """

    title: ClassVar[str] = "Fourier analysis on the cube"
    ledger: ClassVar[tuple[str, ...]] = ("T34",)

    d: int = 5
    sets: Sets = ((0,), (0, 1), (0, 1, 2))
    coefficients: tuple[float, ...] | None = None
    degree: int = 3
    start: float = 0.3

    def __post_init__(self) -> None:
        """Refuse what is no function on the cube."""
        if not 2 <= self.d <= 10:
            raise InputError(f"d is {self.d}; allowed: 2 to 10 (all 2^d points are used).")
        flat = [tuple(sorted(s)) for s in self.sets]
        if not flat or len(set(flat)) < len(flat) or not all(flat):
            raise InputError(f"sets is {self.sets}; allowed: one or more different sets that are not empty.")
        if any(len(set(s)) < len(s) or not set(s) <= set(range(self.d)) for s in flat):
            raise InputError(f"sets is {self.sets}; allowed: different coordinates from 0 to d - 1 = {self.d - 1}.")
        if self.coefficients is not None and (len(self.coefficients) != len(flat) or 0.0 in self.coefficients):
            raise InputError(f"coefficients is {self.coefficients}; allowed: one number other than 0 for each set.")
        if not max(map(len, flat)) <= self.degree <= self.d:
            raise InputError(
                f"degree is {self.degree}; allowed: from the largest set, {max(map(len, flat))}, to d = {self.d}."
            )
        if not self.start > 0:
            raise InputError(f"start is {self.start}; it must be positive (at the solution there is no gradient).")

    def points(self) -> np.ndarray:
        """The whole cube, shape (2^d, d)."""
        return np.array(list(itertools.product((-1.0, 1.0), repeat=self.d)))

    def belongs(self) -> np.ndarray:
        """The model's sets, shape (params, d)."""
        every = members(self.d)
        return every[every.sum(1) <= self.degree]

    def solution(self) -> np.ndarray:
        """f̂ of the model's sets, shape (params,)."""
        numbers = self.belongs() @ (1 << np.arange(self.d))
        wanted = dict(zip(map(_number, self.sets), self.coefficients or [1.0] * len(self.sets), strict=True))
        return np.array([wanted.get(int(i), 0.0) for i in numbers])

    def theta(self) -> np.ndarray:
        """The parameters, shape (params,)."""
        goal = self.solution()
        noise = torch.randn(len(goal), generator=self.generator(), dtype=torch.float64).numpy()
        return goal + self.start * noise

    def make_objective(self) -> Objective:
        """½ mean (f_θ - f)² over the cube."""
        x = torch.from_numpy(self.points())
        with torch.no_grad():
            targets = Parities(self.solution(), self.belongs())(x)
        return Objective(Parities(self.theta(), self.belongs()), half_square, (x, targets))

    def truths(self) -> dict[str, Truth]:
        """Spectra, noise, kernels and distances, all from orthonormality."""
        theta, goal = self.theta(), self.solution()
        size, features = len(theta), parities(self.points(), self.belongs())
        apart = theta - goal / 2  # from the second state
        gradient, identity = theta - goal, np.eye(size)
        loss, degrees = 0.5 * float(gradient @ gradient), self.belongs().sum(1)
        shares = np.bincount(degrees, theta**2, minlength=self.d + 1) / (theta @ theta)
        varied = goal**2 * (degrees > 0)
        rows = (features @ gradient)[:, None] * features
        ray = np.ones(size) / math.sqrt(size)
        pair = {"other": _half}
        return {
            "coefficients": Truth(goal, tolerance=1e-12, source=_SOURCE, trial=self.transformed),
            "walsh_spectrum": Truth(shares, source=_SOURCE),
            "walsh_spectrum.mean_degree": Truth(
                float(shares @ np.arange(self.d + 1)), source=_SOURCE, reading="mean_degree"
            ),
            "leap": Truth(float(leap(self.sets)), source="Brute force over orders.", options={"max_degree": self.d}),
            "weight_norm": Truth(np.array([np.linalg.norm(theta)]), source="Definition."),
            "loss_slice": _matrices.parabola(loss, gradient, identity, ray),
            "function_distance": Truth(
                float(np.linalg.norm(apart) / math.sqrt(0.5 * (theta @ theta + goal @ goal / 4))),
                source="Parseval.",
                **pair,
            ),
            "prediction_disagreement": Truth(
                float(apart @ apart / varied.sum()), source="Parseval.", **pair
            ),
            "constant_loss": Truth(0.5 * float(varied.sum()), tolerance=1e-5, source="Parseval."),
            "target_scale": Truth(
                max(math.sqrt(varied.sum()), abs(goal[0])), tolerance=0.01, assumptions="n or n - 1.", source="Parseval."
            ),
            "feature_scales": Truth(1.0, source="Every input is ±1 equally often."),
            "input_conditioning.raw_condition": Truth(
                1.0, source="Inputs are orthonormal.", reading="raw_condition"
            ),
            "label_disagreement_floor": Truth(0.0, source="No point occurs twice."),
            "symmetry_orbit_dimension": Truth(0.0, source="Parities are linearly independent."),
            **_matrices.linear_pair_truths(theta, goal / 2, _half),
            **_matrices.curvature_truths(identity, gradient, loss=loss, layers=[size], source=_SOURCE),
            **_matrices.example_truths(rows, identity, layers=[size], source=_SOURCE),
            **_matrices.kernel_truths(features[:, None], self.values()[:, None], source=_SOURCE),
        }

    def values(self) -> np.ndarray:
        """f on the whole cube, shape (2^d,)."""
        return parities(self.points(), self.belongs()) @ self.solution()

    def transformed(self, generator: torch.Generator) -> Measurement:
        """Coefficients of the targets by the fast transform of the table of values."""
        table = self.values().reshape([2] * self.d)  # axis i: x_i = -1, then +1
        for axis in range(self.d):
            low, high = np.take(table, 0, axis), np.take(table, 1, axis)
            table = np.stack([(high + low) / 2, (high - low) / 2], axis)
        order = self.belongs().astype(int)
        return trial_result("coefficients", [table[tuple(row)] for row in order])

    def draw(self, figure: Figure) -> None:
        """Coefficients of target and model, by the size of their sets."""
        axes = figure.add_subplot()
        order = np.argsort(self.belongs().sum(1), kind="stable")
        degrees = self.belongs().sum(1)[order]
        axes.stem(np.arange(len(order)), self.solution()[order], markerfmt="o", basefmt=" ", label="target f̂(S)")
        axes.plot(np.arange(len(order)), self.theta()[order], ".", color="tab:orange", label="model θ(S)")
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


def _half(toy: HypercubeFourier) -> Tensor:
    return torch.from_numpy(toy.solution() / 2)


def _number(s: tuple[int, ...]) -> int:
    return sum(1 << i for i in s)


def leap(sets: Sets) -> int:
    """The leap, by trying every order of the terms.

    >>> leap(((0,), (0, 1, 2))), leap(((0, 1), (2, 3), (0, 1, 2, 3)))
    (2, 2)
    """

    def most_new(order: tuple[tuple[int, ...], ...]) -> int:
        seen: set[int] = set()
        most = 0
        for s in order:
            most, seen = max(most, len(set(s) - seen)), seen | set(s)
        return most

    return min(most_new(order) for order in itertools.permutations(sets))


TOY = HypercubeFourier
